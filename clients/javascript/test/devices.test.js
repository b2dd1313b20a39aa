// Names of devices with the real WatermelonDB: listed, revoked, away for very long.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';

import { hasUnsyncedChanges } from '@nozbe/watermelondb/sync/index.js';

import { MobyncTransport } from '../transport.js';
import { Phone } from './phone.js';
import { Server } from './server.js';

const DATABASES = ['memory', 'sqlite', 'postgresql'];
const REVOKED = { name: 'MobyncError', status: 403, code: 'device_revoked' };
const servers = {};
const complaints = []; // what WatermelonDB says is wrong
const consoleError = console.error;
let owners = 0;

before(async () => {
    for (const each of DATABASES) servers[each] = await Server.start(each);
    console.error = (...said) => complaints.push(said.join(' '));
});
after(async () => {
    console.error = consoleError;
    for (const each of Object.values(servers)) await each.stop();
});
afterEach(() => assert.deepEqual(complaints.splice(0), []));

async function eventually(check) {
    for (let tries = 0; tries < 3000; tries += 1) {
        if (await check()) return;
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.fail('it never came');
}

for (const database of DATABASES) {
    /** An owner of its own for a test. */
    const begun = () => {
        const server = servers[database];
        const owner = `owner${(owners += 1)}`;
        return { server, owner, phone: (options) => new Phone(server, owner, options) };
    };

    test(`a phone has a name that stays, on ${database}`, async () => {
        const { server, owner, phone } = begun();
        const devices = async () => Object.fromEntries(await server.call('devices', owner));
        const a = phone();
        await a.create('m', { name: 'milk' });
        await a.sync();
        const name = await a.name();
        assert.deepEqual(await devices(), { [name]: false });
        await a.restarted().sync();
        await phone({ device: 'a phone of mine' }).sync();
        await phone({ device: null }).sync();
        assert.deepEqual(await devices(), { [name]: false, 'a phone of mine': false });
    });

    test(`a phone that a person revokes drops its records, on ${database}`, async () => {
        const { server, owner, phone } = begun();
        const [lost, kept] = [phone(), phone()];
        const errors = [];
        const { signal } = new AbortController();
        const onError = (error) => errors.push(error);
        await lost.sync({ live: true, signal, onError });
        await lost.create('l', { name: 'of the lost' });
        await eventually(async () => Object.keys(await server.rows(owner)).join() === 'l');
        await kept.sync();
        const name = await lost.name();
        await server.call('revoke', owner, name);
        // By the end of its stream.
        await eventually(() => errors.some(({ code }) => code === 'device_revoked'));
        assert.deepEqual(await lost.rows(), {});
        assert.equal(await lost.name(), name);

        await lost.create('n', { name: 'later' });
        await assert.rejects(lost.sync(), REVOKED);
        await assert.rejects(lost.restarted().sync(), REVOKED);
        assert.deepEqual(await lost.rows(), {});
        assert.equal(await hasUnsyncedChanges({ database: lost.database }), false);
        await kept.update('l', { done: true });
        await kept.sync();
        assert.deepEqual(await server.rows(owner), {
            l: { id: 'l', name: 'of the lost', done: true, rank: null },
        });
    });

    test(`a phone that was away for very long loses nothing, on ${database}`, async () => {
        const { server, owner, phone } = begun();
        const a = phone();
        for (const id of ['x', 'y', 'z']) await a.create(id, { name: id });
        await a.sync();
        await a.sync();
        await server.elsewhere(owner, 'delete', 'tasks', { id: 'y' });
        await server.elsewhere(owner, 'update', 'tasks', { id: 'x', done: true });
        await a.create('w', { name: 'w' });
        await a.update('y', { done: true }); // and others have deleted it
        await a.update('z', { rank: 1 });
        assert.equal(await server.call('fold', owner), 5);
        await a.sync();
        await a.sync();
        const rows = {
            w: { id: 'w', name: 'w', done: false, rank: null },
            x: { id: 'x', name: 'x', done: true, rank: null },
            z: { id: 'z', name: 'z', done: false, rank: 1 },
        };
        assert.deepEqual(await a.rows(), rows);
        assert.deepEqual(await server.rows(owner), rows);
        const b = phone();
        await b.sync();
        assert.deepEqual(await b.rows(), rows);
    });

    test(`a push that was cut is made once, though the log was folded, on ${database}`, async () => {
        const { server, owner, phone } = begun();
        const [a, b] = [phone(), phone()];
        await a.create('c', { name: 'milk' });
        await a.sync();
        await b.sync();
        await a.update('c', { name: 'of a' });
        server.cutNext('/push', 'after');
        await assert.rejects(a.sync());
        await b.sync();
        await b.update('c', { name: 'of b, which has seen it' });
        await b.sync();
        await server.call('fold', owner);
        await a.sync();
        await a.sync();
        await b.sync();
        const expected = { id: 'c', done: false, rank: null, name: 'of b, which has seen it' };
        assert.deepEqual((await a.rows()).c, expected);
        assert.deepEqual((await b.rows()).c, expected);
        assert.deepEqual((await server.rows(owner)).c, expected);
    });
}

test('a name that is none is told at once', () => {
    for (const device of ['', 7, {}]) {
        assert.throws(() => new MobyncTransport({ url: 'http://x', token: 'x', device }), /device must be/);
    }
    assert.equal(new MobyncTransport({ url: 'http://x', token: 'x' }).query, '');
    assert.equal(new MobyncTransport({ url: 'http://x', token: 'x', device: 'ä b' }).query, '?device=%C3%A4%20b');
});
