// HTTP to a mobync server, for the clients in this package: tokens, refusals, pauses, events.
//
// docs/http.md of mobync says what a client does after each status. After a 401, `post` gets a new
// token and tries once more. For other errors, `post` throws a MobyncError. A Backoff says how long
// to wait, and `retrying` waits and tries again.

const FIRST_PAUSE_MS = 500;
const MOST_PAUSE_MS = 30_000;
const SILENCE_MS = 60_000; // the server says something every 15 s; after four times that it is gone
const POLL_MS = 30_000; // where there are no events
const TRIES = 5;
const MOST_ASKED_MS = 86_400_000; // the longest pause, whatever a server asks for
const MOST_TIMER_MS = 2 ** 31 - 1; // after a longer time, setTimeout fires at once

/** A request that the server refused, or that did not reach it. */
export class MobyncError extends Error {
    constructor(message, { status = 0, code = 'unreachable', retryAfterMs = 0, body, cause } = {}) {
        super(message, { cause });
        this.name = 'MobyncError';
        this.status = status;
        this.code = code;
        this.retryAfterMs = retryAfterMs;
        this.body = body;
    }

    /** Whether the same request may be answered if it is sent again. */
    get isTransient() {
        return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
    }
}

/** How long to wait after each failure: a random time, twice as long each time, up to a limit. */
export class Backoff {
    constructor(firstMs = FIRST_PAUSE_MS, mostMs = MOST_PAUSE_MS) {
        this.firstMs = firstMs;
        this.mostMs = mostMs;
        this.failures = 0;
    }

    /** Milliseconds to wait after one more failure: no less than the server asked for, up to a day. */
    next(error) {
        const span = Math.min(this.mostMs, this.firstMs * 2 ** this.failures);
        this.failures += 1;
        // Random, so that clients that failed together do not come back together.
        const wait = (error?.retryAfterMs ?? 0) + span / 2 + (Math.random() * span) / 2;
        return Math.min(wait, MOST_ASKED_MS);
    }

    reset() {
        this.failures = 0;
    }
}

/** A unique id, even without crypto: in React Native, or on a page without TLS. */
export function newId() {
    if (globalThis.crypto?.randomUUID) return globalThis.crypto.randomUUID();
    const part = () => Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, '0');
    return part() + part() + part() + part();
}

/** Wait; rejects with the signal's reason as soon as it is aborted. */
export function pause(ms, signal) {
    return new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const stop = () => {
            clearTimeout(timer);
            reject(signal.reason);
        };
        const timer = setTimeout(() => {
            signal?.removeEventListener('abort', stop);
            resolve();
        }, Math.min(ms, MOST_TIMER_MS));
        signal?.addEventListener('abort', stop, { once: true });
    });
}

/** Wait, but not longer than until a browser says that the network is back; gives whether it is. */
async function waitedOrOnline(ms, signal) {
    const ended = new AbortController();
    let isOnline = false;
    const end = () => ended.abort();
    const back = () => {
        isOnline = true;
        end();
    };
    signal.addEventListener('abort', end);
    globalThis.addEventListener?.('online', back); // not in Node and React Native
    if (signal.aborted) end();
    await pause(ms, ended.signal).catch(() => undefined);
    signal.removeEventListener('abort', end);
    globalThis.removeEventListener?.('online', back);
    return isOnline;
}

/** Do some work, and again after a transient MobyncError, at most a few times. */
export async function retrying(work, { signal, tries = TRIES, backoff = new Backoff() } = {}) {
    for (let left = tries - 1; ; left -= 1) {
        try {
            return await work();
        } catch (error) {
            if (!(error instanceof MobyncError) || !error.isTransient || left <= 0) throw error;
            await pause(backoff.next(error), signal);
        }
    }
}

const isText = (value) => typeof value === 'string' && value !== '';

/** Kinds of options: whether a value is one, and what it must be. */
export const KINDS = {
    text: [isText, 'a string that is not empty'],
    flag: [(value) => typeof value === 'boolean', 'true or false'],
    count: [(value) => Number.isSafeInteger(value) && value > 0, 'a whole number above 0'],
    function: [(value) => typeof value === 'function', 'a function'],
    object: [(value) => typeof value === 'object' && value !== null, 'an object'],
    signal: [
        (value) => typeof value?.aborted === 'boolean' && Boolean(value.addEventListener),
        'an AbortSignal',
    ],
};

