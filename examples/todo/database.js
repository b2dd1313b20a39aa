// The database of one device, and its replication with the server.

import { createRxDatabase } from 'rxdb';
import { getRxStorageDexie } from 'rxdb/plugins/storage-dexie';
import { replicateWithMobync } from 'mobync/rxdb';

const TASKS = {
    version: 0,
    primaryKey: 'id',
    type: 'object',
    properties: {
        id: { type: 'string', maxLength: 40 },
        name: { type: 'string' },
        done: { type: 'boolean' },
        created: { type: 'number' },
    },
    required: ['id', 'name', 'done', 'created'],
};

/** Open the tasks of a device; `device` distinguishes several devices in one browser. */
export async function openTasks(device) {
    const database = await createRxDatabase({ name: `todo-${device}`, storage: getRxStorageDexie() });
    const { todos } = await database.addCollections({ todos: { schema: TASKS, localDocuments: true } });
    return todos;
}

/** Replicate the tasks; `network.isOn` is checked before each request. */
export function replicate(tasks, token, network, onRefused) {
    return replicateWithMobync(tasks, {
        url: new URL('/sync', location.href).href,
        identifier: 'todo',
        token,
        onRefused,
        fetch: (...request) =>
            network.isOn ? fetch(...request) : Promise.reject(new TypeError('switched off')),
    });
}
