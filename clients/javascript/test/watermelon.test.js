// syncWithMobync with the real package against a real server, over a proxy that can cut.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { hasUnsyncedChanges } from '@nozbe/watermelondb/sync/index.js';

import { syncWithMobync } from '../watermelon.js';
import { Phone } from './phone.js';
import { Server } from './server.js';

const KILLED = fileURLToPath(new URL('./killed.js', import.meta.url));

let server;
let owner;
let owners = 0;
const complaints = []; // what WatermelonDB says is wrong
const consoleError = console.error;

before(async () => {
    server = await Server.start();
    console.error = (...said) => complaints.push(said.join(' '));
});
after(async () => {
    console.error = consoleError;
    await server.stop();
});
beforeEach(() => {
    owner = `owner${(owners += 1)}`;
    server.rules = [];
    server.asked = [];
});
afterEach(() => {
    assert.deepEqual(complaints.splice(0), []);
    assert.equal(server.rules.length, 0, 'what was to be cut never came');
});

const phone = (options) => new Phone(server, owner, options);
const unreachable = { name: 'MobyncError', code: 'unreachable' };

/** Sync until all have everything; then all have the same rows as the server. */
async function settle(...phones) {
    for (let round = 0; round < 3; round += 1) for (const each of phones) await each.sync();
    const rows = await phones[0].rows();
    for (const each of phones) {
        assert.deepEqual(await each.rows(), rows);
        assert.equal(await hasUnsyncedChanges({ database: each.database }), false);
        assert.deepEqual(await each.unanswered(), {});
    }
    const stored = await server.rows(owner);
    assert.deepEqual(Object.keys(stored).sort(), Object.keys(rows).sort());
    for (const [id, row] of Object.entries(stored)) {
        for (const name of Object.keys(rows[id])) {
            if (name in row) assert.deepEqual(rows[id][name], row[name]);
        }
    }
    return rows;
}

for (const adapter of ['sqlite', 'loki']) {
    test(`a first sync, and edits on both sides, on ${adapter}`, async () => {
        const [a, b] = [phone({ adapter }), phone({ adapter })];
        await a.create('m', { name: 'milk', done: false, rank: 1 });
        await a.sync();
        await b.sync();
        assert.deepEqual(await b.rows(), { m: { id: 'm', name: 'milk', done: false, rank: 1 } });

        await a.update('m', { done: true });
        await b.update('m', { rank: 2 });
        await b.create('b', { name: 'bread' });
        assert.deepEqual(await settle(a, b), {
            m: { id: 'm', name: 'milk', done: true, rank: 2 },
            b: { id: 'b', name: 'bread', done: false, rank: null },
        });
    });
}

test('a device of mobync and a phone see what the other does', async () => {
    const a = phone();
    await server.elsewhere(owner, 'create', 'tasks', { id: 'm', name: 'milk', other: [1] });
    await a.sync();
    assert.deepEqual(await a.rows(), { m: { id: 'm', name: 'milk', done: false, rank: null } });

    await a.update('m', { rank: 2.5 });
    await server.elsewhere(owner, 'update', 'tasks', { id: 'm', name: 'oat milk' });
    await settle(a);
    assert.deepEqual(await server.rows(owner), {
        m: { id: 'm', name: 'oat milk', other: [1], rank: 2.5 },
    });
});

test('of one field the edit that arrives later wins', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk' });
    await settle(a, b);
    await a.update('m', { name: 'of a' });
    await b.update('m', { name: 'of b' });
    await a.sync();
    const rows = await settle(b, a);
    assert.equal(rows.m.name, 'of b');
});

test('a delete wins over an edit, whichever comes first', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk' });
    await a.create('n', { name: 'bread' });
    await settle(a, b);
    await a.remove('m');
    await b.update('m', { done: true });
    await b.remove('n');
    await a.update('n', { done: true });
    assert.deepEqual(await settle(a, b), {});
});

test('a record made again under its id is a new one on every phone', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', rank: 1 });
    await settle(a, b);
    await server.elsewhere(owner, 'delete', 'tasks', { id: 'm' });
    await server.elsewhere(owner, 'create', 'tasks', { id: 'm', name: 'bread' });
    const rows = await settle(a, b);
    assert.deepEqual(rows.m, { id: 'm', name: 'bread', done: false, rank: null });

    await a.remove('m');
    await a.sync();
    await a.create('m', { name: 'rye' });
    assert.equal((await settle(a, b)).m.name, 'rye');
});

