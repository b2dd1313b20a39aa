// A phone with WatermelonDB, as the tests have it: rows of tasks and notes.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import lokiModule from '@nozbe/watermelondb/adapters/lokijs/index.js';
import sqliteModule from '@nozbe/watermelondb/adapters/sqlite/index.js';
import loki from 'lokijs'; // which WatermelonDB brings
import * as watermelon from '@nozbe/watermelondb/index.js';
import {
    addColumns,
    createTable,
    schemaMigrations,
} from '@nozbe/watermelondb/Schema/migrations/index.js';

import { syncWithMobync } from '../watermelon.js';

const { default: LokiJSAdapter } = lokiModule; // which are CommonJS, and Node takes no default of that
const { default: SQLiteAdapter } = sqliteModule;
const { appSchema, Database, Model, tableSchema } = watermelon;

class Task extends Model {
    static table = 'tasks';
}

class Note extends Model {
    static table = 'notes';
}

const TASKS = [
    { name: 'name', type: 'string' },
    { name: 'done', type: 'boolean' },
    { name: 'rank', type: 'number', isOptional: true },
];
const COLOR = { name: 'color', type: 'string', isOptional: true };
const NOTES = [{ name: 'text', type: 'string' }];

const schemaOf = (version) =>
    appSchema({
        version,
        tables: [
            tableSchema({ name: 'tasks', columns: version === 1 ? TASKS : [...TASKS, COLOR] }),
            ...(version === 1 ? [] : [tableSchema({ name: 'notes', columns: NOTES })]),
        ],
    });

const migrations = schemaMigrations({
    migrations: [
        {
            toVersion: 2,
            steps: [
                addColumns({ table: 'tasks', columns: [COLOR] }),
                createTable({ name: 'notes', columns: NOTES }),
            ],
        },
    ],
});

const directory = mkdtempSync(join(tmpdir(), 'mobync-watermelon-'));
process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
let phones = 0;

export function newFile() {
    return join(directory, `${(phones += 1)}.db`);
}

export class Phone {
    constructor(server, owner, { file = newFile(), version = 1, adapter = 'sqlite', ...options } = {}) {
        this.server = server;
        this.owner = owner;
        this.file = file;
        this.options = options;
        const schema = schemaOf(version);
        const migrated = version === 1 ? {} : { migrations };
        const opened =
            adapter === 'loki'
                ? new LokiJSAdapter({
                      schema,
                      ...migrated,
                      useWebWorker: false,
                      useIncrementalIndexedDB: false,
                      dbName: file,
                      extraLokiOptions: { autosave: false },
                      _testLokiAdapter: new loki.LokiMemoryAdapter(), // Node has no IndexedDB
                  })
                : new SQLiteAdapter({ schema, ...migrated, dbName: file });
        const modelClasses = version === 1 ? [Task] : [Task, Note];
        this.database = new Database({ adapter: opened, modelClasses });
    }

    /** The same phone after its app was killed and started again. */
    restarted(options = {}) {
        return new Phone(this.server, this.owner, { file: this.file, ...this.options, ...options });
    }

    sync(options = {}) {
        return syncWithMobync(this.database, {
            url: this.server.url,
            token: this.owner,
            tries: 1,
            ...this.options,
            ...options,
        });
    }

    create(id, columns, table = 'tasks') {
        return this.database.write(() =>
            this.database.get(table).create((record) => {
                record._raw.id = id;
                set(record, columns);
            }),
        );
    }

    async update(id, columns) {
        const record = await this.database.get('tasks').find(id);
        await this.database.write(() => record.update(() => set(record, columns)));
    }

    async remove(id) {
        const record = await this.database.get('tasks').find(id);
        await this.database.write(() => record.markAsDeleted());
    }

    async rows(table = 'tasks') {
        const records = await this.database.get(table).query().fetch();
        return Object.fromEntries(
            records.map(({ _raw: { _status, _changed, ...raw } }) => [raw.id, raw]),
        );
    }

    name() {
        return this.database.localStorage.get('mobync_device');
    }

    unanswered() {
        return this.database.localStorage.get('mobync_unanswered');
    }
}

function set(record, columns) {
    for (const [name, value] of Object.entries(columns)) record._setRaw(name, value);
}

