/** The server, and the device that asks. */
export interface ServerOptions {
    /** The URL of the sync route, such as https://example.org/sync. */
    url: string;
    /**
     * The token, or a function that returns it or a promise of it. The function is called before
     * each request, and once more with `isRefused` if the server did not accept the token, or if the
     * function returned none. If it returns none then, the request fails with a TypeError.
     */
    token: string | ((asked: { isRefused: boolean }) => string | Promise<string>);
    /**
     * The name of the device, always the same. People see it in the list of an owner's devices, and
     * can revoke it. By default, `replicateWithMobync` and `syncWithMobync` make a name and store
     * it; null: no name. A transport of your own has no name by default.
     */
    device?: string | null;
    /**
     * How long an answer may take to begin, and then to end, in milliseconds; 600,000 by default.
     * After that, the request counts as one that did not reach the server. Does not hold for the
     * event stream and for the token.
     */
    timeoutMs?: number;
    /** Used instead of the global `fetch`. */
    fetch?: typeof globalThis.fetch;
}

/** A request that the server refused, or that did not reach it. */
export class MobyncError extends Error {
    constructor(
        message: string,
        more?: {
            status?: number;
            code?: string;
            retryAfterMs?: number;
            body?: unknown;
            cause?: unknown;
        },
    );
    /** The HTTP status; 0 if there was no answer. */
    readonly status: number;
    /** The code of docs/http.md; `unreachable` if there was no answer. */
    readonly code: string;
    /** How long the server asked to wait, in milliseconds. */
    readonly retryAfterMs: number;
    /** The answer's body. */
    readonly body: unknown;
    /** Whether the same request may succeed if it is sent again. */
    readonly isTransient: boolean;
}

/** How long to wait after each failure: a random time, twice as long each time, up to a limit. */
export class Backoff {
    constructor(firstMs?: number, mostMs?: number);
    failures: number;
    /** Milliseconds to wait after one more failure: at least what the server asked for, up to a day. */
    next(error?: unknown): number;
    reset(): void;
}

/** A unique id, even without crypto: in React Native, or on a page without TLS. */
export function newId(): string;

/** Wait, for 24.8 days at most; rejects with the signal's reason as soon as it is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void>;

/** Do some work, and again after a transient MobyncError, at most a few times. */
export function retrying<T>(
    work: () => Promise<T>,
    options?: { signal?: AbortSignal; tries?: number; backoff?: Backoff },
): Promise<T>;

/** Requests to one server, as one owner. */
export class MobyncTransport {
    /** @throws TypeError: an option is wrong or unknown. */
    constructor(options: ServerOptions);
    /** POST JSON to a path below the sync route; returns the reply as an object. */
    post(path: string, body: unknown, signal?: AbortSignal): Promise<any>;
    /** Like `post`, but returns the reply as text. */
    postForText(path: string, body: unknown, signal?: AbortSignal): Promise<string>;
    /**
     * Report the clock of the owner's log whenever it has changed, until the signal is aborted.
     * Without events, report null every `pollMs`. Report null once if the device was revoked. If a
     * stream is silent for `silenceMs` (60,000 by default), report null, and connect again.
     */
    listen(
        onClock: (clock: number | null) => void,
        signal: AbortSignal,
        options?: { onError?: (error: unknown) => void; pollMs?: number; silenceMs?: number },
    ): Promise<void>;
}
