// The page's requests to the server.

const TOKEN = "mobync-inspector-token";
const PIECES = 5;
const POLL_MS = 2000;
const RECONNECT_MS = 3000;

export class Refused extends Error {
  name = "Refused";
}

class Busy extends Error {}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function keepToken(text) {
  if (text === null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, text);
}

async function ask(name, parameters, signal, headers = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== null && value !== undefined,
  );
  const response = await fetch(`inspect/api/${name}?${new URLSearchParams(given)}`, {
    signal,
    headers: withToken(headers),
  });
  return checked(response);
}

function withToken(headers) {
  const kept = token();
  return kept === null ? headers : { ...headers, Authorization: `Bearer ${kept}` };
}

async function checked(response) {
  if (response.status === 401) throw new Refused((await response.json()).message);
  if (response.status === 503) throw new Busy(await reason(response));
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

export async function get(name, parameters, signal) {
  return (await ask(name, parameters, signal)).json();
}

// Asks the server for a change, and waits for the answer even if the reader opens another view.
export async function change(asked) {
  const response = await fetch("inspect/api/change", {
    method: "POST",
    headers: withToken({ "Content-Type": "application/json" }),
    body: JSON.stringify(asked),
  });
  await checked(response);
}

// The newest entries below a clock that pass the filters. If few pass, the server searches the log
// piece by piece. After some pieces the reader must ask for more.
export async function lookBack(parameters, before, signal, progress) {
  let next = before;
  for (let asked = 0; ; asked += 1) {
    const piece = await get("log", { ...parameters, before: next }, signal);
    const enough = piece.entries.length > 0 || piece.next === null || asked === PIECES;
    if (enough) return piece;
    next = piece.next;
    progress(next);
  }
}

// Calls onClock with each new logical clock of an owner, and onState with whether the server
// answers, until the signal is aborted. Failed requests are repeated.
export async function watch(owner, onClock, onState, signal) {
  let known = null;
  const tell = (clock) => {
    onState(true);
    if (clock === known) return;
    known = clock;
    onClock(clock);
  };
  while (!signal.aborted) {
    try {
      const { logical_clock: clock, events } = await get("clock", { owner }, signal);
      tell(clock);
      if (events) await listen(owner, known, tell, signal);
      await pause(events ? RECONNECT_MS : POLL_MS, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused) throw error;
      onState(false);
      await pause(RECONNECT_MS, signal);
    }
  }
}

// Runs until the stream ends; ends at once if the server has no room for another listener.
async function listen(owner, known, tell, signal) {
  let response;
  try {
    response = await ask("events", { owner }, signal, { "Last-Event-ID": String(known) });
  } catch (error) {
    if (error instanceof Busy) return;
    throw error;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) tell(Number(line.slice(5)));
    }
  }
}

export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
