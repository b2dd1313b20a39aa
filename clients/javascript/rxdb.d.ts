import type { RxCollection } from 'rxdb';
import type { RxReplicationState } from 'rxdb/plugins/replication';

import type { MobyncError, ServerOptions } from './transport.js';

/** Where the server has read a client's checkpoint up to; opaque to apps. */
export interface Checkpoint {
    clock: number;
    id: string;
    began: number;
    dead?: boolean;
    mark?: string;
}

/** A document that a rule of the server refused; RxDB has put back the server's. */
export interface Refused {
    /** The document's. */
    id: string;
    code: 'unauthorized' | 'invalid' | 'depends_on_refused';
    /** For the developer of the app. */
    message: string;
}

export interface ReplicationOptions extends ServerOptions {
    /** The model on the server; by default the collection's name. */
    model?: string;
    /** Documents in a request; 1000 by default. */
    batchSize?: number;
    /** Listen to the server's events; true by default.  Without it the replication runs once. */
    live?: boolean;
    /** Of several tabs one replicates; true by default. */
    waitForLeadership?: boolean;
    /** Start at once; true by default. */
    autoStart?: boolean;
    /** Cancels the replication. */
    signal?: AbortSignal;
    /** Is told what a rule refused; by default it is a warning on the console. */
    onRefused?: (refused: Refused[]) => void;
    /**
     * Is told that a person has revoked this device, when its collection was removed with all that
     * was in it; by default it is a warning on the console.
     */
    onRevoked?: (error: MobyncError) => void;
    /** RxDB's replication identifier; by default of the url and the model. */
    identifier?: string;
}

/**
 * Replicate a collection with a mobync server.
 *
 * The collection's primary key must be `id`, and it must have `localDocuments: true`: the ids of
 * pushes that were not answered are kept there.  Its conflict handler is not touched.
 *
 * @returns RxDB's replication state, which is started unless `autoStart` is false.
 * @throws TypeError, Error: the collection or an option cannot be right.
 */
export function replicateWithMobync<RxDocType>(
    collection: RxCollection<RxDocType>,
    options: ReplicationOptions,
): Promise<RxReplicationState<RxDocType, Checkpoint>>;

/**
 * The ids of the documents whose last edit the server does not have yet, deletes too; none before
 * the replication has started, as where another tab replicates.
 */
export function waiting(replication: RxReplicationState<any, any>): Promise<string[]>;
