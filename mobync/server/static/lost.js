// The edits that lost: the device, the time, the winner, and the rule.

import { get, watch } from "./api.js";
import { h, link } from "./dom.js";
import { oneAtATime } from "./log.js";
import { Names, tabs } from "./tabs.js";
import { duration, moment, visible, zone } from "./text.js";

const RULES = {
  later: "a later edit of the same field won",
  deleted: "the object was deleted, and a delete wins over an edit",
  recreated: "the object was created again after the delete",
  other: "the server’s value stands",
  unauthorized: "refused: a rule of the app said no",
  invalid: "refused: the server cannot keep it",
  depends_on_refused: "refused: it depends on an edit that was refused",
};

export async function showLost(main, { owner }, signal, setLive) {
  const about = await get("clock", { owner }, signal);
  const names = await Names.of(owner, about, signal);
  const list = h("div", {});
  async function draw() {
    const { lost } = await get("lost", { owner }, signal);
    list.replaceChildren(
      lost.length === 0
        ? h("p", { class: "empty" }, "No edit of this owner has lost.")
        : h("ol", { class: "losses" }, ...lost.map((edit) => lostRow(edit, owner, names))),
    );
  }
  await draw();
  main.replaceChildren(
    h("h1", {}, "Lost edits of ", h("bdi", {}, visible(owner))),
    tabs(owner, "lost", about),
    h(
      "p",
      { class: "quiet" },
      `What a device had sent and the server did not write; the newest 100. Times: ${zone()}.`,
    ),
    list,
  );
  await watch(owner, oneAtATime(draw, () => setLive(false)), setLive, signal);
}

export function verdict(word) {
  return h("span", { class: `verdict ${word}` }, `${word} `);
}

// For an object's page: all its lost edits, if there are any.
export function lostCard(lost, names) {
  if (lost.length === 0) return null;
  return h(
    "details",
    { class: "card losses-card" },
    h(
      "summary",
      {},
      verdict("conflict"),
      `${lost.length} ${lost.length === 1 ? "edit of this object" : "edits of this object"} lost`,
    ),
    h("ol", { class: "losses" }, ...lost.map((edit) => lostRow(edit, null, names))),
  );
}

// The lost values of a field, the newest first.
export function lostOfField(lost, name, names) {
  const items = lost.flatMap((edit) =>
    edit.fields
      .filter(([field]) => field === name)
      .map(([, value]) => h("li", {}, lostValue(value), about(edit, names))),
  );
  return items.length === 0 ? null : h("ol", { class: "losses" }, ...items);
}

// Whether an edit of a field lost to what the field has. Against a delete, no value wins.
export function lostToValue(lost, name) {
  return lost.some(({ why, fields }) => why !== "deleted" && fields.some(([field]) => field === name));
}

function lostRow(edit, owner, names) {
  const object = h("bdi", {}, visible(edit.object));
  const fields = edit.fields.map(([name, value, winner]) =>
    h(
      "p",
      { class: "loss" },
      h("bdi", { class: "name" }, visible(name)),
      " ",
      lostValue(value),
      winner === null ? "" : " against ",
      winner === null ? "" : h("bdi", { class: "value" }, visible(winner)),
    ),
  );
  return h(
    "li",
    {},
    owner === null
      ? null
      : h(
          "p",
          { class: "object" },
          h("bdi", { class: "quiet" }, visible(edit.model)),
          " ",
          link({ owner, model: edit.model, object: edit.object }, {}, object),
        ),
    ...(fields.length > 0 ? fields : [h("p", { class: "loss" }, lostValue(edit.type))]),
    about(edit, names),
  );
}

function lostValue(value) {
  return h(
    "span",
    {},
    verdict("lost"),
    h("bdi", { class: "value" }, visible(value)),
  );
}

// The rule by which an edit lost, and by how much time.
export function ruleOf(edit) {
  const rule = RULES[edit.why] ?? `refused: ${visible(edit.why)}`;
  const behind = edit.winner === null ? 0 : edit.winner - edit.utc_timestamp;
  return [rule, edit.why === "later" && behind > 0 ? `, ${duration(behind)} later` : ""];
}

function about(edit, names) {
  const [rule, behind] = ruleOf(edit);
  return h(
    "p",
    { class: "why" },
    "made at ",
    moment(h, edit.utc_timestamp),
    " by ",
    names.element(edit.device),
    ": ",
    h("span", { class: "reason", "data-why": edit.why }, rule),
    behind,
  );
}
