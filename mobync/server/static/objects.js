// The objects that an owner has now, model by model.

import { get } from "./api.js";
import { address, h, link } from "./dom.js";
import { tabs } from "./tabs.js";
import { count, plural, visible } from "./text.js";

export async function showObjects(main, { owner, model, find }, signal) {
  const about = await get("clock", { owner }, signal);
  const { models } = await get("models", { owner }, signal);
  const chosen = model ?? models[0]?.model ?? null;
  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true }, "More objects");
  const state = h("p", { class: "quiet", role: "status" });
  let after = null;

  async function load() {
    more.disabled = true;
    try {
      const page = await get("objects", { owner, model: chosen, after, find }, signal);
      after = page.next;
      body.append(...page.objects.map((object) => row(owner, chosen, object)));
      more.hidden = after === null;
      tell();
    } finally {
      more.disabled = false;
    }
  }

  function tell() {
    const shown = plural(body.childElementCount, "object", "objects");
    if (find === null) state.textContent = after === null ? `${shown}.` : `The first ${shown}, by their ids.`;
    else if (after === null) state.textContent = `Found ${shown}.`;
    else state.replaceChildren(`Found ${shown} up to `, h("bdi", { class: "id" }, visible(after)), ".");
    more.textContent = find === null ? "More objects" : "Look further";
    place.hidden = body.childElementCount === 0;
  }

  const place = table(body);
  if (chosen !== null) await load();
  more.addEventListener("click", () =>
    load().catch((error) => {
      if (!signal.aborted) state.textContent = error.message;
    }),
  );
  main.replaceChildren(
    h("h1", {}, "Objects of ", h("bdi", {}, visible(owner))),
    tabs(owner, "objects", about),
    chosen === null
      ? h("p", { class: "empty" }, "This owner has no objects.")
      : h("nav", { class: "models", "aria-label": "Models" }, ...models.map((one) => choice(owner, one, chosen))),
    chosen === null ? "" : findForm(owner, chosen, find),
    chosen === null ? "" : place,
    state,
    more,
  );
}

function findForm(owner, model, find) {
  const field = h("input", {
    id: "find",
    type: "search",
    value: find ?? "",
    placeholder: "an id, a field or a value",
  });
  const search = (event) => {
    event.preventDefault();
    const detail = address({ owner, show: "objects", model, find: field.value || null });
    document.dispatchEvent(new CustomEvent("go", { detail }));
  };
  const all = { owner, show: "objects", model };
  return h(
    "form",
    { class: "filter", role: "search", onsubmit: search },
    h("label", { for: "find" }, "Find"),
    field,
    h("button", { type: "submit" }, "Search"),
    find === null ? null : link(all, { class: "clear" }, "Show all"),
  );
}

function choice(owner, { model, objects, more }, chosen) {
  return link(
    { owner, show: "objects", model },
    { "aria-current": model === chosen ? "page" : null },
    h("bdi", {}, visible(model)),
    " ",
    h("span", { class: "quiet" }, `${count(objects)}${more ? "+" : ""}`),
  );
}

function table(body) {
  const heads = ["Object", "Fields"].map((name) => h("th", { scope: "col" }, name));
  return h("table", { class: "owners objects" }, h("thead", {}, h("tr", {}, ...heads)), body);
}

function row(owner, model, { object, fields, more_fields: rest }) {
  const shown = fields.map(([name, text]) =>
    h(
      "li",
      {},
      h("bdi", { class: "name" }, visible(name)),
      " ",
      h("bdi", { class: "value" }, visible(text)),
    ),
  );
  if (rest > 0) shown.push(h("li", { class: "quiet" }, `and ${plural(rest, "field", "fields")}`));
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, link({ owner, model, object }, {}, h("bdi", {}, visible(object)))),
    h("td", {}, h("ul", { class: "fields" }, ...shown)),
  );
}
