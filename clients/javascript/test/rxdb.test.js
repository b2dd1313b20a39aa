// RxDB's replication against a server of a few lines, which holds its answers.
import assert from 'node:assert/strict';
import { test } from 'node:test';


import { replicateWithMobync, waiting } from '../rxdb.js';
import { newDatabase } from './database.js';

const SCHEMA = {
    version: 0,
    primaryKey: 'id',
    type: 'object',
    properties: { id: { type: 'string', maxLength: 40 }, done: { type: 'boolean' }, text: { type: 'string' } },
    required: ['id'],
};

/** A promise, with what resolves it. */
function gate() {
    let open;
    const opened = new Promise((resolve) => (open = resolve));
    return { open, opened };
}

function json(body) {
    return new Response(JSON.stringify(body), {
        headers: { 'content-type': 'application/json' },
    });
}

test('mistakes in the options are told at once', async () => {
    const database = await newDatabase('mistakes');
    const { tasks } = await database.addCollections({
        tasks: { schema: SCHEMA, localDocuments: true },
    });
    const right = { url: 'http://localhost/sync', token: 't' };
    const wrong = (more, message) =>
        assert.rejects(replicateWithMobync(tasks, { ...right, ...more }), { name: 'TypeError', message });
    await wrong({ urll: 'x' }, /^replicateWithMobync has no option urll. It has: url, .*identifier$/);
    await wrong({ pull: {} }, /has no option pull/); // of RxDB's own function
    await wrong({ url: 7 }, /url must be the URL of the sync route.*, not 7$/);
    await wrong({ token: undefined }, /token must be a string/);
    await wrong({ device: '' }, /device must be a name/);
    await wrong({ model: 7 }, /model must be a string/);
    await wrong({ batchSize: 1.5 }, /batchSize must be a whole number above 0, not 1.5$/);
    await wrong({ live: 'no' }, /live must be true or false/);
    await wrong({ signal: new AbortController() }, /signal must be an AbortSignal/);
    await wrong({ onRefused: null }, /onRefused must be a function, not null/);
    await assert.rejects(replicateWithMobync(tasks), /url must be/);
    await assert.rejects(replicateWithMobync(right), /needs a collection of RxDB/);
    await database.remove();
});

test('an edit that repeats one which was just reverted is an edit of its own', async () => {
    const database = await newDatabase('repeated');
    const { tasks } = await database.addCollections({
        tasks: { schema: SCHEMA, localDocuments: true },
    });
    const pushed = []; // a gate for each push that has come
    const rows = [];
    const arrived = [gate(), gate(), gate()];
    const reverts = { conflicts: [{ id: 'x', done: false, _deleted: false }], refused: [] };
    const fetch = async (url, { body }) => {
        if (new URL(url).pathname.endsWith('/pull')) {
            return json({ documents: [], checkpoint: { clock: 1, id: '', began: 1 } });
        }
        if (!new URL(url).pathname.endsWith('/push')) return new Promise(() => undefined); // events
        const answer = gate();
        rows.push(...JSON.parse(body).rows);
        pushed.push(answer);
        arrived[pushed.length - 1].open();
        return json(await answer.opened);
    };
    const options = { url: 'http://localhost/sync', token: 't', device: 'd', fetch };
    const replication = await replicateWithMobync(tasks, { ...options, waitForLeadership: false });
    await replication.awaitInitialReplication();

    const document = await tasks.insert({ id: 'x', done: false });
    await arrived[0].opened;
    pushed[0].open({ conflicts: [], refused: [] });
    await replication.awaitInSync();

    await document.incrementalPatch({ done: true });
    await arrived[1].opened;
    replication.reSync(); // as an event of the server does; RxDB will also look for edits then
    const meta = replication.internalReplicationState.input.metaInstance;
    const write = meta.bulkWrite.bind(meta);
    const isEdited = gate();
    meta.bulkWrite = async (written, context) => {
        // RxDB has reverted the document here, and has not stored that it has the answer.
        if (context === 'replication-up-write-conflict-meta') await isEdited.opened;
        return write(written, context);
    };
    const reverted = gate();
    document.$.subscribe((now) => now.done || reverted.open());
    pushed[1].open(reverts);
    await reverted.opened;
    await document.getLatest().incrementalPatch({ done: true });
    isEdited.open();

    await arrived[2].opened;
    assert.equal(rows[2].newDocumentState.done, true);
    assert.notEqual(rows[2].id, rows[1].id);
    pushed[2].open({ conflicts: [], refused: [] });
    await replication.awaitInSync();
    assert.equal(document.getLatest().done, true);
    await database.remove();
});

