// Makes elements from texts. No file of the page turns a string into HTML.

// An element. Properties that begin with "on" are listeners; true and false say whether an attribute
// exists. Children are nodes or texts; null is left out.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// An element of a drawing, with its attributes.
export function s(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// The address of a view from its parameters; it always stays on this page.
export function address(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null);
  return `?${new URLSearchParams(given)}`;
}

// A link to a view.
export function link(parameters, properties, ...children) {
  return h("a", { ...properties, href: address(parameters) }, ...children);
}
