// WatermelonDB through mobync: syncWithMobync(database, options).
//
// WatermelonDB's own synchronize() does the work. This file has its two functions, and what
// WatermelonDB does not do:
//
// - Ids of pushes. WatermelonDB stores what it pulled before it pushes. A push whose answer was
//   lost comes again after another pull, and nothing in it says whether it is a retry or a later
//   equal edit. So this package stores what it pushes in WatermelonDB's local storage, as edits
//   with ids, from before the push until the record is clean.
// - The name of the device, and revoked devices: their records are deleted.
// - One sync at a time, pauses, tokens, and a server that was restored from a backup.

import * as Q from '@nozbe/watermelondb/QueryDescription/index.js';
import { hasUnsyncedChanges, synchronize } from '@nozbe/watermelondb/sync/index.js';

import {
    Backoff,
    checkedOptions,
    KINDS,
    MobyncError,
    MobyncTransport,
    newId,
    pause,
    retrying,
    tell,
    throwIfAborted,
} from './transport.js';

const UNANSWERED = 'mobync_unanswered'; // in the local storage
const DEVICE = 'mobync_device'; // in the local storage
const LAST_PULLED_AT = '__watermelon_last_pulled_at'; // WatermelonDB's own
const LAST_PULLED_SCHEMA_VERSION = '__watermelon_last_pulled_schema_version';
const PART_CHARACTERS = 1_000_000; // of a push; what is longer goes in several
const SETTLE_MS = 100; // after an edit, in which others of the same moment come

/** The end of each database's last sync; the next sync waits for it. */
const lastSync = new WeakMap();

const OPTIONS = {
    signal: KINDS.signal,
    live: KINDS.flag,
    turbo: KINDS.flag,
    migrationsEnabledAtVersion: KINDS.count,
    conflictResolver: KINDS.function,
    log: KINDS.object,
    tries: KINDS.count,
    onRejected: KINDS.function,
    onError: KINDS.function,
};

/** See watermelon.d.ts. */
export async function syncWithMobync(database, options = {}) {
    if (!database?.schema?.tables) {
        throw new TypeError('syncWithMobync needs a database of WatermelonDB');
    }
    const { live = false, signal } = options;
    const sync = new Sync(database, options);
    if (live && !signal) throw new TypeError('live needs a signal, which ends it');
    if (!live) return inTurn(database, () => sync.run());
    const listening = new Live(sync);
    await listening.once();
    listening.start();
}

function inTurn(database, work) {
    const before = lastSync.get(database) ?? Promise.resolve();
    const run = before.then(work);
    lastSync.set(database, run.catch(() => undefined));
    return run;
}

/** Syncs of one database with one server. */
class Sync {
    constructor(database, options) {
        this.database = database;
        this.options = options;
        this.signal = options.signal;
        this.server = checkedOptions('syncWithMobync', options, OPTIONS);
        this.transport = new MobyncTransport({ ...this.server, device: null }); // or it throws now
        this.tables = Object.values(database.schema.tables);
    }

    /** A sync; of a device that a person has revoked the last one. */
    async run() {
        try {
            await this.connect();
            await this.sync();
        } catch (error) {
            if (error.code === 'device_revoked') await this.dropAll();
            throw error;
        }
    }

    /** Have the transport say what the device calls itself. */
    async connect() {
        if (this.isConnected) return;
        const { device = await nameOf(this.database) } = this.options;
        this.transport = new MobyncTransport({ ...this.server, device });
        this.isConnected = true;
    }

    /** Drop all records, and what waits to be pushed; but not the name, which is refused. */
    async dropAll() {
        const { database, tables } = this;
        const names = tables.map((each) => each.name);
        await database.write(async () => {
            for (const name of names) {
                const records = await database.get(name).query().fetch();
                await database.batch(records.map((each) => each.prepareDestroyPermanently()));
                const deleted = await database.adapter.getDeletedRecords(name);
                await database.adapter.destroyDeletedRecords(name, deleted);
            }
        });
        for (const local of [LAST_PULLED_AT, LAST_PULLED_SCHEMA_VERSION]) {
            await database.adapter.removeLocal(local);
        }
        await database.localStorage.remove(UNANSWERED);
    }

