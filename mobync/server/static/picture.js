// A picture of how the edits of several devices became one history of an object.
//
// Each device has a lane, with the server's lane between them. From top to bottom is the order of the
// server. An edit is a dot on its device's lane, with a card of what it wrote. A thin line begins at
// the point up to which the device had seen the history, and ends at the dot. A thick line leads from
// the dot into the history. If the whole edit lost, that line ends in a cross.

import { h, s } from "./dom.js";
import { kindClass } from "./log.js";
import { lostToValue, ruleOf, verdict } from "./lost.js";
import { clock, duration, moment, plural, visible } from "./text.js";

const MOST_LANES = 6; // of devices; the others share the last
const COLOURS = 6;
const MOST_STEPS = 30; // at first
const MOST_FIELDS = 6; // of a card
const VALUE_CHARACTERS = 80;
const WIDE = 44; // pixels between two lanes, from which on there is room for clocks
const LANDS = 26; // pixels below an edit is where it lands in the history

// The picture of one life of an object; null if no edits of several devices met.
export function picture(history, lost, names) {
  const steps = stepsOf(history, lost);
  const lanes = new Lanes(steps.map(({ device }) => device));
  const conflicts = steps.some(({ losses }) => losses.length > 0);
  if (lanes.devices.length < 2 && !conflicts) return null;
  if (!steps.some(({ device }) => device !== null)) return null;
  return new Picture(steps, lanes, history, names).element;
}

// The edits in the order of the server: those that were written, and those that were not.
function stepsOf({ edits, lives, life, fields }, lost) {
  const begins = lives[life].created ?? 0;
  const ends = lives[life + 1]?.created ?? Infinity;
  const byId = new Map();
  for (const edit of edits) {
    const at = edit.logical_clock;
    if (at < begins || at >= ends) continue;
    byId.set(edit.id, { ...edit, at, writes: [], losses: [] });
  }
  const byClock = new Map([...byId.values()].map((step) => [step.at, step]));
  for (const { name, writes } of fields) {
    const holder = writes.findLast(({ why }) => why !== "no row");
    for (const write of writes) {
      byClock.get(write.logical_clock)?.writes.push({ ...write, name, holds: write === holder });
    }
  }
  for (const edit of lost) {
    const { clock: at } = edit;
    if (at === null || at === undefined || at <= begins || at > ends) continue;
    const step = byId.get(edit.id) ?? { ...edit, at: at - 0.5, logical_clock: null, writes: [], losses: [] };
    step.losses.push(edit);
    step.device ??= edit.device;
    byId.set(edit.id, step);
  }
  const steps = [...byId.values()].sort(
    (one, other) => one.at - other.at || one.utc_timestamp - other.utc_timestamp,
  );
  for (const at of steps.keys()) steps.splice(placeOf(at, steps), 0, ...steps.splice(at, 1));
  return steps;
}

// An edit that lost is above those of the same push that its device made later.
function placeOf(at, steps) {
  const { logical_clock: lands, device, seen, utc_timestamp: made } = steps[at];
  if (lands !== null || device === null || seen === null || seen === undefined) return at;
  const isLater = (step) =>
    step.device === device && step.logical_clock >= seen && step.utc_timestamp > made;
  let place = at;
  while (place > 0 && isLater(steps[place - 1])) place -= 1;
  return place;
}

// The lane of each device: the first is left of the server, the second right of it, and so on.
class Lanes {
  constructor(devices) {
    this.devices = [...new Set(devices)];
    const count = Math.min(this.devices.length, MOST_LANES);
    this.left = Math.ceil(count / 2);
    this.count = count + 1;
  }

  number(device) {
    return Math.min(this.devices.indexOf(device), MOST_LANES - 1);
  }

  side(device) {
    return this.number(device) % 2 === 0 ? "left" : "right";
  }

  place(device) {
    const pair = Math.floor(this.number(device) / 2);
    return this.side(device) === "left" ? this.left - 1 - pair : this.left + 1 + pair;
  }
}

const colour = (number) => `lane-${number % COLOURS}`;

class Picture {
  constructor(steps, lanes, history, names) {
    this.all = steps;
    this.steps = steps.slice(-MOST_STEPS);
    this.lanes = lanes;
    this.history = history;
    this.names = names;
    this.drawing = s("svg", { class: "strokes", "aria-hidden": "true", focusable: "false" });
    this.list = h("ol", { class: "steps" });
    this.element = h(
      "section",
      { class: "picture card" },
      h("h2", {}, "How the edits met"),
      this.legend(),
      this.list,
    );
    this.fill();
    new ResizeObserver(() => this.draw()).observe(this.list);
  }

  legend() {
    const entries = this.lanes.devices.map((device) =>
      h("li", { class: colour(this.lanes.number(device)) }, this.names.element(device)),
    );
    entries.splice(1, 0, h("li", { class: "server" }, "server"));
    return h("ul", { class: "lanes" }, ...entries);
  }

