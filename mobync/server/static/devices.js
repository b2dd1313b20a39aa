// The named devices of an owner, and the changes that a person can make.

import { change, get, watch } from "./api.js";
import { h } from "./dom.js";
import { oneAtATime } from "./log.js";
import { tabs } from "./tabs.js";
import { bytes, clock, duration, momentOrNone, plural, visible, zone } from "./text.js";

const POLL_MS = 5000; // a poll of a device changes no clock

const COLUMNS = ["Device", "First seen", "Last seen", "Clock", "Behind by", "State"];

export async function showDevices(main, { owner }, signal, setLive) {
  const about = await get("clock", { owner }, signal);
  const place = h("div", {});
  const rows = new Map(); // by the devices' names; rows stay, so that the focus stays
  const body = h("tbody");

  async function draw() {
    const { devices, may_change: mayChange, keeps } = await get("devices", { owner }, signal);
    const known = new Set(devices.map(({ name }) => name));
    for (const [name, row] of rows) {
      if (known.has(name)) continue;
      row.element.remove();
      rows.delete(name);
    }
    for (const device of devices) {
      const row = rows.get(device.name) ?? new DeviceRow(owner, mayChange, redraw);
      rows.set(device.name, row);
      row.show(device);
      if (row.element.parentNode === null) body.append(row.element);
    }
    if (devices.length === 0) place.replaceChildren(none(keeps));
    else if (body.closest("div") !== place) place.replaceChildren(table(body, mayChange));
    staged.textContent = stagedParts(devices);
    note.textContent = mayChange || devices.length === 0 ? "" : LOOKS_ONLY;
  }

  const staged = h("p", { class: "quiet" });
  const note = h("p", { class: "quiet" });
  const redraw = oneAtATime(draw, () => setLive(false));
  await draw();
  main.replaceChildren(
    h("h1", {}, "Devices of ", h("bdi", {}, visible(owner))),
    tabs(owner, "devices", about),
    place,
    staged,
    note,
    legend(),
  );
  const timer = setInterval(() => {
    if (!document.hidden) redraw();
  }, POLL_MS);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  await watch(owner, redraw, setLive, signal);
}

const LOOKS_ONLY = "To revoke, forget or rename a device, open the page with an administrator’s token.";

function none(keeps) {
  const text = keeps
    ? "No device of this owner has named itself."
    : "This server keeps no devices.";
  return h("p", { class: "empty" }, text);
}

function table(body, mayChange) {
  const names = mayChange ? [...COLUMNS, "Actions"] : COLUMNS;
  const heads = names.map((name) =>
    h("th", { scope: "col", class: name === "Clock" || name === "Behind by" ? "number" : null }, name),
  );
  return h("table", { class: "owners devices" }, h("thead", {}, h("tr", {}, ...heads)), body);
}

class DeviceRow {
  constructor(owner, mayChange, redraw) {
    this.owner = owner;
    this.redraw = redraw;
    this.title = h("th", { scope: "row" });
    this.cells = COLUMNS.slice(1).map((name) => h("td", { "data-label": name }));
    this.cells[2].classList.add("number");
    this.cells[3].classList.add("number");
    this.revoke = this.button("Revoke", () => this.confirmRevoke());
    const buttons = [
      this.button("Rename", () => this.askForName()),
      this.revoke,
      this.button("Forget", () => this.confirmForget()),
    ];
    const actions = mayChange ? [h("td", { class: "actions" }, ...buttons)] : [];
    this.element = h("tr", {}, this.title, ...this.cells, ...actions);
  }

  show(device) {
    this.device = device;
    const { name, label, revoked } = device;
    const called = h("bdi", { class: "called" }, visible(label || name));
    this.title.replaceChildren(
      called,
      ...(label ? [h("bdi", { class: "id quiet", title: visible(name) }, visible(name))] : []),
    );
    const [first, last, at, behind, state] = this.cells;
    first.replaceChildren(momentOrNone(h, device.first_seen_ms));
    last.replaceChildren(momentOrNone(h, device.last_seen_ms));
    at.textContent = revoked ? "–" : clock(device.logical_clock);
    at.title = "The next edit that it has not seen.";
    behind.textContent = revoked ? "–" : behindBy(device.behind);
    state.replaceChildren(stateOf(device), ...partsOf(device));
    this.revoke.hidden = revoked;
  }

