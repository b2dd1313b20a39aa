// An app on RxDB, as docs/rxdb.md has it: tsc must take it, and refuse what is marked.

import { addRxPlugin, createRxDatabase, type RxCollection, type RxJsonSchema } from 'rxdb';
import { RxDBLocalDocumentsPlugin } from 'rxdb/plugins/local-documents';
import type { RxReplicationState } from 'rxdb/plugins/replication';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';

import { replicateWithMobync, waiting, type Checkpoint, type Refused } from 'mobync/rxdb';
import { MobyncError } from 'mobync/transport';

interface Task {
    id: string;
    name: string;
    done?: boolean;
}

const schema: RxJsonSchema<Task> = {
    version: 0,
    primaryKey: 'id',
    type: 'object',
    properties: {
        id: { type: 'string', maxLength: 40 },
        name: { type: 'string' },
        done: { type: 'boolean' },
    },
    required: ['id', 'name'],
};

export async function start(signal: AbortSignal, token: () => Promise<string>): Promise<string[]> {
    addRxPlugin(RxDBLocalDocumentsPlugin);
    const database = await createRxDatabase<{ tasks: RxCollection<Task> }>({
        name: 'app',
        storage: getRxStorageMemory(),
    });
    const { tasks } = await database.addCollections({ tasks: { schema, localDocuments: true } });

    const replication: RxReplicationState<Task, Checkpoint> = await replicateWithMobync(tasks, {
        url: 'https://example.org/sync',
        token: ({ isRefused }) => (isRefused ? token() : 'kept'),
        model: 'tasks',
        device: 'a browser of mine',
        onRevoked: (error: MobyncError) => console.warn(error.code),
        batchSize: 500,
        live: true,
        waitForLeadership: false,
        autoStart: true,
        toggleOnDocumentVisible: false,
        signal,
        identifier: 'app',
        onRefused: (refused: Refused[]) => refused.map((each): string => `${each.id} ${each.code}`),
        fetch: globalThis.fetch,
        timeoutMs: 60_000,
    });
    replication.error$.subscribe((error) => console.error(error.message));
    replication.received$.subscribe((task) => console.log(task.name, task._deleted));
    await replication.awaitInSync();
    return waiting(replication);
}

export async function mistakes(tasks: RxCollection<Task>): Promise<void> {
    // @ts-expect-error no url
    await replicateWithMobync(tasks, { token: 'a' });
    // @ts-expect-error no token
    await replicateWithMobync(tasks, { url: '/sync' });
    // @ts-expect-error an option that is none
    await replicateWithMobync(tasks, { url: '/sync', token: 'a', turbo: true });
    // @ts-expect-error a token is a text
    await replicateWithMobync(tasks, { url: '/sync', token: () => 7 });
    const replication = await replicateWithMobync(tasks, { url: '/sync', token: 'a' });
    // @ts-expect-error documents have their type
    replication.received$.subscribe((task) => console.log(task.title));
}

export function told(error: unknown): string {
    if (!(error instanceof MobyncError)) return 'unknown';
    const { status, code, retryAfterMs, isTransient } = error;
    return `${status.toFixed()} ${code} ${retryAfterMs.toFixed()} ${isTransient}`;
}
