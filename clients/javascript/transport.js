// HTTP to a mobync server, for the clients in this package: tokens, refusals, pauses, events.
//
// docs/http.md of mobync says what a client does after each status. After a 401, `post` gets a new
// token and tries once more. For other errors, `post` throws a MobyncError. A Backoff says how long
// to wait, and `retrying` waits and tries again.

const FIRST_PAUSE_MS = 500;
const MOST_PAUSE_MS = 30_000;
const TIMEOUT_MS = 600_000; // for an answer to begin, and again for it to end
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
        throwIfAborted(signal);
        const stop = () => {
            clearTimeout(timer);
            reject(reasonOf(signal));
        };
        const timer = setTimeout(() => {
            signal?.removeEventListener('abort', stop);
            resolve();
        }, Math.min(ms, MOST_TIMER_MS));
        signal?.addEventListener('abort', stop, { once: true });
    });
}

/** Why a signal was aborted. React Native's signals have no reason. */
function reasonOf(signal) {
    return signal.reason ?? Object.assign(new Error('aborted'), { name: 'AbortError' });
}

/** As the method of a signal, which React Native does not have. */
export function throwIfAborted(signal) {
    if (signal?.aborted) throw reasonOf(signal);
}

/** Call a function of the app; what it throws must not count as a sync that failed. */
export function tell(appsOwn, what) {
    try {
        appsOwn(what);
    } catch (error) {
        console.error('mobync', error);
    }
}

/** A result, or the reason of a signal as soon as it is aborted, whatever the work does then. */
function unlessAborted(work, signal) {
    return new Promise((resolve, reject) => {
        const stop = () => reject(reasonOf(signal));
        signal?.addEventListener('abort', stop);
        if (signal?.aborted) stop();
        const end = () => signal?.removeEventListener('abort', stop);
        Promise.resolve(work).then(resolve, reject).finally(end);
    });
}

/** A signal that is also aborted, with an error, if nothing is heard for a time. */
class Watch {
    #controller = new AbortController();
    #timer;

    constructor(ms, what, outer) {
        this.ms = ms;
        this.what = what;
        this.outer = outer;
        this.signal = this.#controller.signal;
        this.isSilent = false;
        this.reason = undefined;
        this.stop = () => this.#abort(reasonOf(outer));
        outer?.addEventListener('abort', this.stop);
        if (outer?.aborted) this.stop();
    }

    heard() {
        this.rest();
        if (this.signal.aborted) return;
        this.#timer = setTimeout(() => {
            this.isSilent = true;
            this.#abort(new MobyncError(`${this.what} for ${this.ms / 1000} s`));
        }, Math.min(this.ms, MOST_TIMER_MS));
    }

    /** Wait for any time, until something is heard again. */
    rest() {
        clearTimeout(this.#timer);
    }

    /** What an error of a request that this watches is for the caller. */
    errorOf(error) {
        if (this.signal.aborted) return this.reason;
        return new MobyncError(`the server was not reached: ${error.message}`, { cause: error });
    }

    end() {
        this.rest();
        this.outer?.removeEventListener('abort', this.stop);
    }

    #abort(reason) {
        this.reason = reason; // React Native's controllers drop it
        this.#controller.abort(reason);
    }
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
    timeoutMs: KINDS.count,
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
 * that returns it or a promise of it; it gets `{ isRefused: true }` if the last token was refused,
 * or if it returned none.
 * `device` is the name of the device; without it, the device has no name.
 */
export class MobyncTransport {
    constructor(options = {}) {
        const server = checkedOptions('MobyncTransport', options);
        const { url, token, device, timeoutMs = TIMEOUT_MS, fetch: ownFetch } = server;
        if (!ownFetch && !globalThis.location && !/^https?:\/\//i.test(url)) {
            throw new TypeError('url must begin with https:// or http://, except in a page');
        }
        this.url = url.replace(/\/+$/, '');
        this.query = device == null ? '' : `?device=${encodeURIComponent(device)}`;
        this.token = token;
        this.timeoutMs = timeoutMs;
        this.fetch = ownFetch ?? ((...request) => globalThis.fetch(...request));
    }

    /** POST JSON to a path below the sync route; gives the reply as an object. */
    async post(path, body, signal) {
        return parsed(await this.postForText(path, body, signal));
    }

