// An app on WatermelonDB, as docs/watermelondb.md has it: tsc must take it, and refuse what is
// marked.

import type { Database } from '@nozbe/watermelondb';

import { syncWithMobync, type WatermelonOptions } from 'mobync/watermelon';

const options: WatermelonOptions = {
    url: 'https://example.org/sync',
    token: async ({ isRefused }) => (isRefused ? 'another' : 'kept'),
};

export async function once(database: Database): Promise<void> {
    await syncWithMobync(database, {
        ...options,
        turbo: true,
        migrationsEnabledAtVersion: 2,
        conflictResolver: (table, local, remote, resolved) => ({ ...resolved, id: local['id'] }),
        log: {},
        tries: 3,
        device: null,
        onRejected: (ids) => console.warn(ids['tasks']?.length),
        fetch: globalThis.fetch,
    });
}

export async function always(database: Database): Promise<AbortController> {
    const stop = new AbortController();
    const { signal } = stop;
    const onError = (error: unknown): void => console.error(error);
    await syncWithMobync(database, { ...options, live: true, signal, onError });
    return stop;
}

export async function mistakes(database: Database): Promise<void> {
    // @ts-expect-error no database
    await syncWithMobync(options);
    // @ts-expect-error no token
    await syncWithMobync(database, { url: '/sync' });
    // @ts-expect-error an option that is none
    await syncWithMobync(database, { ...options, batchSize: 5 });
    // @ts-expect-error nothing is given back
    const changes: object = await syncWithMobync(database, options);
    console.log(changes);
}
