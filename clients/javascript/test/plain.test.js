// WatermelonDB's synchronize() without this package, as docs/watermelondb.md writes it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { synchronize } from '@nozbe/watermelondb/sync/index.js';

import { Phone } from './phone.js';
import { Server } from './server.js';

const PAGE = new URL('../../../docs/watermelondb.md', import.meta.url);
const AsyncFunction = (async () => undefined).constructor;

let server;
let plain;
before(async () => {
    server = await Server.start();
    const section = readFileSync(PAGE, 'utf8').split('## Without the package')[1];
    const code = /```js\n(.*?)```/s.exec(section)[1];
    plain = new AsyncFunction('synchronize', 'database', 'url', 'token', code);
});
after(() => server.stop());

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