test('two phones that make the same id have one record', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('settings', { name: 'of a', rank: 1 });
    await b.create('settings', { name: 'of b', rank: 1 });
    await a.sync();
    const rows = await settle(b, a);
    assert.deepEqual(Object.keys(rows), ['settings']);
});

test('a phone that made a record learns that another deleted it', async () => {
    const a = phone();
    await a.create('m', { name: 'milk' });
    await a.sync(); // whose lastPulledAt is from before the push
    await server.elsewhere(owner, 'delete', 'tasks', { id: 'm' });
    assert.deepEqual(await settle(a), {});
});

// ---- answers that are lost -----------------------------------------------------------------------

for (const when of ['before', 'after']) {
    test(`a push that is cut ${when} it arrived is made once`, async () => {
        const [a, b] = [phone(), phone()];
        await a.create('m', { name: 'milk', done: false });
        await settle(a, b);
        await a.create('n', { name: 'bread' });
        await a.update('m', { name: 'oat milk' });
        server.cutNext('/push', when);
        await assert.rejects(a.sync(), unreachable);
        const before = when === 'after' ? (await server.post(owner, { logical_clock: 0, diffs: [] })).logical_clock : 0;
        const rows = await settle(a, b);
        assert.equal(rows.m.name, 'oat milk');
        assert.equal(rows.n.name, 'bread');
        const { logical_clock: clock } = await server.post(owner, { logical_clock: 0, diffs: [] });
        if (when === 'after') assert.equal(clock, before);
    });

    test(`edits after a push that was cut ${when} it arrived are edits`, async () => {
        const [a, b] = [phone(), phone()];
        await a.create('m', { name: 'milk', done: false, rank: 1 });
        await settle(a, b);
        await a.create('n', { name: 'bread' });
        await a.update('m', { name: 'oat milk', rank: 2 });
        server.cutNext('/push', when);
        await assert.rejects(a.sync(), unreachable);
        await a.update('n', { name: 'rye' });
        await a.update('m', { name: 'soy milk' });
        const rows = await settle(a, b);
        assert.deepEqual(rows.m, { id: 'm', name: 'soy milk', done: false, rank: 2 });
        assert.equal(rows.n.name, 'rye');
    });

    test(`a delete that was cut ${when} it arrived is one`, async () => {
        const [a, b] = [phone(), phone()];
        await a.create('m', { name: 'milk' });
        await settle(a, b);
        await a.remove('m');
        server.cutNext('/push', when);
        await assert.rejects(a.sync(), unreachable);
        assert.deepEqual(await settle(a, b), {});
    });

    test(`a kill after a push that was cut ${when} it arrived loses and doubles nothing`, async () => {
        const [a, b] = [phone(), phone()];
        await a.create('m', { name: 'milk', done: false });
        await settle(a, b);
        await a.update('m', { done: true });
        server.cutNext('/push', when);
        await assert.rejects(a.sync(), unreachable);
        if (when === 'after') {
            await b.sync();
            await b.update('m', { done: false });
            await b.sync();
        }
        const again = a.restarted();
        const rows = await settle(again, b);
        assert.equal(rows.m.done, when === 'before');
    });
}

test('an app that is killed between its push and the answer makes nothing twice', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', done: false });
    await settle(a, b);
    const app = spawn(process.execPath, [KILLED, server.url, owner, a.file], { stdio: 'ignore' });
    const killed = new Promise((resolve) => app.once('exit', (_, signal) => resolve(signal)));
    server.rules.push((path) => (path.endsWith('/push') ? () => app.kill('SIGKILL') : null));
    assert.equal(await killed, 'SIGKILL');
    await b.sync();
    assert.equal((await b.rows()).m.done, true);
    await b.update('m', { done: false });
    await b.sync();
    const rows = await settle(a.restarted(), b);
    assert.deepEqual(Object.keys(rows).sort(), ['m', 'n']);
    assert.equal(rows.m.done, false);
});

test('an edit that arrived, and was beaten, neither wins nor stays', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', done: false, rank: 1 });
    await settle(a, b);
    await a.update('m', { done: true, rank: 2 });
    server.cutNext('/push');
    await assert.rejects(a.sync(), unreachable);
    await b.sync();
    await b.update('m', { done: false });
    await b.sync();
    await a.update('m', { name: 'oat milk' });
    assert.deepEqual((await settle(a, b)).m, { id: 'm', name: 'oat milk', done: false, rank: 2 });
});

