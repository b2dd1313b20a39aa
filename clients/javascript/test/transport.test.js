// The transport against real HTTP: a small server that answers as each test tells it.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, beforeEach, test } from 'node:test';

import { Backoff, MobyncError, MobyncTransport, pause, retrying } from '../transport.js';

let url;
let asked; // what came, in order
let answers; // what to answer, in order; the last one stays
const server = createServer((request, response) => {
    let body = '';
    request.on('data', (piece) => (body += piece));
    request.on('end', () => {
        asked.push({ path: request.url, token: request.headers.authorization, body });
        const answer = answers.length > 1 ? answers.shift() : answers[0];
        answer(response);
    });
});

const json = (status, body, headers = {}) => (response) => {
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
    response.end(JSON.stringify(body));
};
const cut = (response) => response.destroy();
const quick = () => new Backoff(1, 2);

before(async () => {
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${server.address().port}/sync`;
});
after(() => {
    server.closeAllConnections();
    server.close();
});
beforeEach(() => {
    asked = [];
    answers = [json(200, { ok: 1 })];
});

test('a request has the token and JSON, and gives the reply', async () => {
    const transport = new MobyncTransport({ url: `${url}/`, token: 't' });

    assert.deepEqual(await transport.post('/x/pull', { a: 1 }), { ok: 1 });
    assert.deepEqual(asked, [{ path: '/sync/x/pull', token: 'Bearer t', body: '{"a":1}' }]);
});

test('a 401 gets a new token, and one more try', async () => {
    const told = [];
    const token = async ({ isRefused }) => {
        told.push(isRefused);
        return isRefused ? 'new' : 'old';
    };
    answers = [json(401, { code: 'token_expired', message: 'expired' }), json(200, { ok: 1 })];

    assert.deepEqual(await new MobyncTransport({ url, token }).post('', {}), { ok: 1 });
    assert.deepEqual(told, [false, true]);
    assert.deepEqual(asked.map((each) => each.token), ['Bearer old', 'Bearer new']);
});

test('a token function that returns nothing is asked once more, as after a 401', async () => {
    const told = [];
    for (const nothing of [undefined, null, '', 7]) {
        asked = [];
        const token = async ({ isRefused }) => (isRefused ? 'new' : nothing);
        await new MobyncTransport({ url, token }).post('', {});
        assert.deepEqual(asked.map((each) => each.token), ['Bearer new']);

        const never = ({ isRefused }) => (told.push(isRefused), nothing);
        await assert.rejects(new MobyncTransport({ url, token: never }).post('', {}), {
            name: 'TypeError', message: /the function for the token must return a string .*, not /,
        });
        assert.equal(asked.length, 1);
    }
    assert.deepEqual(told, Array(4).fill([false, true]).flat());
});

test('a second 401 is thrown, and so is the first of a token that is a string', async () => {
    answers = [json(401, { code: 'unauthenticated', message: 'no' })];

    for (const [token, requests] of [[() => 'x', 2], ['x', 1]]) {
        asked = [];
        await assert.rejects(new MobyncTransport({ url, token }).post('', {}), {
            name: 'MobyncError', status: 401, code: 'unauthenticated', isTransient: false,
        });
        assert.equal(asked.length, requests);
    }
});

test('a refusal says what it is', async () => {
    const transport = new MobyncTransport({ url, token: 't' });
    answers = [json(409, { code: 'clock_ahead', message: 'ahead', pull_anew: true })];
    await assert.rejects(transport.post('', {}), (error) => {
        assert.equal(error.message, 'ahead');
        assert.deepEqual([error.status, error.code, error.isTransient], [409, 'clock_ahead', false]);
        assert.equal(error.body.pull_anew, true);
        return true;
    });

    answers = [json(503, { code: 'busy', message: 'later' }, { 'Retry-After': '2' })];
    await assert.rejects(transport.post('', {}), { code: 'busy', retryAfterMs: 2000, isTransient: true });

    answers = [(response) => response.writeHead(502).end('<html>')];
    await assert.rejects(transport.post('', {}), { status: 502, code: 'http_502', isTransient: true });
});

test('what is cut is unreachable, and tried again', async () => {
    const transport = new MobyncTransport({ url, token: 't' });
    answers = [cut];
    await assert.rejects(transport.post('', {}), { status: 0, code: 'unreachable', isTransient: true });

    answers = [cut, json(503, { code: 'busy' }), json(200, { ok: 1 })];
    asked = [];
    const work = () => transport.post('', {});
    assert.deepEqual(await retrying(work, { backoff: quick() }), { ok: 1 });
    assert.equal(asked.length, 3);
});

test('an answer that breaks off is unreachable', async () => {
    answers = [(response) => {
        response.writeHead(200, { 'Content-Length': '100' });
        response.write('{"a":', () => response.destroy());
    }];
    await assert.rejects(new MobyncTransport({ url, token: 't' }).post('', {}), { code: 'unreachable' });
});

test('what is not transient is not tried again, and tries end', async () => {
    const transport = new MobyncTransport({ url, token: 't' });
    const work = () => transport.post('', {});
    answers = [json(400, { code: 'invalid_request' })];
    await assert.rejects(retrying(work, { backoff: quick() }), { status: 400 });
    assert.equal(asked.length, 1);

    asked = [];
    answers = [json(503, { code: 'busy' })];
    await assert.rejects(retrying(work, { backoff: quick(), tries: 3 }), { status: 503 });
    assert.equal(asked.length, 3);

    asked = [];
    await assert.rejects(retrying(async () => { throw new RangeError('a bug'); }), RangeError);
});

test('pauses grow, keep below their limit, and keep to what the server asks', () => {
    const backoff = new Backoff(100, 1000);
    const pauses = Array.from({ length: 8 }, () => backoff.next());
    pauses.forEach((each, index) => {
        const span = Math.min(1000, 100 * 2 ** index);
        assert.ok(each >= span / 2 && each <= span, `${each} of ${span}`);
    });
    assert.ok(backoff.next(new MobyncError('later', { retryAfterMs: 5000 })) >= 5500);
    backoff.reset();
    assert.ok(backoff.next() <= 100);
});

test('a pause that no timer can wait is cut to a day', async () => {
    const DAY_MS = 86_400_000;
    const transport = new MobyncTransport({ url, token: 't' });
    const asksFor = async (text) => {
        answers = [json(503, { code: 'busy' }, { 'Retry-After': text })];
        return transport.post('', {}).catch((error) => error);
    };
    assert.equal(new Backoff().next(await asksFor('2592000')), DAY_MS);
    assert.equal(new Backoff().next(await asksFor('9'.repeat(400))), DAY_MS);
    const date = new Date(Date.now() + 60_000).toUTCString();
    const { retryAfterMs } = await asksFor(date);
    assert.ok(retryAfterMs > 50_000 && retryAfterMs <= 60_000, `${retryAfterMs}`);
    for (const odd of ['soon', '-5', '']) assert.equal((await asksFor(odd)).retryAfterMs, 0);

    const stopping = new AbortController();
    const waited = pause(1e12, stopping.signal).then(() => 'at once', () => 'aborted');
    setTimeout(() => stopping.abort(), 20);
    assert.equal(await waited, 'aborted');
});

test('an abort ends a request and a pause, with its reason', async () => {
    const transport = new MobyncTransport({ url, token: 't' });
    const reason = new Error('the user left');
    const stopping = new AbortController();
    answers = [() => stopping.abort(reason)]; // asked, and not answered
    await assert.rejects(transport.post('', {}, stopping.signal), reason);

    const waiting = new AbortController();
    const paused = pause(1e6, waiting.signal);
    waiting.abort(reason);
    await assert.rejects(paused, reason);
    await assert.rejects(transport.post('', {}, waiting.signal), reason);
});

test('mistakes in the options are told at once', () => {
    assert.throws(() => new MobyncTransport({ token: 't' }), /url must be/);
    assert.throws(() => new MobyncTransport({ url }), /token must be/);
    assert.throws(() => new MobyncTransport(), /url must be/);
    const wrong = (more, message) =>
        assert.throws(() => new MobyncTransport({ url, token: 't', ...more }), { name: 'TypeError', message });
    wrong({ urll: url }, 'MobyncTransport has no option urll. It has: url, token, timeoutMs, device, fetch');
    wrong({ toString: 1 }, /has no option toString/);
    for (const each of [7, '', null, {}, `${url}?tenant=1`]) wrong({ url: each }, /url must be the URL/);
    for (const each of [7, '', null, {}]) wrong({ token: each }, /token must be a string/);
    wrong({ token: 7 }, /, not 7$/);
    wrong({ fetch: {} }, /fetch must be a function, not this object/);
    wrong({ url: '127.0.0.1:8000/sync' }, /url must begin with https:/); // fetch would not take it
    assert.throws(() => new MobyncTransport(null), /options must be an object/);
    new MobyncTransport({ url: '/sync', token: 't', fetch: () => undefined, device: undefined });
});

test('events tell clocks, also after a break', async () => {
    const stream = (...pieces) => (response) => {
        response.writeHead(200, { 'Content-Type': 'text/event-stream' });
        for (const piece of pieces) response.write(piece);
        response.end();
    };
    answers = [
        stream(': hello\n\nid: 7\nevent: clock\nda', 'ta: 7\n\n'),
        cut,
        stream('id: 9\nevent: clock\ndata: 9\n\n'),
    ];
    const stopping = new AbortController();
    const clocks = [];
    await new MobyncTransport({ url, token: 't' }).listen((clock) => {
        clocks.push(clock);
        if (clock === 9) stopping.abort();
    }, stopping.signal);

    assert.deepEqual(clocks, [7, 9]);
    assert.equal(asked[0].path, '/sync/events');
});

test('events begin at once when the browser is online again', async () => {
    const network = new EventTarget();
    globalThis.addEventListener = network.addEventListener.bind(network);
    globalThis.removeEventListener = network.removeEventListener.bind(network);
    answers = [cut];
    const stopping = new AbortController();
    let failures = 0;
    const transport = new MobyncTransport({ url, token: 't' });
    await transport.listen(() => undefined, stopping.signal, {
        onError: () => {
            failures += 1;
            if (failures === 12) return stopping.abort(); // without the event: after minutes
            setTimeout(() => network.dispatchEvent(new Event('online')));
        },
    });
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;

    assert.equal(asked.length, 12);
});

test('without events the client is told to look, now and then', async () => {
    answers = [json(404, { code: 'no_events', message: 'none' })];
    const stopping = new AbortController();
    const clocks = [];
    await new MobyncTransport({ url, token: 't' }).listen(
        (clock) => {
            clocks.push(clock);
            if (clocks.length === 2) stopping.abort();
        },
        stopping.signal,
        { pollMs: 1 },
    );

    assert.deepEqual(clocks, [null, null]);
});

// ---- what never answers --------------------------------------------------------------------------

const never = () => new Promise(() => undefined);

test('a request without an answer ends, and may be tried again', { timeout: 20_000 }, async () => {
    const transport = new MobyncTransport({ url, token: 't', timeoutMs: 30 });
    const late = { status: 0, code: 'unreachable', isTransient: true, message: /did not answer for 0.03 s/ };
    answers = [() => undefined];
    await assert.rejects(transport.post('', {}), late);
    answers = [(response) => response.writeHead(200).write('{"a":')]; // and no more
    await assert.rejects(transport.post('', {}), late);
    answers = [(response) => response.writeHead(503).write('{')];
    await assert.rejects(transport.post('', {}), late);
    // A fetch that does not know signals.
    const deaf = new MobyncTransport({ url, token: 't', timeoutMs: 30, fetch: never });
    await assert.rejects(deaf.post('', {}), late);

    answers = [() => undefined, json(200, { ok: 1 })];
    const work = () => transport.post('', {});
    assert.deepEqual(await retrying(work, { backoff: quick() }), { ok: 1 });
});

test('a token may take its time, and an abort ends that', { timeout: 20_000 }, async () => {
    const slow = () => new Promise((resolve) => setTimeout(() => resolve('t'), 100));
    const patient = new MobyncTransport({ url, token: slow, timeoutMs: 50 });
    assert.deepEqual(await patient.post('', {}), { ok: 1 });

    const reason = new Error('the user left');
    const stopping = new AbortController();
    const asked = new MobyncTransport({ url, token: never }).post('', {}, stopping.signal);
    stopping.abort(reason);
    await assert.rejects(asked, reason);
});

test('signals of React Native are enough', { timeout: 20_000 }, async () => {
    // They have no reason and no throwIfAborted.
    const signal = Object.assign(new EventTarget(), { aborted: false });
    const transport = new MobyncTransport({ url, token: 't' });
    assert.deepEqual(await transport.post('', {}, signal), { ok: 1 });
    answers = [
        () => {
            signal.aborted = true;
            signal.dispatchEvent(new Event('abort'));
        },
    ];
    await assert.rejects(transport.post('', {}, signal), { name: 'AbortError' });
    await assert.rejects(pause(1, signal), { name: 'AbortError' });
});

/** What `listen` tells until it has told so much; with the errors. */
async function told(count, options, more = {}) {
    const stopping = new AbortController();
    const [clocks, errors] = [[], []];
    const transport = new MobyncTransport({ url, token: 't', ...more });
    const onClock = (clock) => {
        clocks.push(clock);
        if (clocks.length === count) stopping.abort();
    };
    const onError = (error) => errors.push(error.message);
    await transport.listen(onClock, stopping.signal, { onError, ...options });
    return { clocks, errors };
}

test('a stream that falls silent is begun again', { timeout: 20_000 }, async () => {
    const began = (response) => response.writeHead(200).write('id: 7\ndata: 7\n\n');
    answers = [began, began];
    const { clocks, errors } = await told(3, { silenceMs: 50 });
    assert.deepEqual(clocks, [7, null, 7]);
    assert.deepEqual(errors, ['the stream of events was silent for 0.05 s']);
});

test('where no event can come, the client is told to look', { timeout: 20_000 }, async () => {
    // As fetch in React Native, which waits for the end of the stream.
    assert.deepEqual((await told(2, { silenceMs: 10 }, { fetch: never })).clocks, [null, null]);
    // As a backend without this route.
    answers = [json(404, { detail: 'Not Found' })];
    assert.deepEqual((await told(2, { pollMs: 1 })).clocks, [null, null]);
});
