// One owner's log as a timeline, the newest entry first.

import { get, lookBack, watch } from "./api.js";
import { address, h, link } from "./dom.js";
import { Names, tabs } from "./tabs.js";
import { bytes, clock, count, moment, plural, visible, zone } from "./text.js";

const MOST_ROWS = 1000; // on the page; new rows replace the oldest ones

export async function showLog(main, { owner, model, object }, signal, setLive) {
  const filters = { owner, model, object };
  const state = h("p", { class: "quiet", role: "status" });
  const older = h("button", { type: "button", hidden: true }, "Older");
  const heading = h("span", { class: "quiet" });
  const models = h("datalist", { id: "models" });
  const known = new Set();
  const about = await get("clock", { owner }, signal);
  const names = await Names.of(owner, about, signal);
  const kind = about.has_devices ? "log with-devices" : "log";
  const list = h("ol", { class: kind });
  const begun = about.logical_clock;
  let newest = begun - 1; // the clock up to which all entries are known
  let next = begun; // the clock below which the log was not read yet

  function row(entry) {
    if (!known.has(entry.model)) {
      known.add(entry.model);
      models.append(h("option", { value: entry.model }));
    }
    return logRow(owner, entry, about.has_devices ? names : null);
  }

  function tellEnd() {
    older.hidden = next === null;
    const nothing = list.childElementCount === 0;
    if (next !== null) state.textContent = `Looked down to ${clock(next)}.`;
    else if (nothing) state.textContent = "Nothing in the log.";
    else state.textContent = "The beginning of the log.";
  }

  async function load() {
    older.disabled = true;
    try {
      const piece = await lookBack(filters, next, signal, (at) => {
        state.textContent = `Looking… ${clock(at)}`;
      });
      next = piece.next;
      list.append(...piece.entries.map(row));
      tellEnd();
    } finally {
      older.disabled = false;
    }
  }

  function drop() {
    while (list.childElementCount > MOST_ROWS) {
      list.lastElementChild.remove();
      next = Number(list.lastElementChild.dataset.clock);
    }
    tellEnd();
  }

  // Adds new entries up to a clock; if they are more than a piece, the list begins again.
  async function catchUp(logicalClock) {
    heading.textContent = `logical clock ${count(logicalClock)}`;
    if (logicalClock < newest + 1) location.reload(); // the server has lost part of the log
    if (logicalClock <= newest + 1) return;
    const after = newest < 0 ? null : newest;
    const piece = await get("log", { ...filters, after, before: logicalClock }, signal);
    if (piece.next !== null) {
      list.replaceChildren();
      next = piece.next;
    }
    const rows = piece.entries.map(row);
    for (const element of rows) element.classList.add("new");
    list.prepend(...rows);
    newest = logicalClock - 1;
    drop();
  }

  await load();
  older.addEventListener("click", () =>
    load().catch((error) => {
      if (!signal.aborted) state.textContent = error.message;
    }),
  );
  main.replaceChildren(
    h("h1", {}, "Log of ", h("bdi", {}, visible(owner)), " ", heading),
    tabs(owner, "log", about),
    filterForm(filters, models),
    headings(about),
    list,
    state,
    older,
  );
  await watch(owner, oneAtATime(catchUp, () => setLive(false)), setLive, signal);
}

// Calls again with the last arguments that came during a call.
export function oneAtATime(work, onError) {
  let waiting = null;
  let busy = false;
  return async (argument) => {
    waiting = { argument };
    if (busy) return;
    busy = true;
    while (waiting !== null) {
      const { argument: latest } = waiting;
      waiting = null;
      try {
        await work(latest);
      } catch (error) {
        onError(error);
      }
    }
    busy = false;
  };
}

function filterForm({ owner, model, object }, models) {
  const modelField = h("input", {
    id: "model",
    type: "search",
    list: "models",
    value: model ?? "",
  });
  const objectField = h("input", { id: "object", type: "search", value: object ?? "" });
  const filter = (event) => {
    event.preventDefault();
    const wanted = {
      owner,
      model: modelField.value || null,
      find: objectField.value || null,
    };
    document.dispatchEvent(new CustomEvent("go", { detail: address(wanted) }));
  };
  return h(
    "form",
    { class: "filter", onsubmit: filter },
    h("label", { for: "model" }, "Model"),
    modelField,
    models,
    h("label", { for: "object" }, "Object id"),
    objectField,
    h("button", { type: "submit" }, "Filter"),
    model !== null || object !== null ? link({ owner }, { class: "clear" }, "Show all") : null,
  );
}

function headings({ has_devices: hasDevices }) {
  const [, offset] = zone().split(", ");
  const device = hasDevices ? ["Device"] : [];
  const names = ["Clock", `Made at (${offset})`, "Edit", ...device, "Object and fields", "Size"];
  return h(
    "div",
    { class: hasDevices ? "log-head with-devices" : "log-head", "aria-hidden": "true", title: zone() },
    ...names.map((name) => h("span", {}, name)),
  );
}

function logRow(owner, entry, names) {
  const fields = entry.fields.map(([name, text]) =>
    h(
      "li",
      {},
      h("bdi", { class: "name" }, visible(name)),
      " ",
      h("bdi", { class: "value" }, visible(text)),
    ),
  );
  if (entry.more_fields > 0) {
    fields.push(h("li", { class: "quiet" }, `and ${plural(entry.more_fields, "field", "fields")}`));
  }
  return h(
    "li",
    { "data-clock": entry.logical_clock },
    h("span", { class: "clock", title: `edit ${visible(entry.id)}` }, clock(entry.logical_clock)),
    moment(h, entry.utc_timestamp),
    h("span", { class: `kind ${kindClass(entry.type)}` }, visible(entry.type)),
    names === null ? null : whose(entry, names),
    h(
      "span",
      { class: "object" },
      h("bdi", { class: "quiet" }, visible(entry.model)),
      " ",
      objectName(owner, entry),
    ),
    h("ul", { class: "fields" }, ...fields),
    h("span", { class: "size quiet" }, bytes(entry.bytes)),
  );
}

function whose({ device }, names) {
  return device === null ? h("span", { class: "device quiet" }, "") : names.element(device);
}

function objectName(owner, { model, object, object_is_cut: isCut }) {
  if (object === null) return h("span", { class: "quiet" }, "no id");
  const name = h("bdi", {}, visible(object));
  return isCut ? name : link({ owner, model, object }, {}, name);
}

export function kindClass(kind) {
  return ["create", "update", "delete"].includes(kind) ? kind : "";
}