/** A collection, and what a server is that answers as `answer(route, count, body)` says. */
async function served(name, answer, options = {}) {
    const database = await newDatabase(name);
    const { tasks } = await database.addCollections({
        tasks: { schema: SCHEMA, localDocuments: true },
    });
    const counts = { pull: 0, push: 0, events: 0 };
    const fetch = async (url, { body }) => {
        const route = new URL(url).pathname.split('/').at(-1);
        counts[route] += 1;
        return answer(route, counts[route], body && JSON.parse(body));
    };
    const replication = await replicateWithMobync(tasks, {
        url: 'http://localhost/sync',
        token: 't',
        device: 'd',
        fetch,
        waitForLeadership: false,
        autoStart: false,
        ...options,
    });
    return { database, tasks, replication, counts };
}

const AT = { clock: 1, id: '', began: 1 };
const nothing = () => json({ documents: [], checkpoint: AT });
const busy = () => new Response('{"code": "busy"}', { status: 503 });

test('a pull that works does not shorten the pauses of a push', { timeout: 20_000 }, async () => {
    const pauses = { pull: [], push: [] };
    const { open, opened } = gate();
    const { database, tasks, replication } = await served('pauses', (route, count) => {
        if (route === 'events') return new Promise(() => undefined);
        if (route === 'pull') return count === 5 ? busy() : nothing();
        return count <= 5 ? busy() : json({ conflicts: [], refused: [] });
    });
    await tasks.insert({ id: 'x' });
    replication.error$.subscribe(async ({ parameters: { direction } }) => {
        pauses[direction].push(replication.retryTime);
        if (direction === 'push') await replication.pull.handler(AT, 1).catch(() => undefined);
    });
    // RxDB waits for what it reads right after the error was told.
    replication.error$.subscribe(() => (replication.retryTime = 1));
    replication.sent$.subscribe(open);
    await replication.start();
    await opened;

    pauses.push.forEach((each, index) => {
        assert.ok(each >= 250 * 2 ** index, `${each} after ${index + 1} failures`);
    });
    assert.equal(pauses.push.length, 5);
    await database.remove();
});

test('an app that throws when it is told of a refusal does not stop the sync', { timeout: 20_000 }, async () => {
    const said = [];
    const consoleError = console.error;
    console.error = (...each) => said.push(each);
    const { open, opened } = gate();
    const { database, tasks, replication, counts } = await served(
        'throws',
        (route) => {
            if (route === 'events') return new Promise(() => undefined);
            if (route === 'pull') return nothing();
            const refused = [{ id: 'x', code: 'unauthorized', message: 'no' }];
            return json({ conflicts: [{ id: 'x', _deleted: true }], refused });
        },
        {
            onRefused: () => {
                throw new Error('of the app');
            },
        },
    );
    await tasks.insert({ id: 'x' });
    tasks.findOne('x').$.subscribe((found) => found ?? open());
    replication.error$.subscribe(open);
    await replication.start();
    await opened;
    console.error = consoleError;

    assert.equal(said[0][1].message, 'of the app');
    assert.equal(counts.push, 1);
    await database.remove();
});