const SERVER_OPTIONS = {
    url: [
        (value) => isText(value) && !/[?#]/.test(value),
        'the URL of the sync route, such as https://example.org/sync, without a query',
    ],
    token: [
        (value) => isText(value) || typeof value === 'function',
        'a string that is not empty, or a function that returns one',
    ],
    device: [(value) => value === null || isText(value), 'a name, or null for no name'],
    fetch: KINDS.function,
};

/**
 * Check what an app gave to a function of this package: the server's options, and its own ones.
 *
 * Gives the server's. An option that is undefined counts as left out.
 */
export function checkedOptions(name, options, own = {}) {
    if (!KINDS.object[0](options)) throw new TypeError(`${name}: the options must be an object`);
    const kinds = { ...SERVER_OPTIONS, ...own };
    const known = Object.keys(kinds);
    for (const option of Object.keys(options)) {
        if (known.includes(option)) continue;
        throw new TypeError(`${name} has no option ${option}. It has: ${known.join(', ')}`);
    }
    for (const [option, [fits, what]] of Object.entries(kinds)) {
        const value = options[option];
        const isOptional = option !== 'url' && option !== 'token';
        if ((value === undefined && isOptional) || fits(value)) continue;
        throw new TypeError(`${name}: ${option} must be ${what}, not ${shown(value)}`);
    }
    const ofServer = Object.keys(SERVER_OPTIONS).map((option) => [option, options[option]]);
    return Object.fromEntries(ofServer);
}

/** A wrong value for a message; without a text, which may be a secret. */
function shown(value) {
    if (typeof value === 'number' || value == null) return String(value);
    return value === '' ? 'an empty string' : `this ${typeof value}`;
}

/**
 * Requests to one server, as one owner.
 *
 * `url` is the URL of the sync route, https://example.org/sync. `token` is the token, or a function
 * that returns it or a promise of it; it gets `{ isRefused: true }` if the last token was refused.
 * `device` is the name of the device; without it, the device has no name.
 */
export class MobyncTransport {
    constructor(options = {}) {
        const { url, token, device, fetch: ownFetch } = checkedOptions('MobyncTransport', options);
        if (!ownFetch && !globalThis.location && !/^https?:\/\//i.test(url)) {
            throw new TypeError('url must begin with https:// or http://, except in a page');
        }
        this.url = url.replace(/\/+$/, '');
        this.query = device == null ? '' : `?device=${encodeURIComponent(device)}`;
        this.token = token;
        this.fetch = ownFetch ?? ((...request) => globalThis.fetch(...request));
    }

    /** POST JSON to a path below the sync route; gives the reply as an object. */
    async post(path, body, signal) {
        return parsed(await this.postForText(path, body, signal));
    }

    /** As `post`, but gives the reply as its text. */
    async postForText(path, body, signal) {
        const response = await this.#ask(path, signal, {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify(body),
        });
        return textOf(response, signal);
    }

    /**
     * Tell the clock of the owner's log whenever it has moved, until the signal is aborted.
     *
     * What fails is tried again.  Where there are no events - the server tells none, or `fetch`
     * gives no stream, as in React Native - it tells null every now and then.  Of a device that was
     * revoked it tells null once, and ends.
     */
    async listen(onClock, signal, { onError = () => undefined, pollMs = POLL_MS } = {}) {
        const backoff = new Backoff();
        while (!signal.aborted) {
            try {
                await this.#listenOnce(onClock, signal, backoff);
            } catch (error) {
                if (signal.aborted) return;
                if (error?.code === 'no_events') {
                    await pause(pollMs, signal).then(() => onClock(null), () => undefined);
                    continue;
                }
                if (error?.code === 'device_revoked') return onClock(null);
                onError(error);
                if (await waitedOrOnline(backoff.next(error), signal)) backoff.reset();
            }
        }
    }

    async #listenOnce(onClock, signal, backoff) {
        const connection = new AbortController();
        const stop = () => connection.abort(signal.reason);
        signal.addEventListener('abort', stop, { once: true });
        let timer;
        const heard = () => {
            clearTimeout(timer);
            timer = setTimeout(() => connection.abort(), SILENCE_MS);
        };
        try {
            heard();
            const response = await this.#ask('/events', connection.signal, {
                headers: { Accept: 'text/event-stream' },
            });
            if (!response.body?.getReader) {
                connection.abort();
                throw new MobyncError('fetch gives no stream', { code: 'no_events' });
            }
            for await (const clock of clocksOf(response.body, heard)) {
                backoff.reset();
                onClock(clock);
            }
        } finally {
            clearTimeout(timer);
            signal.removeEventListener('abort', stop);
        }
        throw new MobyncError('the stream of events has ended');
    }

    async #ask(path, signal, request) {
        const response = await this.#askAs(await this.#currentToken(), path, signal, request);
        if (response.status !== 401 || typeof this.token !== 'function') {
            return acceptedOf(response);
        }
        await response.body?.cancel?.();
        const fresh = await this.token({ isRefused: true });
        return acceptedOf(await this.#askAs(fresh, path, signal, request));
    }

    #currentToken() {
        return typeof this.token === 'function' ? this.token({ isRefused: false }) : this.token;
    }

    async #askAs(token, path, signal, request) {
        signal?.throwIfAborted();
        const headers = { ...request.headers, Authorization: `Bearer ${token}` };
        try {
            return await this.fetch(this.url + path + this.query, { ...request, headers, signal });
        } catch (error) {
            throw unreachable(error, signal);
        }
    }
}

async function acceptedOf(response) {
    if (response.ok) return response;
    const text = await response.text().catch(() => '');
    let body;
    try {
        body = JSON.parse(text);
    } catch {
        body = {}; // of a proxy, perhaps
    }
    throw new MobyncError(body.message ?? `the server answered ${response.status}`, {
        status: response.status,
        code: body.code ?? `http_${response.status}`,
        retryAfterMs: msOf(response.headers.get('Retry-After') ?? ''),
        body,
    });
}

/** The milliseconds of a Retry-After, which has seconds or a date; 0 if it cannot be read. */
function msOf(text) {
    const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
    return Math.max(0, ms) || 0;
}

async function textOf(response, signal) {
    try {
        return await response.text();
    } catch (error) {
        throw unreachable(error, signal);
    }
}

function parsed(text) {
    try {
        return JSON.parse(text);
    } catch (cause) {
        throw new MobyncError('the answer is no JSON', { code: 'no_json', cause });
    }
}

function unreachable(error, signal) {
    if (signal?.aborted) return signal.reason;
    return new MobyncError(`the server was not reached: ${error.message}`, { cause: error });
}

/** The clocks in a stream of Server-Sent Events; `heard` is called for each piece of the stream. */
async function* clocksOf(body, heard) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    try {
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            heard();
            text += decoder.decode(value, { stream: true });
            const events = text.split('\n\n');
            text = events.pop();
            for (const event of events) {
                const data = /^data: ?(\d+)$/m.exec(event);
                if (data) yield Number(data[1]);
            }
        }
    } finally {
        await reader.cancel().catch(() => undefined);
    }
}
