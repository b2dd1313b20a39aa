import type { Database } from '@nozbe/watermelondb';
import type { SyncConflictResolver, SyncLog } from '@nozbe/watermelondb/sync/index.js';

import type { ServerOptions } from './transport.js';

export interface WatermelonOptions extends ServerOptions {
    /** Ends a sync, and `live`, when it is aborted. */
    signal?: AbortSignal;
    /**
     * Go on after the first sync: sync whenever the server tells that there is news, and soon
     * after each edit.  Needs a `signal`.
     */
    live?: boolean;
    /** Load the first pull natively; for SQLiteAdapter with `jsi: true`, and an empty database. */
    turbo?: boolean;
    /** As of `synchronize()`: the schema version at which migrations began to be synced. */
    migrationsEnabledAtVersion?: number;
    /** As of `synchronize()`. */
    conflictResolver?: SyncConflictResolver;
    /** As of `synchronize()`. */
    log?: SyncLog;
    /** How often a request is sent that is not answered, or answered 503; 5 by default. */
    tries?: number;
    /** Told which records a rule refused, by table; without it the console is. */
    onRejected?: (ids: { [table: string]: string[] }) => void;
    /** Told what goes wrong while `live`; without it the console is. */
    onError?: (error: unknown) => void;
}

/**
 * Sync a database with a mobync server: pull what others did, push what was done here.
 *
 * Syncs of one database wait for each other.  What was pushed and not answered is kept in the
 * database's local storage, so that it counts once, whatever happens to the app.
 *
 * Resolves when the sync is done; with `live` when the first one is.  Rejects with what went wrong:
 * a MobyncError of the server or the network, the reason of the signal, or WatermelonDB's own.
 */
export function syncWithMobync(database: Database, options: WatermelonOptions): Promise<void>;