test('a second, equal edit is one', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', done: false });
    await settle(a, b);
    await a.update('m', { done: true });
    await settle(a, b);
    await b.update('m', { done: false });
    await settle(b, a);
    await a.update('m', { done: true });
    assert.equal((await settle(a, b)).m.done, true);
});

test('a record whose create was lost, and that another deleted, is gone', async () => {
    const [a, b] = [phone(), phone()];
    await settle(a, b);
    await a.create('m', { name: 'milk' });
    server.cutNext('/push');
    await assert.rejects(a.sync(), unreachable);
    await b.sync();
    await b.remove('m');
    await b.sync();
    assert.deepEqual(await settle(a, b), {});
});

test('a lost delete of a record that was made again since leaves the new one', async () => {
    const a = phone();
    await a.create('m', { name: 'milk' });
    await settle(a);
    await a.remove('m');
    server.cutNext('/push');
    await assert.rejects(a.sync(), unreachable);
    await server.elsewhere(owner, 'create', 'tasks', { id: 'm', name: 'bread' });
    assert.equal((await settle(a)).m.name, 'bread');
});

test('several lost answers in a row, with edits between them', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: '0', rank: 0 });
    await settle(a, b);
    for (let n = 1; n <= 4; n += 1) {
        await a.update('m', { name: `${n}` });
        await b.update('m', { rank: n });
        await b.sync();
        server.cutNext('/push', n % 2 ? 'after' : 'before');
        await assert.rejects(a.sync(), unreachable);
    }
    assert.deepEqual((await settle(a, b)).m, { id: 'm', name: '4', done: false, rank: 4 });
});

test('edits made while a push is on its way are pushed next', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', done: false });
    await settle(a, b);
    await a.update('m', { name: 'oat milk' });
    let edited;
    server.rules.push((path) => {
        if (path.endsWith('/push')) edited = a.update('m', { done: true });
        return path.endsWith('/push') ? 'pass' : null;
    });
    await a.sync();
    await edited;
    await b.sync();
    await b.update('m', { name: 'of b' });
    await b.sync();
    assert.deepEqual((await settle(a, b)).m, { id: 'm', name: 'of b', done: true, rank: null });
});

// ---- the server says no --------------------------------------------------------------------------

test('what a rule refuses is told, stays, and can be changed; the rest is written', async () => {
    const a = phone();
    const told = [];
    const onRejected = (ids) => told.push(ids);
    await a.create('m', { name: 'forbidden' });
    await a.create('n', { name: 'bread' });
    await a.sync({ onRejected });
    assert.deepEqual(told, [{ tasks: ['m'] }]);
    assert.deepEqual(Object.keys(await server.rows(owner)), ['n']);
    assert.equal((await a.rows()).m.name, 'forbidden');

    await a.update('m', { name: 'milk' });
    assert.equal((await settle(a)).m.name, 'milk');
});

test('a server that is busy is asked again', async () => {
    const a = phone({ tries: 3 });
    await a.create('m', { name: 'milk' });
    server.rules.push((path) => (path.endsWith('/pull') ? 503 : null));
    server.rules.push((path) => (path.endsWith('/push') ? 'after' : null));
    await settle(a);
});

test('a push that may have arrived keeps its ids, whatever its next try is answered', async () => {
    const [a, b] = [phone(), phone()];
    await a.create('m', { name: 'milk', done: false });
    await settle(a, b);
    await a.update('m', { done: true });
    server.rules.push((path) => (path.endsWith('/push') ? 'after' : null));
    server.rules.push((path) => (path.endsWith('/push') ? 404 : null)); // as a proxy, in a deploy
    await assert.rejects(a.sync({ tries: 2 }), { status: 404 });
    await b.sync();
    await b.update('m', { done: false });
    assert.equal((await settle(b, a)).m.done, false);
});

test('a later try of a push says how old its edits are by then', async () => {
    const ages = [];
    const fetch = async (url, request) => {
        if (!url.includes('/push')) return globalThis.fetch(url, request);
        ages.push(JSON.parse(request.body).edits[0].age);
        return ages.length > 1 ? globalThis.fetch(url, request) : new Response('{}', { status: 503 });
    };
    const a = phone({ tries: 2, fetch });
    await a.create('m', { name: 'milk' });
    await a.sync();
    assert.ok(ages[1] >= ages[0] + 200, `${ages}`);
});

test('a token is renewed', async () => {
    const a = phone({ token: ({ isRefused }) => (isRefused ? owner : '') });
    await a.create('m', { name: 'milk' });
    await settle(a);
});

