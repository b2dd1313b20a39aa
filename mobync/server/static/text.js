// Shows texts so that a person can read them.

// Characters that are invisible, or that reverse the direction of text.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]|[\u{e0000}-\u{e007f}]/gu;

// A text of a device, with escapes for characters that are invisible or could deceive.
export function visible(text) {
  return text.replace(
    UNSEEN,
    (character) => `\\u{${character.codePointAt(0).toString(16)}}`,
  );
}

export function clock(number) {
  return `#${number}`;
}

// Milliseconds since 1970, in the reader's own time zone.
export function time(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return `${ms} ms`;
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const second = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${day} ${second}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

// The reader's time zone, as at a moment.
export function zone(ms = Date.now()) {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  const minutes = -new Date(ms).getTimezoneOffset();
  const hours = `${Math.trunc(Math.abs(minutes) / 60)}`.padStart(2, "0");
  const rest = `${Math.abs(minutes) % 60}`.padStart(2, "0");
  return `${timeZone}, UTC${minutes < 0 ? "−" : "+"}${hours}:${rest}`;
}

// A moment in the reader's zone; the moment in UTC is a tooltip.
export function moment(h, ms) {
  const date = new Date(ms);
  const utc = Number.isNaN(date.getTime()) ? "" : `${date.toISOString()}, `;
  return h("time", { title: `${utc}${ms} ms since 1970` }, time(ms));
}

// The same; 0 is an unknown moment.
export function momentOrNone(h, ms) {
  return ms === 0 ? "–" : moment(h, ms);
}

const UNITS = [
  [86_400_000, "d"],
  [3_600_000, "h"],
  [60_000, "min"],
  [1000, "s"],
  [1, "ms"],
];

export function duration(ms) {
  const [unit, name] = UNITS.find(([size]) => ms >= size) ?? [1, "ms"];
  return `${Number((ms / unit).toFixed(unit === 1 ? 0 : 1))}\u00a0${name}`;
}

export function count(number) {
  return number.toLocaleString("en").replaceAll(",", "\u202f");
}

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let size = number / 1024;
  let at = 0;
  while (size >= 1024 && at < units.length - 1) {
    size /= 1024;
    at += 1;
  }
  return `${size.toFixed(1)} ${units[at]}`;
}

export function plural(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
