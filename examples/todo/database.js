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

/**
 * Replicate the tasks. `network.isOn` is checked before each request, and `network.answered` gets the
 * status of each answer, 0 if none came. `token` is a function.
 */
export function replicate(tasks, token, network, onRefused) {
    return replicateWithMobync(tasks, {
        url: new URL('/sync', location.href).href,
        identifier: 'todo',
        token,
        onRefused,
        fetch: async (...request) => {
            if (!network.isOn) throw new TypeError('switched off');
            try {
                const response = await fetch(...request);
                network.answered(response.status);
                return response;
            } catch (error) {
                if (error.name !== 'AbortError') network.answered(0);
                throw error;
            }
        },
    });
}
