// A device with RxDB, for tests: what it is told comes from Python, as calls with JSON.

import { createRxDatabase } from 'rxdb';

import { replicateWithMobync } from '../../clients/javascript/rxdb.js';

const PROPERTIES = {
    id: { type: 'string', maxLength: 40 },
    name: { type: 'string' },
    done: { type: 'boolean' },
    rank: { type: ['number', 'null'] },
    note: { type: 'string' },
};

export class Device {
    constructor(storage) {
        this.storage = storage;
        this.errors = [];
        this.refused = [];
        this.revoked = [];
        this.otherOwner = [];
    }

    /** Open the database and its collection, without a server. */
    async open(name, { localDocuments = true, primaryKey = 'id' } = {}) {
        const database = await createRxDatabase({ name, storage: this.storage, multiInstance: false });
        const schema = {
            version: 0,
            primaryKey,
            type: 'object',
            properties: { ...PROPERTIES, [primaryKey]: PROPERTIES.id },
            required: [primaryKey],
        };
        const made = await database.addCollections({ tasks: { schema, localDocuments } });
        this.database = database;
        this.tasks = made.tasks;
    }

    async removeDatabase() {
        await this.database.remove();
    }

    async replicate({ token, newToken, ...options }) {
        let asked = 0;
        const replication = await replicateWithMobync(this.tasks, {
            ...options,
            token: ({ isRefused }) => {
                asked += 1;
                this.asked = asked;
                return isRefused ? newToken : token;
            },
            onRefused: (refused) => this.refused.push(...refused),
            onRevoked: (error) => this.revoked.push(error.code),
            onOtherOwner: (error) => this.otherOwner.push(error.code),
            signal: (this.abort = new AbortController()).signal,
        });
        this.replication = replication;
        replication.error$.subscribe((error) => this.errors.push(error.parameters?.errors?.[0] ?? String(error)));
    }

    async sync() {
        this.replication.reSync();
        await this.replication.awaitInSync();
    }

    async insert(...documents) {
        await this.tasks.bulkInsert(documents);
    }

    async patch(id, fields) {
        await (await this.tasks.findOne(id).exec()).incrementalPatch(fields);
    }

    async unset(id, field) {
        const document = await this.tasks.findOne(id).exec();
        await document.incrementalModify((data) => {
            delete data[field];
            return data;
        });
    }

    async remove(id) {
        await (await this.tasks.findOne(id).exec()).incrementalRemove();
    }

    async rows() {
        const found = await this.tasks.find().exec();
        return Object.fromEntries(found.map((each) => [each.id, each.toJSON()]));
    }

    async count() {
        return this.tasks.count().exec();
    }

    async pause() {
        await this.replication.pause();
    }

    async start() {
        await this.replication.start();
    }

    /** Sync what waits; gives the milliseconds until all of it was pushed. */
    async timed(options, count) {
        const began = performance.now();
        let sent = 0;
        await this.replicate(options);
        await new Promise((resolve) => {
            this.replication.sent$.subscribe(() => (sent += 1) === count && resolve());
        });
        return performance.now() - began;
    }

    async told() {
        const { errors, refused, asked, revoked, otherOwner } = this;
        return { errors, refused, asked, revoked, otherOwner, closed: this.tasks.closed };
    }

    async stop() {
        this.abort.abort();
        await this.replication.cancel();
        return this.replication.isStopped();
    }

    /** What the package keeps of unanswered pushes. */
    async unanswered(identifier) {
        const kept = await this.tasks.getLocal(`mobync unanswered ${identifier}`);
        return kept ? kept.toJSON().data.entries : [];
    }
}
