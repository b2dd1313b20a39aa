/** Where the server is, and who asks. */
export interface ServerOptions {
    /** The address of the sync route, as https://example.org/sync. */
    url: string;
    /**
     * The token, or a function that gives it, now or by a promise.  The function is called before
     * each request, and once more with `isRefused` where the server did not take the token.
     */
    token: string | ((asked: { isRefused: boolean }) => string | Promise<string>);
    /**
     * What the device calls itself, the same always.  People see it in the list of an owner's
     * devices, and may end it there.  By default `replicateWithMobync` and `syncWithMobync` make a
     * name and keep it; null: no name.  A transport of your own has none by default.
     */
    device?: string | null;
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
    /** As in docs/http.md; `unreachable` if there was no answer. */
    readonly code: string;
    /** How long the server asked to wait, in milliseconds. */
    readonly retryAfterMs: number;
    /** The answer's body. */
    readonly body: unknown;
    /** Whether the same request may be answered if it is sent again. */
    readonly isTransient: boolean;
}

/** How long to wait after each failure: twice as long each time, up to a limit, and at random. */
export class Backoff {
    constructor(firstMs?: number, mostMs?: number);
    failures: number;
    /** Milliseconds to wait after one more failure, and no less than the server asked for. */
    next(error?: unknown): number;
    reset(): void;
}

/** An id that nothing else has, also where there is no crypto: React Native, a page without TLS. */
export function newId(): string;

/** Wait; rejects with the signal's reason as soon as it is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void>;

/** Do some work, and again after each transient MobyncError, a few times. */
export function retrying<T>(
    work: () => Promise<T>,
    options?: { signal?: AbortSignal; tries?: number; backoff?: Backoff },
): Promise<T>;

/** Requests to one server, as one owner. */
export class MobyncTransport {
    constructor(options: ServerOptions);
    /** POST JSON to a path below the sync route; gives the reply as an object. */
    post(path: string, body: unknown, signal?: AbortSignal): Promise<any>;
    /** As `post`, but gives the reply as its text. */
    postForText(path: string, body: unknown, signal?: AbortSignal): Promise<string>;
    /**
     * Tell the clock of the owner's log whenever it has moved, until the signal is aborted; null
     * every `pollMs` where there are no events, and once of a device that was revoked.
     */
    listen(
        onClock: (clock: number | null) => void,
        signal: AbortSignal,
        options?: { onError?: (error: unknown) => void; pollMs?: number },
    ): Promise<void>;
}
