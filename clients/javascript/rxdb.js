// RxDB through mobync: replicateWithMobync(collection, options).
//
// RxDB's own replication does the work. This file has its handlers, and what RxDB does not do:
//
// - Ids of pushes. A push whose answer was lost is sent again, and the server must distinguish it
//   from a later equal edit. So each push has an id. A local document has the id from before the
//   push until RxDB has stored the answer.
// - Pages that arrive before an answer. RxDB skips a pulled document, and never gets it again, if
//   the document has an edit that RxDB has not stored as pushed yet. A page with such a document
//   waits until then.
// - A push before the first pull. A first pull does not return deletes, but a document that was
//   pushed before may have been deleted.
// - Starting over. If a client was silent for very long, the server cannot know which deletes it
//   has missed. So the client asks which of its documents are gone.
// - Revoked devices. Their documents are removed.
// - Other owners. Documents of one owner are not synced with a token of another.
// - Values that the schema does not allow: unknown members, and null.

import {
    addRxPlugin,
    deepEqual,
    getAssumedMasterState,
    getChangedDocumentsSince,
    getLastCheckpointDoc,
} from 'rxdb';
import { RxDBLocalDocumentsPlugin } from 'rxdb/plugins/local-documents';
import { replicateRxCollection } from 'rxdb/plugins/replication';

import {
    Backoff,
    checkedOptions,
    KINDS,
    MobyncError,
    MobyncTransport,
    newId,
    tell,
} from './transport.js';

addRxPlugin(RxDBLocalDocumentsPlugin);

const BATCH_SIZE = 1000; // documents in a request
/** The checkpoint before everything, including deletes. */
// RxDB merges a checkpoint into the previous one, so this one also sets the missing members.
const FROM_THE_DEAD = { clock: 0, id: '', began: 0, dead: undefined, mark: undefined };
const RXDBS_OWN = ['_attachments', '_meta', '_rev'];

const HANDLED = ['clock_ahead', 'device_revoked', 'other_owner']; // codes of errors

const OPTIONS = {
    model: KINDS.text,
    batchSize: KINDS.count,
    live: KINDS.flag,
    waitForLeadership: KINDS.flag,
    autoStart: KINDS.flag,
    toggleOnDocumentVisible: KINDS.flag,
    signal: KINDS.signal,
    onRefused: KINDS.function,
    onRevoked: KINDS.function,
    onOtherOwner: KINDS.function,
    identifier: KINDS.text,
};

/** See rxdb.d.ts. */
export async function replicateWithMobync(collection, options = {}) {
    checkCollection(collection);
    const server = checkedOptions('replicateWithMobync', options, OPTIONS);
    const { model = collection.name, batchSize = BATCH_SIZE, live = true, signal } = options;
    const identifier = options.identifier ?? `mobync ${options.url} ${model}`;
    const outbox = await Outbox.of(collection, identifier);
    const device = options.device === undefined ? await nameOf(collection.database) : options.device;
    const transport = new MobyncTransport({ ...server, device });
    const handlers = new Handlers(collection, model, outbox, transport, options);
    const replication = replicateRxCollection({
        collection,
        replicationIdentifier: identifier,
        live: true, // otherwise RxDB cannot cancel it before it is in sync
        pull: { handler: (...asked) => handlers.run('pull', ...asked), batchSize },
        push: { handler: (...asked) => handlers.run('push', ...asked), batchSize },
        waitForLeadership: options.waitForLeadership ?? true,
        autoStart: options.autoStart ?? true,
        toggleOnDocumentVisible: options.toggleOnDocumentVisible ?? true,
    });
    handlers.replication = replication;
    replication.onCancel.push(() => handlers.stopped.abort());
    if (signal) {
        const cancel = () => replication.cancel();
        if (signal.aborted) cancel();
        signal.addEventListener('abort', cancel, { once: true });
        replication.onCancel.push(() => signal.removeEventListener('abort', cancel));
    }
    replication.startPromise.then(() => (live ? handlers.listen() : endInSync(replication)));
    return replication;
}

async function endInSync(replication) {
    await replication.awaitInSync().catch(() => undefined); // rejects if the database was closed
    await replication.cancel();
}