    async sync() {
        throwIfAborted(this.signal);
        this.outbox = await Outbox.of(this.database);
        const isFirst = !(await this.database.adapter.getLocal(LAST_PULLED_AT));
        const { migrationsEnabledAtVersion, conflictResolver, log } = this.options;
        const isTurbo = isFirst && this.options.turbo === true;
        await this.outbox.forgetClean(); // what was answered before the app was killed
        try {
            await synchronize({
                database: this.database,
                pullChanges: (asked) => (isTurbo ? this.pullText(asked) : this.pull(asked)),
                pushChanges: (pushed) => this.push(pushed),
                sendCreatedAsUpdated: true,
                unsafeTurbo: isTurbo,
                ...defined({ migrationsEnabledAtVersion, conflictResolver, log }),
            });
        } finally {
            await this.outbox.forgetClean();
        }
    }

    async pull(asked) {
        try {
            return await this.changes(asked);
        } catch (error) {
            if (error.code !== 'clock_ahead' || !asked.lastPulledAt) throw error;
        }
        // The server was restored from a backup, or cannot know what this phone lacks. Its records
        // replace the pulled ones. Unsent edits stay, and are pushed.
        const again = await this.changes({ ...asked, lastPulledAt: null, migration: null });
        return { ...again, experimentalStrategy: 'replacement' };
    }

    /** The answer to a pull, with each table that this database has, and no other. */
    async changes(asked) {
        const { syncJson } = await this.pullText(asked);
        const { changes, timestamp } = JSON.parse(syncJson);
        const own = {};
        for (const { name } of this.tables) {
            own[name] = changes[name] ?? { created: [], updated: [], deleted: [] };
            own[name].deleted = await this.deletedOf(name, own[name].deleted);
        }
        return { changes: own, timestamp };
    }

    /**
     * Of the deletes that were pulled those that are of records here.
     *
     * A record that was made here, and never pushed, is not the one that had its id before.  That
     * one may have been deleted by this very phone: a pull brings back what was pushed after the
     * pull before, and WatermelonDB would delete the new record.
     */
    async deletedOf(table, ids) {
        if (ids.length === 0) return ids;
        const isCreated = Q.where('_status', 'created');
        const created = new Set(await this.database.get(table).query(isCreated).fetchIds());
        return ids.filter((id) => !created.has(id) || this.outbox.hasPushed(table, id));
    }

    /** The answer to a pull, as the text that WatermelonDB's turbo takes. */
    async pullText({ lastPulledAt, schemaVersion, migration }) {
        const columns = Object.fromEntries(this.tables.map((each) => [each.name, namesOf(each)]));
        const asked = { lastPulledAt: lastPulledAt ?? null, schemaVersion, migration, columns };
        return { syncJson: await this.ask('pull', () => asked) };
    }

    async push({ changes, lastPulledAt }) {
        const records = this.outbox.take(changes, lastPulledAt, this.database.schema);
        await this.outbox.save();
        this.tooLarge = {}; // ids of records that the server does not take even alone, by table
        let rejected;
        try {
            rejected = await this.sendParts(records, lastPulledAt);
        } catch (error) {
            if (isFinal(error)) this.outbox.forgetNew();
            throw error;
        }
        // Refused edits are not in the log; the record is pushed again as it is then.
        this.outbox.forget(rejected);
        for (const [table, ids] of Object.entries(this.tooLarge)) {
            rejected[table] = [...(rejected[table] ?? []), ...ids];
        }
        if (Object.keys(rejected).length > 0) tell(this.options.onRejected ?? warn, rejected);
        return { experimentalRejectedIds: rejected };
    }

    /** Push the edits of records, those of one record together; gives the rejected ids. */
    async sendParts(records, lastPulledAt) {
        const rejected = {};
        for (const part of partsOf(records)) {
            for (const [table, ids] of await this.send(part, lastPulledAt)) {
                rejected[table] = [...(rejected[table] ?? []), ...ids];
            }
        }
        return rejected;
    }