test('a server that was set back is followed, and what was not pushed is kept', async () => {
    const a = phone();
    await a.create('m', { name: 'milk' });
    await settle(a);
    await a.create('n', { name: 'bread' });
    const other = `${owner}-before`; // where another device has been
    await server.elsewhere(other, 'create', 'tasks', { id: 'o', name: 'oats' });
    owner = other;
    a.owner = other;
    a.options.token = other;
    await a.database.localStorage.set('x', 1);
    await a.database.adapter.setLocal('__watermelon_last_pulled_at', '100');
    await a.sync();
    // WatermelonDB itself says that the server went back.
    assert.match(complaints.splice(0).join(), /previous pulled-at time was greater/);
    const rows = await settle(a);
    assert.deepEqual(Object.keys(rows).sort(), ['n', 'o']);
});

test('a push that is long goes in parts, and one that is too long in halves', async () => {
    const a = phone();
    const long = 'x'.repeat(300_000);
    for (let n = 0; n < 7; n += 1) await a.create(`t${n}`, { name: `${n} ${long}` });
    server.rules.push((path) => (path.endsWith('/push') ? 413 : null));
    await a.sync();
    // Three of 3, 3 and 1; the first of them again as 1 and 2.
    assert.equal(server.asked.filter((path) => path.endsWith('/push')).length, 5);
    assert.equal(Object.keys(await server.rows(owner)).length, 7);
    await settle(a);
});

test('a record that alone is too long is rejected, stays, and can be changed', async () => {
    const told = [];
    const a = phone({ onRejected: (ids) => told.push(ids) });
    await a.create('m', { name: 'x'.repeat(5_000_000) });
    for (const id of ['n', 'o']) await a.create(id, { name: 'bread' });
    for (let n = 0; n < 2; n += 1) {
        await a.sync();
        assert.deepEqual(told.splice(0), [{ tasks: ['m'] }]);
        assert.deepEqual(Object.keys(await server.rows(owner)), ['n', 'o']);
        assert.deepEqual(await a.unanswered(), {});
    }
    await a.update('m', { name: 'milk' });
    assert.equal((await settle(a)).m.name, 'milk');
});

test('an edit that is too long loses no id of one that may have arrived before', async () => {
    const [a, b] = [phone({ onRejected: () => undefined }), phone()];
    await a.create('m', { name: 'milk', done: false });
    await settle(a, b);
    await a.update('m', { done: true });
    server.cutNext('/push');
    await assert.rejects(a.sync(), unreachable);
    await b.sync();
    await b.update('m', { done: false });
    await b.sync();
    await a.update('m', { name: 'x'.repeat(5_000_000) });
    await a.sync();
    await a.update('m', { name: 'oat milk' });
    const rows = await settle(a, b);
    assert.deepEqual(rows.m, { id: 'm', name: 'oat milk', done: false, rank: null });
});

test('5,000 records go up and down', async () => {
    const [a, b] = [phone(), phone()];
    await a.database.write(() =>
        a.database.batch(
            Array.from({ length: 5000 }, (_, n) =>
                a.database.get('tasks').prepareCreate((record) => {
                    record._raw.id = `t${n}`;
                    record._setRaw('name', `task ${n}`);
                }),
            ),
        ),
    );
    await a.sync();
    await b.sync();
    const rows = await settle(a, b);
    assert.equal(Object.keys(rows).length, 5000);
    assert.equal(rows.t4999.name, 'task 4999');
});

// ---- schemas, turbo, abort, live -----------------------------------------------------------------

test('a new version of the app gets what the old one passed over', async () => {
    const a = phone();
    await server.elsewhere(owner, 'create', 'tasks', { id: 'm', name: 'milk', color: 'white' });
    await server.elsewhere(owner, 'create', 'notes', { id: 'n', text: 'hello' });
    await a.sync();
    await a.update('m', { done: true });
    const again = a.restarted({ version: 2, migrationsEnabledAtVersion: 1 });
    await again.sync();
    assert.equal((await again.rows()).m.color, 'white');
    assert.equal((await again.rows()).m.done, true);
    assert.deepEqual(await again.rows('notes'), { n: { id: 'n', text: 'hello' } });
    await settle(again);
});