/** See rxdb.d.ts. */
export async function waiting(replication) {
    const state = replication.internalReplicationState;
    if (!state) return []; // not started: another tab replicates, perhaps
    const ids = [];
    let checkpoint = await getLastCheckpointDoc(state, 'up');
    for (;;) {
        const found = await getChangedDocumentsSince(state.input.forkInstance, BATCH_SIZE, checkpoint);
        const known = await getAssumedMasterState(state, found.documents.map((each) => each.id));
        for (const each of found.documents) {
            if (!deepEqual(known[each.id]?.docData, withoutMeta(each))) ids.push(each.id);
        }
        if (found.documents.length < BATCH_SIZE) return ids;
        checkpoint = found.checkpoint;
    }
}

/** The default name of a device: a random text that RxDB stores with the database. */
async function nameOf(database) {
    return `rxdb ${await database.storageToken}`;
}

function checkCollection(collection) {
    const schema = collection?.schema?.jsonSchema;
    if (!schema) throw new TypeError('replicateWithMobync needs a collection of RxDB');
    if (collection.schema.primaryPath !== 'id' || typeof schema.primaryKey !== 'string') {
        throw new TypeError(`${collection.name}: the primary key must be the field "id"`);
    }
    if (schema.attachments) {
        throw new TypeError(`${collection.name}: attachments are not synced`);
    }
}

/** RxDB's handlers for one collection. */
class Handlers {
    replication = null; // RxDB's, which calls the handlers
    stopped = new AbortController();

    constructor(collection, model, outbox, transport, { onRefused, onRevoked, onOtherOwner }) {
        this.collection = collection;
        this.model = model;
        this.outbox = outbox;
        this.transport = transport;
        this.onRefused = onRefused ?? ((refused) => console.warn('mobync refused', refused));
        this.onRevoked = onRevoked ?? ((error) => console.warn('mobync', error.message));
        this.onOtherOwner = onOtherOwner ?? ((error) => console.warn('mobync', error.message));
        this.hasEnded = false;
        this.at = undefined; // the end of the last pull; before that it is RxDB's to know
        // Apart, because a pull that works says nothing of a push that fails.
        this.backoffs = { pull: new Backoff(), push: new Backoff() };
        this.tooLarge = undefined; // the error of the last push, if it was of one document
        this.unsettled = new Map(); // id of a document -> when its push is stored or has failed
        this.seenClock = -1;
        this.warned = new Set(); // kinds of errors that the console was told of
    }

    /** Pull or push; if it fails, set how long RxDB waits before it tries again. */
    async run(direction, ...asked) {
        const backoff = this.backoffs[direction];
        try {
            const answer = await this[direction](...asked);
            backoff.reset();
            return answer;
        } catch (error) {
            // RxDB reads it next, and does not try again while it is stopped or paused.
            const isOver = this.stopped.signal.aborted || this.replication.isPaused();
            this.replication.retryTime = isOver ? 1 : backoff.next(error);
            this.warn(error);
            throw error;
        }
    }

    /** Tell the console of an error that stays, once, if the app does not hear of errors. */
    warn(error) {
        const kind = error.code ?? error.name;
        if (error.isTransient || HANDLED.includes(kind) || this.stopped.signal.aborted) return;
        if (this.warned.has(kind) || this.replication.subjects.error.observed) return;
        this.warned.add(kind);
        console.warn(`mobync ${this.collection.name}: ${error.message}`);
    }

    async pull(checkpoint, limit) {
        let at = checkpoint ?? this.outbox.start();
        let documents = [];
        let isFull = true;
        // RxDB takes a page that is not full as the last one, so this fills up what it leaves out.
        while (isFull && documents.length < limit) {
            const wanted = limit - documents.length;
            let page;
            try {
                page = await this.ask('pull', { collection: this.model, checkpoint: at, limit: wanted });
            } catch (error) {
                if (error.code !== 'clock_ahead' || at === null) throw error;
                documents = error.body.behind ? await this.gone() : await this.sendAll();
                at = FROM_THE_DEAD;
                continue;
            }
            if (at === null && this.outbox.start() !== null) {
                at = this.outbox.start(); // a push went out meanwhile
                continue;
            }
            await Promise.all(page.documents.map((each) => this.unsettled.get(each.id)));
            documents.push(...(await this.fitting(page.documents)));
            isFull = page.documents.length === wanted;
            at = page.checkpoint;
        }
        if (!isFull) this.seenClock = at.clock;
        this.at = at;
        return { documents, checkpoint: at };
    }