async function eventually(check) {
    for (let tries = 0; tries < 200 && !check(); tries += 1) {
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    assert.ok(check(), 'it never came');
}

const refusal = (status, code) => new Response(JSON.stringify({ code }), { status });
const offline = () => {
    throw new TypeError('offline');
};

test('a push that is the first to hear of a restored server goes on', { timeout: 20_000 }, async () => {
    let server = 'new'; // then restored, then followed
    const { database, tasks, replication } = await served('restored', (route, _, body) => {
        if (route === 'events') return new Promise(() => undefined);
        const isAhead = server !== 'new' && body.checkpoint?.clock > 1;
        if (isAhead) return refusal(409, 'clock_ahead');
        if (route === 'push') return json({ conflicts: [], refused: [] });
        return json({ documents: [], checkpoint: { ...AT, clock: server === 'new' ? 9 : 1 } });
    });
    const sent = [];
    replication.sent$.subscribe(({ id }) => sent.push(id));
    replication.error$.subscribe(() => (replication.retryTime = 1));
    await replication.start();
    await replication.awaitInSync();
    server = 'restored';
    await tasks.insert({ id: 'x' });

    await eventually(() => sent.includes('x'));
    await database.remove();
});

test('a replication that runs once ends when it is in sync', { timeout: 20_000 }, async () => {
    const { database, tasks, replication, counts } = await served(
        'once',
        (route) => (route === 'pull' ? nothing() : json({ conflicts: [], refused: [] })),
        { live: false },
    );
    await tasks.insert({ id: 'x' });
    await replication.start();
    await eventually(() => replication.isStopped());
    assert.deepEqual([counts.push, counts.events], [1, 0]);
    await database.remove();
});

test('a replication that runs once ends if it is aborted, or revoked', { timeout: 20_000 }, async () => {
    const stopping = new AbortController();
    const aborted = await served('aborted', offline, { live: false, signal: stopping.signal });
    aborted.replication.start();
    await eventually(() => aborted.counts.pull > 0);
    stopping.abort();
    await eventually(() => aborted.replication.isStopped());
    await aborted.database.remove();

    const codes = [];
    const onRevoked = ({ code }) => codes.push(code);
    const answer = () => refusal(403, 'device_revoked');
    const revoked = await served('revoked', answer, { live: false, onRevoked });
    revoked.replication.start();
    await eventually(() => codes.length > 0);
    assert.ok(revoked.tasks.closed);
    await revoked.database.remove();
});

test('what a restored server refuses is told, and taken back', { timeout: 20_000 }, async () => {
    let server = 'new';
    const refused = [];
    const onRefused = (each) => refused.push(...each);
    const no = { id: 'x', code: 'unauthorized', message: 'no' };
    const answer = (route, _, body) => {
        if (route === 'events') return new Promise(() => undefined);
        if (server !== 'new' && body.checkpoint?.clock > 1) return refusal(409, 'clock_ahead');
        if (route === 'pull') {
            // RxDB stores a checkpoint only with a document.
            const documents = body.checkpoint?.clock > 0 ? [] : [{ id: 'y', _deleted: false }];
            return json({ documents, checkpoint: { ...AT, clock: server === 'new' ? 9 : 1 } });
        }
        if (server === 'new') return json({ conflicts: [], refused: [] });
        return json({ conflicts: [{ id: 'x', _deleted: true }], refused: [no] });
    };
    const { database, tasks, replication } = await served('refuses', answer, { onRefused });
    await replication.start();
    await replication.awaitInitialReplication();
    await tasks.insert({ id: 'x', done: true });
    await replication.awaitInSync();
    server = 'restored';
    replication.reSync();
    await eventually(() => refused.length > 0);
    await replication.awaitInSync();

    assert.deepEqual(refused, [no]);
    assert.deepEqual((await tasks.find().exec()).map(({ id }) => id), ['y']);
    await database.remove();
});

test('a push that a pause hides from RxDB has the same id when it goes again', { timeout: 20_000 }, async () => {
    const ids = [];
    const [arrived, answered] = [gate(), gate()];
    const { database, tasks, replication } = await served('hidden', async (route, count, body) => {
        if (route === 'events') return new Promise(() => undefined);
        if (route === 'pull') return nothing();
        ids.push(body.rows[0].id);
        arrived.open();
        if (count === 1) await answered.opened;
        return json({ conflicts: [], refused: [] });
    });
    await replication.start();
    await replication.awaitInitialReplication();
    await tasks.insert({ id: 'x' });
    await arrived.opened;
    await replication.pause();
    answered.open();
    await replication.internalReplicationState.streamQueue.up;
    await new Promise((resolve) => setTimeout(resolve, 50)); // for what is stored then
    await replication.start();

    await eventually(() => ids.length === 2);
    assert.equal(ids[1], ids[0]);
    await database.remove();
});

/** What the console is warned of while some work runs. */
async function warnings(work) {
    const said = [];
    const consoleWarn = console.warn;
    console.warn = (...each) => said.push(each.join(' '));
    try {
        await work();
    } finally {
        console.warn = consoleWarn;
    }
    return said;
}

test('an error that stays is told once, unless the app listens', { timeout: 20_000 }, async () => {
    for (const isHeard of [false, true]) {
        const { database, replication, counts } = await served(`stays${isHeard}`, (route) =>
            route === 'events' ? new Promise(() => undefined) : refusal(401, 'unauthenticated'),
        );
        if (isHeard) replication.error$.subscribe(() => undefined);
        const said = await warnings(async () => {
            await replication.start();
            await eventually(() => counts.pull === 2);
            await eventually(() => replication.retryTime >= 500); // the second failure is told
        });
        assert.deepEqual(said, isHeard ? [] : ['mobync tasks: the server answered 401']);
        await database.remove();
    }
});

for (const way of ['smaller', 'removed']) {
    test(`a document that is too large is named, and not tried when it is ${way}`, { timeout: 20_000 }, async () => {
        const stored = new Map();
        const { database, tasks, replication } = await served(`large${way}`, (route, _, body) => {
            if (route === 'events') return new Promise(() => undefined);
            if (route === 'pull') return nothing();
            if (JSON.stringify(body).length > 5000) return refusal(413, 'too_large');
            for (const { newDocumentState: each } of body.rows) stored.set(each.id, each);
            return json({ conflicts: [], refused: [] });
        });
        const errors = [];
        replication.error$.subscribe(({ parameters }) => {
            replication.retryTime = 1;
            errors.push(parameters.errors[0].message);
        });
        await replication.start();
        await replication.awaitInitialReplication();
        await tasks.bulkInsert([{ id: 'a', text: 'x'.repeat(5000) }, { id: 'b' }, { id: 'c' }]);
        await eventually(() => errors.length > 2);
        assert.match(errors[0], /^the document "a" is too large for the server/);
        assert.deepEqual([...stored.keys()], ['b', 'c']);
        assert.deepEqual((await waiting(replication)).sort(), ['a', 'b', 'c']);

        const large = await tasks.findOne('a').exec();
        await (way === 'smaller' ? large.incrementalPatch({ text: 'x' }) : large.incrementalRemove());
        await tasks.insert({ id: 'd' });
        await eventually(() => stored.has('a') && stored.has('d'));
        await replication.awaitInSync();
        assert.deepEqual(await waiting(replication), []);
        assert.equal(replication.isPaused(), false);
        await database.remove();
    });
}

test('a restored server is followed past a document that is too large', { timeout: 20_000 }, async () => {
    let server = 'new';
    const { database, tasks, replication } = await served('past', (route, _, body) => {
        if (route === 'events') return new Promise(() => undefined);
        if (JSON.stringify(body).length > 5000) return refusal(413, 'too_large');
        if (server !== 'new' && body.checkpoint?.clock > 1) return refusal(409, 'clock_ahead');
        if (route === 'push') return json({ conflicts: [], refused: [] });
        const id = server === 'new' ? 'y' : 'z';
        const documents = body.checkpoint?.clock > 0 ? [] : [{ id, _deleted: false }];
        return json({ documents, checkpoint: { ...AT, clock: server === 'new' ? 9 : 1 } });
    });
    replication.error$.subscribe(() => (replication.retryTime = 1));
    await replication.start();
    await replication.awaitInitialReplication();
    await tasks.insert({ id: 'a', text: 'x'.repeat(5000) });
    server = 'restored';
    replication.reSync();
    let isThere = false;
    tasks.findOne('z').$.subscribe((found) => (isThere = Boolean(found)));
    await eventually(() => isThere);
    assert.deepEqual(await waiting(replication), ['a']);
    await database.remove();
});

test('a cancelled replication leaves no timer and no listener', { timeout: 20_000 }, async () => {
    const stopping = new AbortController();
    const listeners = new Set();
    const { signal } = stopping;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (name, listener, more) => (listeners.add(listener), add(name, listener, more));
    signal.removeEventListener = (name, listener) => (listeners.delete(listener), remove(name, listener));
    const never = () => new Promise(() => undefined);
    const { database, tasks, replication, counts } = await served('quiet', never, { signal });
    await replication.start();
    await eventually(() => counts.pull > 0);
    await replication.cancel();
    await eventually(() => tasks.timeouts.size === 0);
    assert.equal(listeners.size, 0);
    await database.remove();
});

test('a device that is revoked while its database closes rejects nothing', { timeout: 20_000 }, async () => {
    const unhandled = [];
    const note = (error) => unhandled.push(error);
    process.on('unhandledRejection', note);
    const consoleError = console.error;
    console.error = () => undefined;
    const { database, tasks, replication } = await served('closing', () =>
        refusal(403, 'device_revoked'),
    );
    let isAsked = false;
    tasks.remove = async () => {
        isAsked = true;
        throw new Error('closed');
    };
    await replication.start();
    await eventually(() => isAsked);
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off('unhandledRejection', note);
    console.error = consoleError;
    assert.deepEqual(unhandled, []);
    await database.close();
});

test('what waits is read without structuredClone, which React Native may lack', async () => {
    const { structuredClone } = globalThis;
    const stuck = await served('plain', (route) => (route === 'pull' ? nothing() : busy()));
    await stuck.tasks.insert({ id: 'x' });
    await stuck.replication.start();
    await eventually(() => stuck.counts.push > 0);
    await stuck.replication.cancel();
    delete globalThis.structuredClone;
    try {
        const options = { url: 'http://localhost/sync', token: 't', device: 'd', autoStart: false };
        await replicateWithMobync(stuck.tasks, options);
    } finally {
        globalThis.structuredClone = structuredClone;
    }
    await stuck.database.remove();
});
