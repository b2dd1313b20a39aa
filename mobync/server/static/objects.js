// The objects that an owner has now, model by model.

import { get } from "./api.js";
import { h, link } from "./dom.js";
import { tabs } from "./lost.js";
import { count, plural, visible } from "./text.js";

export async function showObjects(main, { owner, model }, signal) {
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
      const page = await get("objects", { owner, model: chosen, after }, signal);
      after = page.next;
      body.append(...page.objects.map((object) => row(owner, chosen, object)));
      more.hidden = after === null;
    } finally {
      more.disabled = false;
    }
  }

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
    chosen === null ? "" : table(body),
    state,
    more,
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
