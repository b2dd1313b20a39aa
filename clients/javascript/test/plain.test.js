// WatermelonDB's synchronize() and RxDB's handlers without this package, as docs/ writes them.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { synchronize } from '@nozbe/watermelondb/sync/index.js';
import { replicateRxCollection } from 'rxdb/plugins/replication';

import { newDatabase } from './database.js';
import { Phone } from './phone.js';
import { Server } from './server.js';

const PAGE = new URL('../../../docs/watermelondb.md', import.meta.url);
const RXDB_PAGE = new URL('../../../docs/rxdb.md', import.meta.url);
const AsyncFunction = (async () => undefined).constructor;

let server;
let plain;
let named;
let rxdbNamed;
before(async () => {
    server = await Server.start();
    const [code, namedCode] = blocksOf(PAGE);
    plain = new AsyncFunction('synchronize', 'database', 'url', 'token', code);
    named = new AsyncFunction('synchronize', 'database', 'url', 'token', 'device', namedCode);
    const given = ['replicateRxCollection', 'collection', 'url', 'token', 'device'];
    rxdbNamed = new AsyncFunction(...given, `${blocksOf(RXDB_PAGE)[1]}\nreturn replication;`);
});
after(() => server.stop());

/** The code of a page's section. */
function blocksOf(page) {
    const section = readFileSync(page, 'utf8').split('## Without the package')[1];
    return [...section.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);
}

const sync = ({ database }, owner) => plain(synchronize, database, server.url, owner);

test('a phone without the package syncs with one that has it', async () => {
    const [a, b] = [new Phone(server, 'anna'), new Phone(server, 'anna')];
    await a.create('m', { name: 'milk', done: false, rank: 1 });
    await sync(a, 'anna');
    await b.sync();
    await b.update('m', { rank: 2 });
    await a.update('m', { done: true });
    await b.create('n', { name: 'bread' });
    for (let round = 0; round < 2; round += 1) {
        await sync(a, 'anna');
        await b.sync();
    }
    assert.deepEqual(await a.rows(), await b.rows());
    assert.deepEqual(await a.rows(), {
        m: { id: 'm', name: 'milk', done: true, rank: 2 },
        n: { id: 'n', name: 'bread', done: false, rank: null },
    });
});

test('a push whose answer was lost is made once without the package, too', async () => {
    const a = new Phone(server, 'bob');
    await a.create('m', { name: 'milk' });
    server.cutNext('/push');
    await assert.rejects(sync(a, 'bob'), /fetch failed/);
    const before = (await server.post('bob', { logical_clock: 0, diffs: [] })).logical_clock;
    assert.equal(before, 1);
    await a.update('m', { name: 'oat milk' });
    await sync(a, 'bob');
    await sync(a, 'bob');
    assert.equal((await server.rows('bob')).m.name, 'oat milk');
    assert.equal((await a.rows()).m.name, 'oat milk');
    const { logical_clock: clock } = await server.post('bob', { logical_clock: 0, diffs: [] });
    assert.equal(clock, 2);
});

const REVOKED = { code: 'device_revoked' };

test('a phone with a name and without the package is listed, starts over, and is ended', async () => {
    const owner = 'carol';
    const a = new Phone(server, owner);
    const syncNamed = () => named(synchronize, a.database, server.url, owner, 'my phone');
    for (const id of ['x', 'y', 'z']) await a.create(id, { name: id });
    await syncNamed();
    await syncNamed();
    assert.deepEqual(await server.call('devices', owner), [['my phone', false]]);

    await server.elsewhere(owner, 'delete', 'tasks', { id: 'y' });
    await a.update('y', { done: true });
    await a.update('z', { rank: 1 });
    await a.create('w', { name: 'w' });
    assert.equal(await server.call('fold', owner), 4);
    await syncNamed();
    assert.deepEqual(Object.keys(await a.rows()).sort(), ['w', 'x', 'z']);
    assert.deepEqual(await server.rows(owner), await a.rows());

    await server.call('revoke', owner, 'my phone');
    await assert.rejects(syncNamed(), REVOKED);
    assert.deepEqual(await a.rows(), {});
    await assert.rejects(syncNamed(), REVOKED);
    assert.equal(Object.keys(await server.rows(owner)).length, 3);
});

test('RxDB with a name and without the package is listed, starts over, and is ended', async () => {
    const owner = 'dave';
    const database = await newDatabase(owner);
    const text = { type: 'string', maxLength: 40 };
    const properties = { id: text, name: text };
    const schema = { version: 0, primaryKey: 'id', type: 'object', properties };
    const { tasks } = await database.addCollections({ tasks: { schema } });
    const replication = await rxdbNamed(replicateRxCollection, tasks, server.url, owner, 'page');
    const rows = async () => (await tasks.find().exec()).map(({ id, name }) => `${id} ${name}`);
    const settle = async () => {
        for (let round = 0; round < 2; round += 1) {
            replication.reSync();
            await replication.awaitInSync();
        }
    };
    await tasks.bulkInsert([{ id: 'x', name: '1' }, { id: 'y', name: '1' }, { id: 'z', name: '1' }]);
    await settle();
    assert.deepEqual(await server.call('devices', owner), [['page', false]]);

    await replication.pause();
    await server.elsewhere(owner, 'delete', 'tasks', { id: 'y' });
    await (await tasks.findOne('z').exec()).incrementalPatch({ name: '2' });
    await tasks.insert({ id: 'w', name: '1' });
    assert.equal(await server.call('fold', owner), 4);
    replication.retryTime = 50;
    await replication.start();
    const expected = ['w 1', 'x 1', 'z 2'];
    for (let tries = 0; tries < 1000 && `${await rows()}` !== `${expected}`; tries += 1) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        replication.reSync();
    }
    assert.deepEqual(await rows(), expected);
    await settle();
    const stored = Object.values(await server.rows(owner)).map(({ id, name }) => `${id} ${name}`);
    assert.deepEqual(stored.sort(), expected);

    await server.call('revoke', owner, 'page');
    replication.reSync();
    for (let tries = 0; tries < 1000 && !tasks.closed; tries += 1) {
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(tasks.closed);
    assert.equal(Object.keys(await server.rows(owner)).length, 3);
    await database.close();
});