    async push(rows) {
        if (this.tooLarge && (await this.isOutdated(rows))) await this.pushAnew();
        const times = await this.times(rows);
        const ids = rows.map((row) => row.newDocumentState.id);
        const settle = this.unsettle(ids);
        let sent;
        let answer;
        try {
            sent = await this.outbox.taken(rows, times, await this.revisions(ids));
            answer = await this.sendInParts(sent, await this.pulledTo());
            this.tooLarge = answer.tooLarge;
            if (this.tooLarge) throw this.tooLarge;
        } catch (error) {
            settle();
            if (error.code === 'clock_ahead') this.startOver();
            if (this.tooLarge) this.letPull();
            throw error;
        }
        // RxDB continues when this returns, and its queue is done when it has stored the answer. If
        // a document with a conflict was edited meanwhile, RxDB stores no answer. Then the next push
        // of the document is already in the queue, and finds what was sent.
        this.forgetStored(sent, ids).finally(settle);
        if (answer.refused.length > 0) tell(this.onRefused, answer.refused);
        const pushed = new Map(rows.map((row) => [row.newDocumentState.id, row.newDocumentState]));
        const conflicts = answer.conflicts.map((each) => this.shaped(each));
        return conflicts.filter((each) => !deepEqual(each, pushed.get(each.id)));
    }

    /** Forget pushes when RxDB has stored their answer. It drops an answer that comes in a pause. */
    async forgetStored(sent, ids) {
        try {
            await this.replication.internalReplicationState.streamQueue.up;
            this.outbox.forget(sent, await this.revisions(ids));
        } catch {
            // Closed. What is forgotten next time does no harm.
        }
    }

    /** Pull at once: the push needs the pull first. */
    startOver() {
        this.replication.reSync();
        this.letPull();
    }

    /** Have RxDB pull, although a push has not worked yet. */
    letPull() {
        this.replication.internalReplicationState.events.active.up.next(false);
    }

    /** Whether the document that was too large has changed since RxDB made these rows. */
    async isOutdated(rows) {
        const { document } = this.tooLarge;
        const row = rows.find((each) => each.newDocumentState.id === document);
        const storage = this.collection.storageInstance;
        const [stored] = await storage.findDocumentsById([document], true);
        return Boolean(row && stored) && !deepEqual(withoutMeta(stored), row.newDocumentState);
    }

    /** Have RxDB make its rows again, from the documents as they are now: it repeats a failed push. */
    async pushAnew() {
        const error = this.tooLarge;
        this.tooLarge = undefined;
        await this.replication.pause();
        const { up } = this.replication.internalReplicationState.streamQueue;
        const start = () => this.replication.start();
        up.then(start, start);
        throw error;
    }

    /** Have pulls of these documents wait; gives what ends that. */
    unsettle(ids) {
        let end;
        const settled = new Promise((resolve) => (end = resolve));
        for (const id of ids) this.unsettled.set(id, settled);
        return () => {
            for (const id of ids) {
                if (this.unsettled.get(id) === settled) this.unsettled.delete(id);
            }
            end();
        };
    }

    /** Of each document the revision of what RxDB has stored of answers; null: nothing. */
    async revisions(ids) {
        const known = await getAssumedMasterState(this.replication.internalReplicationState, ids);
        return new Map(ids.map((id) => [id, known[id]?.metaDocument._rev ?? null]));
    }

    /** When each document was edited, as RxDB has it. */
    async times(rows) {
        const stored = await this.collection.storageInstance.findDocumentsById(
            rows.map((row) => row.newDocumentState.id),
            true,
        );
        return new Map(stored.map((each) => [each.id, Math.floor(each._meta.lwt)]));
    }

    /** Where the last pull ended, as far as RxDB has stored it; undefined: there was none. */
    async pulledTo() {
        const state = this.replication.internalReplicationState;
        return this.at ?? (await getLastCheckpointDoc(state, 'down'));
    }

    /**
     * Send rows; in halves where the server says that they are too many bytes. `tooLarge` of the
     * answer is the error of a document that is too large alone, if there is one.
     */
    async sendInParts(rows, checkpoint) {
        try {
            return await this.ask('push', { collection: this.model, checkpoint, rows });
        } catch (error) {
            if (error.status !== 413) throw error;
            if (rows.length < 2) return this.sendTooLarge(rows[0], checkpoint, error);
        }
        const half = rows.length >> 1;
        const first = await this.sendInParts(rows.slice(0, half), checkpoint);
        const second = await this.sendInParts(rows.slice(half), checkpoint);
        return {
            conflicts: [...first.conflicts, ...second.conflicts],
            refused: [...first.refused, ...second.refused],
            tooLarge: first.tooLarge ?? second.tooLarge,
        };
    }

