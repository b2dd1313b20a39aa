// The history of one object: for each field, the edit that set it, and why.

import { get, watch } from "./api.js";
import { h, link } from "./dom.js";
import { kindClass, oneAtATime } from "./log.js";
import { lostCard, lostOfField, lostToValue } from "./lost.js";
import { picture } from "./picture.js";
import { Names } from "./tabs.js";
import { clock, duration, moment, plural, visible, zone } from "./text.js";

const MOST_CLOCKS = 200; // in one history
const PIECES = 5; // of the log that are searched before the reader must ask for more

const WHY = {
  created: "set by the create",
  first: "first edit of this field",
  same: "same value again",
  seen: "made after it",
  later: "later",
  own: "a later edit of the same device",
  tie: "same millisecond, synced last",
  "no row": "counts for nothing",
};

export async function showObject(main, { owner, model, object }, signal, setLive) {
  const filters = { owner, model, object };
  const body = h("div", {});
  const state = h("p", { class: "quiet", role: "status" });
  const further = h("button", { type: "button", hidden: true }, "Look further back");
  let clocks = []; // of the object's edits, the newest first
  let newest = -1;
  let next = null; // the clock below which the log was not read yet
  let fromOldest = false; // whether the oldest of the edits are shown, or the newest
  let life = null; // the shown life; null is the last one

  async function lookFurther() {
    further.disabled = true;
    const enough = clocks.length + MOST_CLOCKS;
    try {
      for (let asked = 0; asked < PIECES && clocks.length < enough; asked += 1) {
        const piece = await get("log", { ...filters, before: next }, signal);
        next = piece.next;
        clocks.push(...piece.entries.map((entry) => entry.logical_clock));
        if (next === null) break;
        state.textContent = `Looking… ${clock(next)}`;
      }
    } finally {
      further.disabled = false;
    }
  }

  async function draw() {
    further.hidden = next === null;
    state.textContent = next === null ? "" : `Looked down to ${clock(next)}.`;
    if (clocks.length === 0) {
      body.replaceChildren(h("p", { class: "empty" }, "No edit of this object."));
      return;
    }
    const shown = fromOldest ? clocks.slice(-MOST_CLOCKS) : clocks.slice(0, MOST_CLOCKS);
    const asked = { owner, model, object, clocks: shown.join(",") };
    const history = await get("history", { ...asked, life }, signal);
    if (history.edits.length === 0) {
      body.replaceChildren(h("p", { class: "empty" }, "Its edits have been compacted away."));
      return;
    }
    const oldestIsShown = shown.at(-1) === clocks.at(-1) && history.next === null;
    const { lost } = await get("lost", { owner, model, object }, signal);
    const view = new HistoryView(history, lost, names, {
      complete: next === null && oldestIsShown,
      chooseLife: (number) => {
        life = number;
        draw().catch(fail);
      },
      moreFields: (field) => get("history", { ...asked, life, field }, signal),
    });
    body.replaceChildren(...view.elements());
    if (shown.length < clocks.length || history.next !== null) tellPart(history);
  }

  function tellPart({ edits }) {
    const range = `${clock(edits[0].logical_clock)} to ${clock(edits.at(-1).logical_clock)}`;
    state.replaceChildren(
      `These are the edits ${range} of this object, not all that were found. `,
      link({ owner, model, object }, {}, "The newest"),
    );
  }

  function fail(error) {
    if (!signal.aborted) state.textContent = error.message;
  }

  async function catchUp(logicalClock) {
    if (logicalClock < newest + 1) location.reload(); // the server has lost part of the log
    if (logicalClock <= newest + 1) return;
    const after = newest < 0 ? null : newest;
    let before = logicalClock;
    const found = [];
    do {
      const piece = await get("log", { ...filters, after, before }, signal);
      found.push(...piece.entries.map((entry) => entry.logical_clock));
      before = piece.next;
    } while (before !== null);
    newest = logicalClock - 1;
    if (found.length === 0) return;
    clocks.unshift(...found);
    await draw();
  }

  const about = await get("clock", { owner }, signal);
  const { logical_clock: begun } = about;
  const names = await Names.of(owner, about, signal);
  newest = begun - 1;
  next = begun;
  await lookFurther();
  await draw();
  further.addEventListener("click", () => {
    fromOldest = true;
    life = null;
    lookFurther().then(draw).catch(fail);
  });
  main.replaceChildren(
    h(
      "h1",
      {},
      h("bdi", { class: "quiet" }, visible(model)),
      " ",
      h("bdi", {}, visible(object)),
    ),
    body,
    state,
    further,
    legend(),
  );
  await watch(owner, oneAtATime(catchUp, fail), setLive, signal);
}

