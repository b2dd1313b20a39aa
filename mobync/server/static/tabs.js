// The views of an owner, and the names of devices in them.

import { get } from "./api.js";
import { h, link } from "./dom.js";
import { visible } from "./text.js";

// Views that this server does not have are left out.
export function tabs(owner, current, about) {
  const views = [["log", "Log", {}]];
  if (about.has_objects) views.push(["objects", "Objects", { show: "objects" }]);
  if (about.has_devices) views.push(["devices", "Devices", { show: "devices" }]);
  if (about.keeps_lost) views.push(["lost", "Lost edits", { show: "lost" }]);
  if (views.length === 1) return "";
  const links = views.map(([name, title, more]) =>
    link({ owner, ...more }, { "aria-current": name === current ? "page" : null }, title),
  );
  return h("nav", { class: "tabs", "aria-label": "Of this owner" }, ...links);
}

const SHORT = 16; // characters of a name without a label
const BEGINNING = 6;

// The labels of an owner's devices, by their names. A view works without them.
export class Names {
  constructor(owner = null, devices = []) {
    this.owner = owner;
    this.labels = new Map(devices.map(({ name, label }) => [name, label]));
  }

  static async of(owner, about, signal) {
    if (!about.has_devices) return new Names();
    try {
      return new Names(owner, (await get("devices", { owner }, signal)).devices);
    } catch (error) {
      if (signal.aborted || error.name === "Refused") throw error;
      return new Names(); // for example, during a long sync of this owner
    }
  }

  text(name) {
    if (name === null) return "a device without a name";
    const label = this.labels.get(name);
    if (label) return visible(label);
    return visible(name.length > SHORT ? `device ${name.slice(0, BEGINNING)}…` : name);
  }

  // It leads to the list of devices: when did this one sync, and what should people call it?
  element(name) {
    const title = name === null ? null : visible(name);
    const text = this.text(name);
    const isListed = this.labels.has(name);
    const content = isListed ? link({ owner: this.owner, show: "devices" }, {}, text) : text;
    return h("bdi", { class: "device", title }, content);
  }
}