test('turbo gives the first pull to native code as it came, and nothing later', async () => {
    await server.elsewhere(owner, 'create', 'tasks', { id: 'm', name: 'milk' });
    const a = phone({ turbo: true });
    const given = [];
    // As SQLiteAdapter with JSI does, which Node has not.
    a.database.adapter.provideSyncJson = async (id, json) => given.push(json);
    a.database.adapter.unsafeLoadFromSync = async () => {
        const { changes, ...rest } = JSON.parse(given[0]);
        const { created, updated, deleted } = changes.tasks;
        assert.deepEqual([created, deleted], [[], []]);
        const task = a.database.get('tasks').prepareCreateFromDirtyRaw({ ...updated[0], _status: 'synced' });
        await a.database.batch(task);
        return rest;
    };
    await a.sync();
    await a.sync();
    assert.equal(given.length, 1);
    assert.equal((await settle(a)).m.name, 'milk');
});

test('an abort ends a sync with its reason, and the next one goes on', async () => {
    const a = phone();
    await a.create('m', { name: 'milk' });
    const reason = new Error('the user left');
    const stopping = new AbortController();
    server.rules.push((path) => {
        if (path.endsWith('/push')) stopping.abort(reason);
        return path.endsWith('/push') ? 'pass' : null;
    });
    await assert.rejects(a.sync({ signal: stopping.signal }), reason);
    await assert.rejects(a.sync({ signal: stopping.signal }), reason);
    assert.equal((await settle(a)).m.name, 'milk');
});

test('syncs that are asked for at once go one after the other', async () => {
    const a = phone();
    await a.create('m', { name: 'milk' });
    await Promise.all([a.sync(), a.sync(), a.sync()]);
    await settle(a);
});

test('live phones converge by themselves, also after a break', async () => {
    const stopping = new AbortController();
    const errors = [];
    const live = { live: true, signal: stopping.signal, onError: (error) => errors.push(error) };
    const [a, b] = [phone(), phone()];
    await a.sync(live);
    await b.sync(live);
    const shows = (name, id = 'm') => eventually(async () => (await b.rows())[id]?.name === name);
    await a.create('m', { name: 'milk' });
    await shows('milk');
    await b.update('m', { rank: 7 });
    await eventually(async () => (await a.rows()).m.rank === 7);
    server.cutNext('/push');
    await a.update('m', { name: 'oat milk' });
    await shows('oat milk');
    await eventually(async () => !(await hasUnsyncedChanges({ database: a.database })));
    assert.deepEqual(errors.map((error) => error.code), ['unreachable']);
    stopping.abort();
    await settle(a, b);
});

test('an app that throws when it is told of something does not stop the sync', async () => {
    const stopping = new AbortController();
    const thrown = () => {
        throw new Error('of the app');
    };
    const [a, b] = [phone(), phone()];
    await a.sync({ live: true, signal: stopping.signal, onError: thrown });
    server.cutNext('/push');
    await a.create('m', { name: 'milk' });
    await eventually(() => complaints.splice(0).join() === 'mobync Error: of the app');
    await eventually(async () => !(await hasUnsyncedChanges({ database: a.database })));
    stopping.abort();
    await settle(a, b);
});

test('mistakes in the options are told at once', async () => {
    const { database } = phone();
    await assert.rejects(syncWithMobync(database, { token: 'x' }), /url must be/);
    await assert.rejects(syncWithMobync(database, { url: server.url }), /token must be/);
    await assert.rejects(
        syncWithMobync(database, { url: server.url, token: 'x', live: true }),
        /live needs a signal/,
    );
    const { signal } = new AbortController();
    const rest = { url: server.url, token: 'x' };
    const wrong = (more, message) =>
        assert.rejects(syncWithMobync(database, { ...rest, ...more }), { name: 'TypeError', message });
    await wrong({ batchSize: 5 }, /^syncWithMobync has no option batchSize. It has: url, .*tries/);
    await wrong({ live: 'yes', signal }, /live must be true or false/);
    await wrong({ signal: new AbortController() }, /signal must be an AbortSignal/);
    await wrong({ tries: 0 }, /tries must be a whole number above 0, not 0/);
    await wrong({ onError: 'log' }, /onError must be a function/);
    await wrong({ device: '' }, /device must be a name/);
    await assert.rejects(syncWithMobync(rest), /needs a database of WatermelonDB/);
    await assert.rejects(syncWithMobync(database), /url must be/);
    assert.deepEqual(server.asked, []);
});

async function eventually(check) {
    for (let tries = 0; tries < 1000; tries += 1) {
        if (await check()) return;
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.fail('it never came');
}