    /** Send a deleted document without its fields, which are not needed; any other cannot be sent. */
    async sendTooLarge(row, checkpoint, error) {
        const { id, _deleted, ...fields } = row.newDocumentState;
        if (_deleted && Object.keys(fields).length > 0) {
            return this.sendInParts([{ ...row, newDocumentState: { id, _deleted } }], checkpoint);
        }
        this.outbox.drop(row.id, id);
        return { conflicts: [], refused: [], tooLarge: tooLargeError(error, id) };
    }

    /**
     * Give a server that lost what this client has, from a backup say, all documents again. Gives
     * what it has of those that it refused, because a pull may not bring them. A document that is
     * too large is left to RxDB's push.
     */
    async sendAll() {
        const storage = this.collection.storageInstance;
        const undone = [];
        let checkpoint;
        for (;;) {
            const found = await getChangedDocumentsSince(storage, BATCH_SIZE, checkpoint);
            if (found.documents.length === 0) return this.fitting(undone);
            const rows = found.documents.map((each) => ({
                id: newId(),
                time: Math.floor(each._meta.lwt),
                newDocumentState: withoutMeta(each),
                // A delete needs something to delete.
                assumedMasterState: each._deleted ? { ...withoutMeta(each), _deleted: false } : undefined,
            }));
            const { conflicts, refused } = await this.sendInParts(rows);
            if (refused.length > 0) tell(this.onRefused, refused);
            const ids = new Set(refused.map((each) => each.id));
            undone.push(...conflicts.filter((each) => ids.has(each.id)));
            checkpoint = found.checkpoint;
        }
    }

    /**
     * Documents that the server had, and that are gone by now, as deleted: of a client that starts
     * over, which the server cannot tell.
     */
    async gone() {
        const storage = this.collection.storageInstance;
        const deleted = [];
        let checkpoint;
        for (;;) {
            const found = await getChangedDocumentsSince(storage, BATCH_SIZE, checkpoint);
            if (found.documents.length === 0) return deleted;
            const ids = found.documents.map((each) => each.id);
            const asked = { collection: this.model, have: ids };
            const gone = new Set((await this.ask('pull', asked)).gone);
            const known = await getAssumedMasterState(this.replication.internalReplicationState, ids);
            for (const each of found.documents) {
                if (each._deleted || !gone.has(each.id) || !known[each.id]) continue;
                deleted.push({ ...withoutMeta(each), _deleted: true });
            }
            checkpoint = found.checkpoint;
        }
    }

    /** Pulled documents, fit for the collection; without deletes of what it never had. */
    async fitting(documents) {
        const dead = documents.filter((each) => each._deleted);
        const stored = await this.collection.storageInstance.findDocumentsById(
            dead.map((each) => each.id),
            true,
        );
        const known = new Map(stored.map((each) => [each.id, withoutMeta(each)]));
        return documents
            .filter((each) => !each._deleted || known.has(each.id))
            .map((each) =>
                each._deleted ? { ...known.get(each.id), _deleted: true } : this.shaped(each),
            );
    }

    /** A document without what the schema cannot hold. */
    shaped(document) {
        const properties = this.collection.schema.jsonSchema.properties;
        const holds = ([name, value]) =>
            name === '_deleted' ||
            (name in properties && (value !== null || allowsNull(properties[name])));
        return Object.fromEntries(Object.entries(document).filter(holds));
    }

    async ask(route, body) {
        try {
            return await this.transport.post(`/rxdb/${route}`, body, this.stopped.signal);
        } catch (error) {
            if (error.code === 'device_revoked' || error.code === 'other_owner') {
                this.end(error).catch((failed) => console.error('mobync', failed));
            }
            throw error;
        }
    }

    /**
     * Ask no more. If a person has ended this device, drop its documents; if the token is another
     * owner's, keep them for their owner.
     */
    async end(error) {
        if (this.hasEnded) return;
        this.hasEnded = true;
        await this.replication.cancel();
        if (error.code === 'other_owner') return tell(this.onOtherOwner, error);
        await this.collection.remove();
        tell(this.onRevoked, error);
    }