  fill() {
    const earlier = this.all.length - this.steps.length;
    const more = h("button", { type: "button" }, `Show ${plural(earlier, "earlier edit", "earlier edits")}`);
    more.addEventListener("click", () => {
      this.steps = this.all;
      this.fill();
      this.draw();
    });
    this.cards = this.steps.map((step) => this.card(step));
    this.result = this.resultCard();
    const top = earlier > 0 ? [h("li", { class: "earlier" }, more)] : [];
    const rows = [...top, ...this.cards, this.result];
    for (const [at, row] of rows.entries()) row.style.gridRow = `${at + 1}`;
    const canvas = h("li", { class: "canvas", "aria-hidden": "true" }, this.drawing);
    canvas.style.gridRow = `1 / span ${rows.length}`;
    this.list.replaceChildren(...rows, canvas);
  }

  card(step) {
    const { device } = step;
    const at = step.logical_clock;
    const lands = at === null ? null : h("span", { class: "clock" }, clock(at));
    const items = [...step.writes.map((write) => this.written(write)), ...step.losses.flatMap(lostItems)];
    const rest = items.length - MOST_FIELDS;
    const shown = items.slice(0, MOST_FIELDS);
    if (rest > 0) shown.push(h("li", { class: "quiet" }, `and ${plural(rest, "field", "fields")}`));
    return h(
      "li",
      { class: `step ${this.lanes.side(device)} ${colour(this.lanes.number(device))}` },
      h(
        "p",
        { class: "head" },
        lands,
        this.names.element(device),
      ),
      h(
        "p",
        { class: "when" },
        h("span", { class: `kind ${kindClass(step.type)}` }, visible(step.type)),
        " ",
        moment(h, step.utc_timestamp),
      ),
      h("ul", { class: "wrote" }, ...shown),
    );
  }

  written(write) {
    const contested = write.replaced !== null;
    const word = write.why === "no row" ? "lost" : write.holds ? "won" : "replaced";
    const shows = !write.holds || contested || this.hasLosers(write.name);
    return h(
      "li",
      {},
      shows ? verdict(word) : null,
      h("bdi", { class: "name" }, visible(write.name)),
      " ",
      value(write.value),
      contested ? h("span", { class: "rule" }, ruleOfWrite(write)) : null,
    );
  }

  hasLosers(name) {
    return this.all.some(({ losses }) => lostToValue(losses, name));
  }

  resultCard() {
    const { lives, life, fields } = this.history;
    const { deleted } = lives[life];
    const head = h("p", { class: "head" }, deleted === null ? "The object now" : `Deleted by ${clock(deleted)}`);
    const items = fields.slice(0, 2 * MOST_FIELDS).map(({ name, writes }) => {
      const holder = writes.findLast(({ why }) => why !== "no row") ?? writes.at(-1);
      const by = this.all.find(({ logical_clock: at }) => at === holder.logical_clock);
      const lane = by === undefined ? "" : colour(this.lanes.number(by.device));
      return h(
        "li",
        { class: lane },
        h("bdi", { class: "name" }, visible(name)),
        " ",
        value(holder.value),
        h("span", { class: "by" }, by === undefined ? "" : this.names.element(by.device)),
      );
    });
    const rest = fields.length - items.length;
    if (rest > 0) items.push(h("li", { class: "quiet" }, `and ${plural(rest, "field", "fields")}`));
    const list = deleted === null ? h("ul", { class: "wrote" }, ...items) : null;
    return h("li", { class: "result" }, head, list);
  }

  // ---- the lines: they depend on how tall the cards are, so they are drawn after them ----

  draw() {
    const canvas = this.drawing.parentElement.getBoundingClientRect();
    if (canvas.width === 0) return;
    const middle = (card) => {
      const head = card.querySelector(".head").getBoundingClientRect();
      return Math.round(head.top - canvas.top + head.height / 2);
    };
    this.gap = canvas.width / this.lanes.count;
    this.width = canvas.width;
    const result = this.result.getBoundingClientRect().top - canvas.top;
    this.end = this.isWide ? result : middle(this.result);
    this.ys = this.cards.map(middle);
    this.server = this.x(this.lanes.left);
    this.drawing.setAttribute("viewBox", `0 0 ${canvas.width} ${canvas.height}`);
    this.drawing.setAttribute("width", canvas.width);
    this.drawing.setAttribute("height", canvas.height);
    this.drawing.replaceChildren(...this.laneLines(), ...this.forks(), ...this.landings(), this.target());
  }

  x(place) {
    return Math.round((place + 0.5) * this.gap);
  }

