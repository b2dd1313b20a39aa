// The owners: their clocks, and the rows and bytes of their logs.
//
// A log is measured piece by piece. Short logs are measured at once, others on request.

import { get, pause } from "./api.js";
import { address, h, link } from "./dom.js";
import { bytes, count, visible } from "./text.js";

const SHORT_CLOCKS = 10_000;
const POLL_MS = 2000;

export async function showOwners(main, first, signal, setLive) {
  const rows = new Map();
  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true }, "More owners");
  const pages = [{ first }];

  async function load(page) {
    const answer = await get("owners", page, signal);
    for (const { owner, logical_clock: clock } of answer.owners) {
      if (!rows.has(owner)) {
        const row = new OwnerRow(owner, signal);
        rows.set(owner, row);
        body.append(row.element);
      }
      rows.get(owner).setClock(clock);
    }
    return answer;
  }

  let last = await load(pages[0]);
  more.hidden = last.next === null;
  more.addEventListener("click", async () => {
    more.disabled = true;
    pages.push({ after: last.next });
    last = await load(pages.at(-1));
    more.disabled = false;
    more.hidden = last.next === null;
    measureShort();
  });

  main.replaceChildren(
    h("h1", {}, "Owners"),
    findForm(first),
    rows.size === 0
      ? h("p", { class: "empty" }, first === null ? "No owner has synced yet." : "No more owners.")
      : table(body),
    more,
  );

  let measuring = false;
  async function measureShort() {
    if (measuring) return;
    measuring = true;
    for (const row of rows.values()) if (row.wantsMeasure()) await row.measure();
    measuring = false;
  }

  setLive(true);
  measureShort().catch(() => {});
  for (;;) {
    await pause(POLL_MS, signal);
    if (signal.aborted) return;
    if (document.hidden) continue;
    try {
      const wasEmpty = rows.size === 0;
      for (const page of pages) await load(page);
      if (wasEmpty && rows.size > 0) main.querySelector(".empty").replaceWith(table(body));
      setLive(true);
      await measureShort();
    } catch (error) {
      if (signal.aborted) return;
      measuring = false;
      setLive(false);
    }
  }
}

function findForm(first) {
  const field = h("input", { id: "first", type: "search", value: first ?? "" });
  const find = (event) => {
    event.preventDefault();
    const detail = address(field.value === "" ? {} : { first: field.value });
    document.dispatchEvent(new CustomEvent("go", { detail }));
  };
  return h(
    "form",
    { class: "filter", onsubmit: find },
    h("label", { for: "first" }, "List owners from"),
    field,
    h("button", { type: "submit" }, "Show"),
  );
}

function table(body) {
  const numbers = ["Clock", "Rows", "Bytes"].map((name) =>
    h("th", { scope: "col", class: "number" }, name),
  );
  return h(
    "table",
    { class: "owners" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Owner"), ...numbers)),
    body,
  );
}

class OwnerRow {
  constructor(owner, signal) {
    this.owner = owner;
    this.signal = signal;
    this.logicalClock = null;
    this.measured = null; // { rows, bytes, next } of the log below the clock `next`
    this.measuring = false;
    this.clockCell = h("td", { class: "number", "data-label": "clock" });
    this.rowsCell = h("td", { class: "number", "data-label": "rows" }, "…");
    this.bytesCell = h("td", { class: "number", "data-label": "bytes" }, "…");
    this.element = h(
      "tr",
      {},
      h("th", { scope: "row" }, link({ owner }, {}, h("bdi", {}, visible(owner)))),
      this.clockCell,
      this.rowsCell,
      this.bytesCell,
    );
  }

  setClock(clock) {
    if (clock === this.logicalClock) return;
    if (this.logicalClock !== null && clock < this.logicalClock) this.measured = null;
    this.logicalClock = clock;
    this.clockCell.textContent = count(clock);
    if (!this.wantsMeasure() && this.measured === null) this.offerMeasure();
  }

  // Whether the rest of the log is short enough to measure it without a request.
  wantsMeasure() {
    const from = this.measured?.next ?? 0;
    const unknown = this.measured === null || from < this.logicalClock;
    return !this.measuring && unknown && this.logicalClock - from <= SHORT_CLOCKS;
  }

  offerMeasure() {
    const begin = (event) => {
      event.target.disabled = true;
      this.measure().catch(() => this.offerMeasure());
    };
    this.rowsCell.replaceChildren(h("button", { type: "button", onclick: begin }, "Count"));
    this.bytesCell.textContent = "";
  }

  async measure() {
    this.measuring = true;
    this.measured ??= { rows: 0, bytes: 0, next: 0 };
    try {
      for (let complete = false; !complete; ) {
        const first = this.measured.next;
        const piece = await get("size", { owner: this.owner, first }, this.signal);
        this.measured = {
          rows: this.measured.rows + piece.rows,
          bytes: this.measured.bytes + piece.bytes,
          next: piece.next,
        };
        complete = piece.complete;
        this.rowsCell.textContent = count(this.measured.rows) + (complete ? "" : " …");
        this.bytesCell.textContent = bytes(this.measured.bytes);
      }
    } finally {
      this.measuring = false;
    }
  }
}