    /** Push a part; in halves where the server says that it is too long. */
    async send(records, lastPulledAt) {
        try {
            const edits = records.flat();
            const text = await this.ask(
                'push',
                () => ({ lastPulledAt, edits: edits.map((edit) => onTheWire(edit)) }),
                () => this.outbox.sent(edits),
            );
            const answer = JSON.parse(text);
            return Object.entries(answer.experimentalRejectedIds);
        } catch (error) {
            if (error.status !== 413) throw error;
        }
        if (records.length < 2) {
            const [{ table, record }] = records[0];
            this.outbox.forgetNewOf(table, record);
            this.tooLarge[table] = [...(this.tooLarge[table] ?? []), record];
            return [];
        }
        const half = records.length >> 1;
        const first = await this.send(records.slice(0, half), lastPulledAt);
        return [...first, ...(await this.send(records.slice(half), lastPulledAt))];
    }

    /** Ask until there is an answer. Each try has a body of its own; `onArrival`: one may have arrived. */
    ask(route, bodyOf, onArrival = () => undefined) {
        const { signal } = this;
        const { tries } = this.options;
        const once = async () => {
            try {
                const text = await this.transport.postForText(`/watermelon/${route}`, bodyOf(), signal);
                onArrival();
                return text;
            } catch (error) {
                if (!isFinal(error)) onArrival();
                throw error;
            }
        };
        return retrying(once, { signal, ...defined({ tries }) });
    }
}

/**
 * The pushed edits of records that are not clean yet, by table and record, in order.
 *
 * An edit has an id, its content, and the lastPulledAt and the time of its first push.
 */
class Outbox {
    static async of(database) {
        const outbox = new Outbox();
        outbox.database = database;
        outbox.tables = (await database.localStorage.get(UNANSWERED)) ?? {};
        outbox.fresh = new Set(); // ids of edits of this sync that cannot have arrived
        return outbox;
    }

    save() {
        return this.database.localStorage.set(UNANSWERED, this.tables);
    }

    /** The edits of all changed records, those that were sent before first; a list for each. */
    take(changes, lastPulledAt, schema) {
        const records = [];
        const now = Date.now();
        for (const [table, { created, updated, deleted }] of Object.entries(changes)) {
            const columns = namesOf(schema.tables[table]);
            const add = (id, type, given) => {
                const edits = this.editsOf(table, id);
                const edit = editAfter(edits, type, given);
                if (edit) {
                    const made = { id: newId(), table, record: id, ...edit };
                    edits.push({ ...made, lastPulledAt, at: now });
                    this.fresh.add(made.id);
                }
                records.push(edits);
            };
            for (const raw of created) add(raw.id, 'create', picked(raw, columns));
            for (const raw of updated) add(raw.id, 'update', picked(raw, changedIn(raw)));
            for (const id of deleted) add(id, 'delete', {});
        }
        return records.filter((edits) => edits.length > 0);
    }

    editsOf(table, id) {
        this.tables[table] ??= {};
        this.tables[table][id] ??= [];
        return this.tables[table][id];
    }

    /** Whether the present record of an id was pushed, be it answered or not. */
    hasPushed(table, id) {
        const last = this.tables[table]?.[id]?.at(-1);
        return last !== undefined && last.type !== 'delete';
    }

    /** Note that edits may have arrived, so that they keep their ids. */
    sent(edits) {
        for (const { id } of edits) this.fresh.delete(id);
    }

    /** Forget records by their ids. */
    forget(idsByTable) {
        for (const [table, ids] of Object.entries(idsByTable)) {
            for (const id of ids) delete this.tables[table]?.[id];
        }
    }

    /** Forget what was made in this sync, and was refused for sure. */
    forgetNew() {
        for (const [table, records] of Object.entries(this.tables)) {
            for (const id of Object.keys(records)) this.forgetNewOf(table, id);
        }
    }

    forgetNewOf(table, id) {
        const records = this.tables[table];
        records[id] = records[id].filter((edit) => !this.fresh.has(edit.id));
    }

    /** Forget what WatermelonDB has marked as synced: that was answered. */
    async forgetClean() {
        const kept = {};
        for (const [table, records] of Object.entries(this.tables)) {
            if (Object.keys(records).length === 0 || !this.database.schema.tables[table]) continue;
            const dirty = await dirtyIn(this.database, table);
            const left = Object.entries(records).filter(([id, edits]) => dirty.has(id) && edits.length);
            if (left.length > 0) kept[table] = Object.fromEntries(left);
        }
        this.tables = kept;
        await this.save();
    }
}