  laneLines() {
    const last = new Map(this.steps.map(({ device }, at) => [this.lanes.place(device), this.ys[at]]));
    const own = [...last].map(([place, y]) => path("own", `M${this.x(place)} 4V${y}`));
    const first = this.ys[0] ?? 0;
    return [...own, path("history", `M${this.server} ${first + LANDS}V${this.end}`)];
  }

  // From the point up to which the device had seen the history, to its edit.
  forks() {
    return this.steps.flatMap((step, at) => {
      const from = this.seenAt(step, at);
      if (from === null) return [];
      const x = this.x(this.lanes.place(step.device));
      return [fork(this.colour(step), this.server, from, x, this.ys[at])];
    });
  }

  // The point up to which the device had seen the history; null: unknown, or none of it.
  seenAt({ device, seen }, at) {
    if (device === null || seen === null || seen === undefined) return null;
    for (let above = at - 1; above >= 0; above -= 1) {
      const { logical_clock: lands } = this.steps[above];
      if (lands !== null && lands < seen) return this.ys[above] + LANDS;
    }
    return null;
  }

  // From an edit into the history, or to its cross.
  landings() {
    return this.steps.flatMap((step, at) => {
      const x = this.x(this.lanes.place(step.device));
      const y = this.ys[at];
      const lane = this.colour(step);
      const dot = s("circle", { class: `dot ${lane}`, cx: x, cy: y, r: 5 });
      const away = Math.sign(x - this.server);
      const edge = this.isWide && away < 0 ? 0 : this.width;
      const to = path(`to-card ${lane}`, `M${x} ${y}H${edge}`);
      if (step.logical_clock === null) return [to, ...this.lostEnd(x, y, away), dot];
      const down = y + LANDS;
      const line = path(`landing ${lane}`, `M${x} ${y}C${x} ${down} ${x} ${down} ${this.server} ${down}`);
      return [to, line, dot, ...this.mark(step, down)];
    });
  }

  lostEnd(x, y, away) {
    const stop = this.server + away * Math.min(18, this.gap / 3);
    const down = y + LANDS;
    const cross = `M${stop - 4} ${down - 4}l8 8m0 -8l-8 8`;
    return [path("landing lost", `M${x} ${y}C${x} ${down} ${x} ${down} ${stop + away * 6} ${down}`), path("cross", cross)];
  }

  mark(step, y) {
    if (!this.isWide) return [s("circle", { class: "written", cx: this.server, cy: y, r: 4.5 })];
    const text = clock(step.logical_clock);
    const width = 12 + 7.2 * text.length;
    const label = s("text", { class: "clock", x: this.server, y: y + 4, "text-anchor": "middle" });
    label.textContent = text;
    const box = { x: this.server - width / 2, y: y - 10, width, height: 20, rx: 10 };
    return [s("rect", { class: "written", ...box }), label];
  }

  // The end of the history: the object as it is now.
  target() {
    const { server: x, end: y } = this;
    if (!this.isWide) return s("circle", { class: "now", cx: x, cy: y, r: 6 });
    return s("path", { class: "now", d: `M${x - 8} ${y - 11}L${x} ${y - 2}L${x + 8} ${y - 11}` });
  }

  colour({ device }) {
    return colour(this.lanes.number(device));
  }

  get isWide() {
    return this.gap >= WIDE;
  }
}

function fork(lane, server, from, x, y) {
  const bend = Math.max(0, Math.min(34, y - from));
  const down = from + bend;
  return path(`fork ${lane}`, `M${server} ${from}C${server} ${down} ${x} ${from} ${x} ${down}V${y}`);
}

function path(kind, d) {
  return s("path", { class: kind, d });
}

function lostItems(edit) {
  const [rule, behind] = ruleOf(edit);
  const fields = edit.fields.length > 0 ? edit.fields : [[edit.type, null, null]];
  return fields.map(([name, text, winner]) =>
    h(
      "li",
      { class: "loser" },
      verdict("lost"),
      h("bdi", { class: "name" }, visible(name)),
      " ",
      text === null ? "" : value(text),
      h(
        "span",
        { class: "rule" },
        winner === null ? "" : "against ",
        winner === null ? "" : value(winner),
        winner === null ? "" : ": ",
        rule,
        behind,
      ),
    ),
  );
}

function ruleOfWrite({ why, replaced, later_ms: later }) {
  const other = clock(replaced);
  if (why === "own") return `after its own ${other}`;
  if (why === "seen") return `after it had seen ${other}`;
  if (why === "same") return `the same as ${other}`;
  if (why === "apart") return `conflict with ${other}: made apart, and ${duration(later)} later`;
  if (why === "apart tie") return `conflict with ${other}: made apart, and synced last`;
  if (why === "no row") return "the object had been deleted";
  return `over ${other}, ${duration(later)} later`;
}

function value(text) {
  const shown = text.length > VALUE_CHARACTERS ? `${text.slice(0, VALUE_CHARACTERS)}…` : text;
  return h("bdi", { class: "value" }, visible(shown));
}