    listen() {
        this.transport.listen(
            (clock) => {
                if (clock !== this.seenClock) this.replication.reSync();
            },
            this.stopped.signal,
        );
    }
}

/** The pushes without a stored answer, in a local document. */
class Outbox {
    static async of(collection, identifier) {
        const outbox = new Outbox();
        outbox.collection = collection;
        outbox.name = `mobync unanswered ${identifier}`;
        outbox.saving = Promise.resolve();
        outbox.waiting = null;
        try {
            const kept = (await collection.getLocal(outbox.name))?.toJSON().data;
            outbox.entries = new Map(kept ? JSON.parse(JSON.stringify(kept.entries)) : []);
            outbox.hasPushed = kept?.hasPushed ?? false;
        } catch (error) {
            throw new Error(
                `${collection.name} needs local documents: add it with localDocuments: true`,
                { cause: error },
            );
        }
        return outbox;
    }

    /** Where to pull from for the first time. */
    start() {
        return this.hasPushed ? FROM_THE_DEAD : null;
    }

    /** Give each row its id, what of it was sent before, and its time; durable when it resolves. */
    async taken(rows, times, revisions) {
        this.hasPushed = true;
        const made = rows.map((row) => {
            const id = row.newDocumentState.id;
            const base = textOf(row.assumedMasterState ?? null);
            const state = textOf(row.newDocumentState);
            const revision = revisions.get(id);
            const before = this.entries.get(id);
            // RxDB has stored the answer of a push with another base, or at another revision. It may
            // be long until the entry is forgotten, because other tasks keep RxDB's queue busy.
            const isAnswered = before?.base !== base || (before.revision ?? revision) !== revision;
            const sent = isAnswered ? [] : before.sent;
            const same = sent.at(-1)?.state === state;
            const pushes = same ? sent : [...sent, { id: newId(), state }];
            this.entries.set(id, { base, revision, sent: pushes });
            return {
                id: pushes.at(-1).id,
                time: times.get(id),
                assumedMasterState: row.assumedMasterState,
                newDocumentState: row.newDocumentState,
                unanswered: pushes.slice(0, -1).map((push) => ({
                    id: push.id,
                    newDocumentState: JSON.parse(push.state),
                })),
            };
        });
        await this.save();
        return made;
    }

    /** Drop what was sent and answered, but not what was taken for the same documents since. */
    forget(rows, revisions) {
        for (const { id, newDocumentState } of rows) {
            const entry = this.entries.get(newDocumentState.id);
            if (entry?.sent.at(-1).id !== id) continue;
            const isStored = entry.revision !== revisions.get(newDocumentState.id);
            if (isStored) this.entries.delete(newDocumentState.id);
        }
        this.save().catch(() => undefined); // closed: what is forgotten next time does no harm
    }

    /** Drop a push that cannot have arrived, because the server did not read it. */
    drop(push, document) {
        const entry = this.entries.get(document);
        if (entry?.sent.at(-1).id !== push) return;
        entry.sent.pop();
        if (entry.sent.length === 0) this.entries.delete(document);
        this.save().catch(() => undefined);
    }

    /** Write the entries as they are by then; one write at a time, and one for all who wait. */
    save() {
        this.waiting ??= this.saving
            .catch(() => undefined)
            .then(() => {
                this.waiting = null;
                const entries = [...this.entries];
                const { hasPushed } = this;
                this.saving = this.collection.upsertLocal(this.name, { entries, hasPushed });
                return this.saving;
            });
        return this.waiting;
    }
}

/** The error of a document that the server does not take even alone. */
function tooLargeError(cause, document) {
    const { message, status, code, retryAfterMs, body } = cause;
    const what = `the document "${document}" is too large for the server: ${message}`;
    const error = new MobyncError(what, { status, code, retryAfterMs, body, cause });
    return Object.assign(error, { document });
}

/** JSON with sorted members, because storages return them in different orders. */
function textOf(value) {
    return JSON.stringify(value, (_, each) =>
        each && typeof each === 'object' && !Array.isArray(each)
            ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
            : each,
    );
}

function withoutMeta(stored) {
    const names = Object.entries(stored).filter(([name]) => !RXDBS_OWN.includes(name));
    return Object.fromEntries(names);
}

function allowsNull(property) {
    return property.type === undefined || [property.type].flat().includes('null');
}