    /** As `post`, but gives the reply as its text. */
    async postForText(path, body, signal) {
        const watch = new Watch(this.timeoutMs, 'the server did not answer', signal);
        try {
            const response = await this.#ask(path, watch, {
                method: 'POST',
                headers: { 'Content-Type': 'application/json' },
                body: JSON.stringify(body),
            });
            return await textOf(response, watch);
        } finally {
            watch.end();
        }
    }

    /**
     * Tell the clock of the owner's log whenever it has moved, until the signal is aborted.
     *
     * What fails is tried again.  Where there are no events - the server tells none, or `fetch`
     * gives no stream, as in React Native - it tells null every now and then.  Of a device that was
     * revoked it tells null once, and ends.
     */
    async listen(onClock, signal, options = {}) {
        const { onError = () => undefined, pollMs = POLL_MS, silenceMs = SILENCE_MS } = options;
        const backoff = new Backoff();
        let toldAt = Date.now();
        while (!signal.aborted) {
            try {
                await this.#listenOnce(onClock, signal, silenceMs, backoff);
            } catch (error) {
                if (signal.aborted) return;
                if (error?.code === 'no_events') {
                    await pause(pollMs, signal).then(() => onClock(null), () => undefined);
                    continue;
                }
                if (error?.code === 'device_revoked') return onClock(null);
                onError(error);
                if (error?.status > 0 && Date.now() - toldAt >= pollMs) {
                    toldAt = Date.now(); // the server answers, but perhaps never with events
                    onClock(null);
                }
                if (await waitedOrOnline(backoff.next(error), signal)) backoff.reset();
            }
        }
    }

    async #listenOnce(onClock, signal, silenceMs, backoff) {
        const watch = new Watch(silenceMs, 'the stream of events was silent', signal);
        try {
            const response = await this.#ask('/events', watch, {
                headers: { Accept: 'text/event-stream' },
            });
            if (!response.body?.getReader) {
                throw new MobyncError('fetch gives no stream', { code: 'no_events' });
            }
            for await (const clock of clocksOf(response.body, watch)) {
                backoff.reset();
                onClock(clock);
            }
        } catch (error) {
            // As a fetch that gives its answer at the end, or a proxy that holds events back, does.
            if (watch.isSilent) onClock(null);
            throw watch.signal.aborted ? watch.reason : error;
        } finally {
            watch.stop(); // ends the request, if it has not ended
            watch.end();
        }
        throw new MobyncError('the stream of events has ended');
    }

    async #ask(path, watch, request) {
        const first = await this.#tokenFor({ isRefused: false }, watch);
        if (isText(first)) {
            const response = await this.#askAs(first, path, watch, request);
            if (response.status !== 401 || typeof this.token !== 'function') {
                return acceptedOf(response, watch);
            }
            response.body?.cancel?.().catch(() => undefined);
        }
        const fresh = await this.#tokenFor({ isRefused: true }, watch);
        if (!isText(fresh)) {
            const must = 'the function for the token must return a string that is not empty';
            throw new TypeError(`${must}, not ${shown(fresh)}`);
        }
        return acceptedOf(await this.#askAs(fresh, path, watch, request), watch);
    }

    /** A token, however long a person takes to sign in. */
    #tokenFor(asked, watch) {
        watch.rest();
        const token = typeof this.token === 'function' ? this.token(asked) : this.token;
        return unlessAborted(token, watch.signal);
    }

    async #askAs(token, path, watch, request) {
        if (watch.signal.aborted) throw watch.reason;
        const headers = { ...request.headers, Authorization: `Bearer ${token}` };
        const { signal } = watch;
        watch.heard();
        try {
            const asked = this.fetch(this.url + path + this.query, { ...request, headers, signal });
            const response = await unlessAborted(asked, signal);
            watch.heard();
            return response;
        } catch (error) {
            throw watch.errorOf(error);
        }
    }
}

async function acceptedOf(response, watch) {
    if (response.ok) return response;
    const text = await textOf(response, watch).catch((error) => {
        if (watch.signal.aborted) throw error;
        return '';
    });
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

async function textOf(response, watch) {
    try {
        return await unlessAborted(response.text(), watch.signal);
    } catch (error) {
        throw watch.errorOf(error);
    }
}

function parsed(text) {
    try {
        return JSON.parse(text);
    } catch (cause) {
        throw new MobyncError('the answer is no JSON', { code: 'no_json', cause });
    }
}

/** The clocks in a stream of Server-Sent Events. */
async function* clocksOf(body, watch) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    try {
        for (;;) {
            const { done, value } = await unlessAborted(reader.read(), watch.signal);
            if (done) return;
            watch.heard();
            text += decoder.decode(value, { stream: true });
            const events = text.split('\n\n');
            text = events.pop();
            for (const event of events) {
                const data = /^data: ?(\d+)$/m.exec(event);
                if (data) yield Number(data[1]);
            }
        }
    } finally {
        reader.cancel().catch(() => undefined); // not awaited: it may wait for the dead connection
    }
}