class HistoryView {
  constructor(history, lost, names, { complete, chooseLife, moreFields }) {
    this.history = history;
    this.lost = lost;
    this.names = names;
    this.complete = complete;
    this.chooseLife = chooseLife;
    this.moreFields = moreFields;
    this.edits = new Map(history.edits.map((edit) => [edit.logical_clock, edit]));
  }

  elements() {
    const { history } = this;
    const fields = h("div", { class: "holders" }, ...this.fieldElements(history.fields));
    const more = h("button", { type: "button", hidden: history.next_field === null }, "More fields");
    let nextField = history.next_field;
    more.addEventListener("click", async () => {
      more.disabled = true;
      const page = await this.moreFields(nextField);
      fields.append(...this.fieldElements(page.fields));
      nextField = page.next_field;
      more.hidden = nextField === null;
      more.disabled = false;
    });
    const lost = lostCard(this.lost, this.names);
    const met = picture(history, this.lost, this.names);
    const above = [this.status(), this.livesList(), met, lost];
    return [...above, fields, more, this.editList()].filter(Boolean);
  }

  status() {
    const { lives, life } = this.history;
    const { created, deleted } = lives[life];
    const born = created === null ? "" : `Created by ${clock(created)}. `;
    const dead = deleted === null ? null : `Deleted by ${clock(deleted)}.`;
    const kind = dead === null ? "create" : "delete";
    return h(
      "p",
      {},
      h("span", { class: `kind ${kind}` }, dead === null ? "alive" : "deleted"),
      " ",
      born,
      dead === null ? "" : `${dead} A delete beats edits made apart, even later ones; `,
      dead === null ? "" : "below is what the fields held before.",
    );
  }

