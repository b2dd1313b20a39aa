import type { Database } from '@nozbe/watermelondb';
import type { SyncConflictResolver, SyncLog } from '@nozbe/watermelondb/sync/index.js';

import type { ServerOptions } from './transport.js';

export interface WatermelonOptions extends ServerOptions {
    /** Ends a sync, and `live`, when it is aborted. */
    signal?: AbortSignal;
    /**
     * Continue after the first sync: sync whenever the server has news, and soon after each edit.
     * This needs a `signal`.
     */
    live?: boolean;
    /** Load the first pull natively: SQLiteAdapter with `jsi: true`, and an empty database. */
    turbo?: boolean;
    /** As in `synchronize()`: the schema version from which on migrations are synced. */
    migrationsEnabledAtVersion?: number;
    /** As of `synchronize()`. */
    conflictResolver?: SyncConflictResolver;
    /** As of `synchronize()`. */
    log?: SyncLog;
    /** How many times to send a request that gets no answer, or a 503; 5 by default. */
    tries?: number;
    /**
     * Called with the records that a rule refused, or that are too large for the server even alone,
     * by table; by default it warns on the console.
     */
    onRejected?: (ids: { [table: string]: string[] }) => void;
    /** Called with errors while `live`; by default it warns on the console. */
    onError?: (error: unknown) => void;
}

/**
 * Sync a database with a mobync server: pull the edits of others, and push the edits made here.
 *
 * Syncs of one database wait for each other. Unanswered pushes are stored in the database's local
 * storage, so that they count once, whatever happens to the app.
 *
 * The promise resolves when the sync is done; with `live`, when the first one is. It rejects with a
 * MobyncError of the server or the network, the reason of the signal, WatermelonDB's own error, or a
 * TypeError if an option is wrong or unknown.
 */
export function syncWithMobync(database: Database, options: WatermelonOptions): Promise<void>;
