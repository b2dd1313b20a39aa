// Opens the view of the address, and asks for a token if needed.
//
//     ?                               the owners
//     ?owner=O[&model=M][&find=ID]    O's log, only of a model, only of objects with an id
//     ?owner=O&model=M&object=ID      the history of one object
//     ?owner=O&show=objects[&model=M][&find=TEXT]  the objects that O has now
//     ?owner=O&show=devices           O's devices
//     ?owner=O&show=lost              the edits of O's devices that lost

import { Refused, keepToken, token } from "./api.js";
import { showDevices } from "./devices.js";
import { h, link } from "./dom.js";
import { showLog } from "./log.js";
import { showLost } from "./lost.js";
import { showObject } from "./object.js";
import { showObjects } from "./objects.js";
import { showOwners } from "./owners.js";
import { visible } from "./text.js";

const main = document.getElementById("main");
const trail = document.getElementById("trail");
const live = document.getElementById("live");
const forget = document.getElementById("forget");

let leaving = new AbortController();

// Whether the view is kept up to date; null if the view does not update itself.
function setLive(state) {
  live.dataset.state = state === null ? "" : state ? "on" : "off";
  live.textContent = state === null ? "" : state ? "live" : "no connection, trying again";
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const setViewLive = (state) => {
    if (!signal.aborted) setLive(state); // what belongs to a view that was left says nothing
  };
  const parameters = new URLSearchParams(location.search);
  const given = (name) => parameters.get(name) || null;
  const owner = given("owner");
  const model = given("model");
  const object = given("object");
  setLive(null);
  forget.hidden = token() === null;
  main.replaceChildren(h("p", { class: "quiet" }, "Loading…"));
  setTrail(owner, model, object);
  try {
    if (owner === null) await showOwners(main, given("first"), signal, setViewLive);
    else if (model !== null && object !== null) {
      await showObject(main, { owner, model, object }, signal, setViewLive);
    } else if (given("show") === "objects") {
      await showObjects(main, { owner, model, find: given("find") }, signal);
    } else if (given("show") === "devices") await showDevices(main, { owner }, signal, setViewLive);
    else if (given("show") === "lost") await showLost(main, { owner }, signal, setViewLive);
    else await showLog(main, { owner, model, object: given("find") }, signal, setViewLive);
  } catch (error) {
    if (signal.aborted) return;
    setLive(null);
    if (error instanceof Refused) main.replaceChildren(askForToken(error.message));
    else main.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
  }
}

function setTrail(owner, model, object) {
  const steps = [];
  if (owner !== null) steps.push(link({ owner }, {}, h("bdi", {}, visible(owner))));
  if (object !== null && model !== null) {
    steps.push(link({ owner, model }, {}, h("bdi", {}, visible(model))));
    steps.push(h("bdi", { "aria-current": "page" }, visible(object)));
  }
  trail.replaceChildren(...steps);
  document.title = [object ?? owner, "mobync inspector"].filter(Boolean).map(visible).join(" – ");
}

function askForToken(reason) {
  const field = h("input", {
    type: "password",
    id: "token",
    autocomplete: "off",
    required: true,
  });
  const send = (event) => {
    event.preventDefault();
    keepToken(field.value.trim());
    show();
  };
  return h(
    "form",
    { class: "card token", onsubmit: send },
    h("h1", {}, "Administrator only"),
    h("p", {}, token() === null ? `${reason}.` : "The server does not take this token."),
    h("label", { for: "token" }, "Token"),
    field,
    h("button", { type: "submit" }, "Open"),
    h("p", { class: "quiet" }, "It is kept until this tab is closed, and nowhere else."),
    h("p", { class: "quiet" }, "Where the server runs, “mobync token --admin” prints one."),
  );
}

function follow(event) {
  const anchor = event.target.closest?.("a");
  const plain =
    event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!anchor || !plain || !anchor.getAttribute("href").startsWith("?")) return;
  event.preventDefault();
  go(anchor.getAttribute("href"));
}

function go(to) {
  history.pushState(null, "", to === "?" ? location.pathname : to);
  scrollTo(0, 0);
  show();
}

document.addEventListener("click", follow);
document.addEventListener("go", (event) => go(event.detail));
addEventListener("popstate", show);
forget.addEventListener("click", () => {
  keepToken(null);
  show();
});
show();