  livesList() {
    const { lives, life } = this.history;
    if (lives.length < 2) return null;
    const buttons = lives.map(({ created, deleted }, number) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(number === life),
          onclick: () => this.chooseLife(number === lives.length - 1 ? null : number),
        },
        `${created === null ? "…" : clock(created)} – ${deleted === null ? "now" : clock(deleted)}`,
      ),
    );
    return h("p", { class: "lives" }, `The id has lived ${lives.length} times: `, ...buttons);
  }

  fieldElements(fields) {
    return fields.map(({ name, writes }) => {
      const holder = writes.findLast((write) => write.why !== "no row") ?? writes.at(-1);
      const losses = lostOfField(this.lost, name, this.names);
      const isContested = holder.replaced !== null || lostToValue(this.lost, name);
      return h(
        "section",
        { class: "field" },
        h("h2", {}, h("bdi", {}, visible(name))),
        this.valueElement(holder, isContested ? "won" : null),
        this.whyElement(holder, writes),
        losses,
        writes.length > 1 ? this.writesElement(writes, holder) : null,
      );
    });
  }

  // The style sheet adds the word before the value, because it is not part of the value.
  valueElement(write, verdict) {
    const value = h("bdi", {}, visible(write.value));
    return h("p", { class: "value", "data-verdict": verdict }, value);
  }

  whyElement(write, writes) {
    const edit = this.edits.get(write.logical_clock);
    return h(
      "p",
      { class: "why" },
      h("span", { class: "clock", title: `edit ${visible(edit.id)}` }, clock(write.logical_clock)),
      " ",
      moment(h, edit.utc_timestamp),
      " ",
      ...this.whose(edit),
      h("span", { class: "reason", "data-why": write.why }, this.reason(write)),
      ...this.replacedText(write, writes),
    );
  }

  whose({ device }) {
    return device === null ? [] : [this.names.element(device), " "];
  }

  reason({ why, replaced, later_ms: later }) {
    if (why === "first" && !this.complete) return "nothing older has been looked at";
    if (why === "later") return `${duration(later)} later than ${clock(replaced)}`;
    if (why === "seen") {
      const earlier = later < 0 ? `, though its time is ${duration(-later)} earlier` : "";
      return `made after syncing ${clock(replaced)}${earlier}`;
    }
    const conflict = `conflict with ${clock(replaced)}: made apart`;
    if (why === "apart") return `${conflict}, and ${duration(later)} later`;
    if (why === "apart tie") return `${conflict} in the same millisecond, and synced last`;
    if (why === "tie") return `same millisecond as ${clock(replaced)}, synced last`;
    if (why === "same") return `same value as ${clock(replaced)}`;
    return WHY[why];
  }

  replacedText({ replaced, why }, writes) {
    if (replaced === null || why === "same") return [];
    const before = writes.find((write) => write.logical_clock === replaced);
    return [", replaced ", h("bdi", { class: "value" }, visible(before.value))];
  }

  // The writers are drawn on request, because there may be many for each of many fields.
  writesElement(writes, holder) {
    const details = h(
      "details",
      {},
      h("summary", {}, plural(writes.length, "writer", "writers")),
    );
    details.addEventListener(
      "toggle",
      () => {
        const items = writes.toReversed().map((write) =>
          h(
            "li",
            { class: write === holder ? "holder" : "" },
            this.valueElement(write, write === holder ? "won" : "replaced"),
            this.whyElement(write, writes),
          ),
        );
        details.append(h("ol", { class: "writes" }, ...items));
      },
      { once: true },
    );
    return details;
  }

  editList() {
    const items = this.history.edits.toReversed().map((edit) =>
      h(
        "li",
        {},
        h("span", { class: "clock" }, clock(edit.logical_clock)),
        moment(h, edit.utc_timestamp),
        h("span", { class: `kind ${kindClass(edit.type)}` }, visible(edit.type)),
        ...this.whose(edit),
        h("span", { class: "quiet" }, plural(edit.fields, "field", "fields")),
        h("bdi", { class: "quiet id" }, visible(edit.id)),
      ),
    );
    return h(
      "details",
      { class: "card" },
      h("summary", {}, `All ${plural(items.length, "edit", "edits")} of this object`),
      h("ol", { class: "edits" }, ...items),
    );
  }
}

function legend() {
  const terms = [
    [
      "later",
      "Its time is later than that of the edit it replaced. So it wins, whether or not its device " +
        "had seen that edit. The log does not say whether it had.",
    ],
    [
      "made after syncing",
      "Its device had already synced the edit it replaced. The times show this: the replaced edit " +
        "has the later time, and would have won if the two had been made apart.",
    ],
    [
      "same millisecond",
      "Both have the same time. If they were made apart, the one that synced last wins.",
    ],
    [
      "conflict",
      "Its device had not seen the edit it replaced. The later of two such edits wins. If both " +
        "have the same time, the one that synced last wins.",
    ],
    ["same value", "It wrote the same text as before."],
    ["counts for nothing", "It was made to an object that was already deleted."],
  ];
  return h(
    "details",
    { class: "card legend" },
    h("summary", {}, "What the log can tell, and what it cannot"),
    h(
      "p",
      {},
      "The log has the edits that the server accepted, in their order. It does not say which edits " +
        "lost or were refused, which device made an edit, or what that device had seen. " +
        "`mobync serve` keeps the newest lost edits beside the log, and this page shows them as lost. " +
        "For devices that name themselves, it also keeps which edits they made and what they had " +
        "seen. Compaction drops edits that were replaced. After that, the page may say that an edit " +
        "replaced an older one.",
    ),
    h("dl", {}, ...terms.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
    h("p", {}, `Times are in your time zone (${zone()}). A create has the time of the last edit in it.`),
  );
}