  button(name, onclick) {
    return h("button", { type: "button", class: "small", onclick }, name);
  }

  get called() {
    const { label, name } = this.device;
    return h("bdi", { class: "called" }, visible(label || name));
  }

  confirmRevoke() {
    this.ask("Revoke", { change: "revoke" }, "danger", [
      h("p", {}, "From now on the server refuses ", this.called, "."),
      h(
        "p",
        {},
        "When it next syncs it drops the data of ",
        h("bdi", {}, visible(this.owner)),
        ", with every edit that it has not sent. Its token stays good for other devices.",
      ),
    ]);
  }

  confirmForget() {
    const again = this.device.revoked
      ? "It was revoked. Forgotten, it may sync again, as a new device."
      : "It loses nothing: when it comes again it takes a new name, and starts over.";
    this.ask("Forget", { change: "forget" }, "", [
      h("p", {}, "The server keeps nothing of ", this.called, " any more."),
      h("p", {}, again),
    ]);
  }

  askForName() {
    const field = h("input", {
      id: "label",
      value: this.device.label,
      maxlength: 255,
      autocomplete: "off",
    });
    this.ask("Rename", () => ({ change: "name", label: field.value.trim() }), "", [
      h("label", { for: "label" }, "What people call it"),
      field,
      h("p", { class: "quiet" }, "The device calls itself ", h("bdi", { class: "id" }, visible(this.device.name))),
    ]);
  }

  // A dialog; the change is sent only after it is confirmed.
  ask(title, asked, kind, children) {
    const { owner, device } = this;
    const problem = h("p", { class: "error", role: "alert" });
    const confirm = h("button", { type: "submit", class: kind }, title);
    const dialog = h(
      "dialog",
      { class: "card", "aria-label": title },
      h(
        "form",
        {
          onsubmit: async (event) => {
            event.preventDefault();
            confirm.disabled = true;
            try {
              const what = typeof asked === "function" ? asked() : asked;
              await change({ owner, device: device.name, ...what });
              dialog.close();
              this.redraw();
            } catch (error) {
              problem.textContent = error.message;
            }
            confirm.disabled = false;
          },
        },
        h("h2", {}, title),
        ...children,
        problem,
        h(
          "p",
          { class: "choices" },
          h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
          confirm,
        ),
      ),
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.getElementById("main").append(dialog);
    dialog.showModal();
  }
}

function behindBy(edits) {
  return edits === 0 ? "nothing" : plural(edits, "edit", "edits");
}

function stateOf({ revoked, holds_horizon: holds }) {
  if (revoked) return h("span", { class: "verdict lost" }, "revoked");
  if (holds) return h("span", { class: "verdict conflict" }, "holds the horizon");
  return h("span", { class: "verdict" }, "in use");
}

function partsOf({ parts, parts_bytes: size }) {
  if (parts === 0) return [];
  return [" ", h("span", { class: "quiet" }, `${plural(parts, "part", "parts")}, ${bytes(size)}`)];
}

// All parts of requests that are stored, and how long the oldest has waited.
function stagedParts(devices) {
  const staged = devices.filter(({ parts }) => parts > 0);
  if (staged.length === 0) return "";
  const size = staged.reduce((sum, device) => sum + device.parts_bytes, 0);
  const oldest = Math.min(...staged.map((device) => device.parts_ms));
  const requests = plural(staged.length, "request", "requests");
  const age = duration(Math.max(0, Date.now() - oldest));
  return `Parts of ${requests} are stored, ${bytes(size)}; the oldest for ${age}.`;
}

function legend() {
  const terms = [
    ["clock", "The device has seen every edit of the log below it."],
    ["behind by", "How many edits the log has from there on."],
    [
      "holds the horizon",
      "Compaction folds the log only below what every device has seen. This one has seen the least.",
    ],
    [
      "parts",
      "A long request comes in parts. They are stored until the device’s next request, at most a day.",
    ],
    ["revoke", "For a device that was lost or stolen. It is refused, and drops the owner’s data."],
    ["forget", "For one that will not come again. If it does, it starts over and loses nothing."],
  ];
  return h(
    "details",
    { class: "card legend" },
    h("summary", {}, "What the columns and actions mean"),
    h("dl", {}, ...terms.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
    h("p", {}, `Times are in your time zone (${zone()}). Devices without a name are not listed.`),
  );
}