/** Syncs whenever the log has grown, or an edit was made here, until the signal is aborted. */
class Live {
    constructor(sync) {
        this.sync = sync;
        this.stopped = new AbortController(); // with the app's signal, or when the device is revoked
        this.backoff = new Backoff();
        const onError = sync.options.onError ?? ((error) => console.warn('mobync', error));
        this.onError = (error) => tell(onError, error);
        this.isWanted = false;
        this.isRunning = false;
    }

    once() {
        return inTurn(this.sync.database, () => this.sync.run());
    }

    start() {
        const { database, transport, tables } = this.sync;
        const { signal } = this.stopped;
        const stop = () => this.stopped.abort(this.sync.signal.reason);
        this.sync.signal.addEventListener('abort', stop, { once: true });
        if (this.sync.signal.aborted) stop();
        const names = tables.map((each) => each.name);
        const edits = database
            .withChangesForTables(names)
            .subscribe(() => this.looked(pause(SETTLE_MS, signal)));
        signal.addEventListener('abort', () => edits.unsubscribe(), { once: true });
        if (signal.aborted) edits.unsubscribe();
        transport.listen(() => this.want(), signal, { onError: this.onError });
    }

    /** Sync if, by then, something is to be pushed: syncs themselves change tables, too. */
    async looked(then) {
        try {
            await then;
            if (await hasUnsyncedChanges({ database: this.sync.database })) this.want();
        } catch (error) {
            if (!this.stopped.signal.aborted) this.onError(error);
        }
    }

    async want() {
        this.isWanted = true;
        if (this.isRunning) return;
        this.isRunning = true;
        const { signal } = this.stopped;
        while (this.isWanted && !signal.aborted) {
            this.isWanted = false;
            try {
                await this.once();
                this.backoff.reset();
            } catch (error) {
                if (signal.aborted) break;
                this.onError(error);
                if (error.code === 'device_revoked') {
                    this.stopped.abort(error);
                    break;
                }
                this.isWanted = true;
                await pause(this.backoff.next(error), signal).catch(() => undefined);
            }
        }
        this.isRunning = false;
    }
}

/** The default name of a device: a random text in the local storage. */
async function nameOf(database) {
    let name = await database.localStorage.get(DEVICE);
    if (!name) {
        name = newId();
        await database.localStorage.set(DEVICE, name);
    }
    return name;
}

/** What a record's state adds to its edits that were sent; null if nothing. */
function editAfter(edits, type, columns) {
    const last = edits.at(-1);
    if (type === 'delete') return last?.type === 'delete' ? null : { type, columns };
    if (last === undefined || last.type === 'delete') return { type, columns };
    const sent = Object.assign({}, ...edits.map((edit) => edit.columns));
    const changed = Object.entries(columns).filter(
        ([name, value]) => !(name in sent) || sent[name] !== value,
    );
    return changed.length === 0 ? null : { type: 'update', columns: Object.fromEntries(changed) };
}

/** The edits of records in parts that are short enough; a single record is not divided. */
function partsOf(records) {
    const parts = [];
    let left = 0;
    for (const edits of records) {
        const size = JSON.stringify(edits).length;
        if (size > left) {
            parts.push([]);
            left = PART_CHARACTERS;
        }
        parts.at(-1).push(edits);
        left -= size;
    }
    return parts;
}

async function dirtyIn(database, table) {
    const isDirty = Q.where('_status', Q.oneOf(['created', 'updated']));
    const [ids, deleted] = await Promise.all([
        database.get(table).query(isDirty).fetchIds(),
        database.adapter.getDeletedRecords(table),
    ]);
    return new Set([...ids, ...deleted]);
}

function onTheWire({ at, ...edit }) {
    return { ...edit, age: Math.max(0, Date.now() - at) };
}

/** Whether the server has refused a request for good. */
function isFinal(error) {
    return error instanceof MobyncError && [400, 403, 404, 413, 415].includes(error.status);
}

function namesOf(table) {
    return table.columnArray.map((column) => column.name);
}

function changedIn(raw) {
    return raw._changed.split(',').filter((name) => name in raw);
}

function picked(raw, names) {
    return Object.fromEntries(names.map((name) => [name, raw[name]]));
}

function defined(options) {
    return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function warn(rejected) {
    console.warn('mobync refused', rejected);
}
