import type { RxCollection } from 'rxdb';
import type { RxReplicationState } from 'rxdb/plugins/replication';

import type { MobyncError, ServerOptions } from './transport.js';

/** A checkpoint of the server; opaque to apps. */
export interface Checkpoint {
    clock: number;
    id: string;
    began: number;
    dead?: boolean;
    mark?: string;
}

/** A document that a rule of the server refused; RxDB has restored the server's document. */
export interface Refused {
    /** The id of the document. */
    id: string;
    code: 'unauthorized' | 'invalid' | 'depends_on_refused';
    /** For the developer of the app. */
    message: string;
}

export interface ReplicationOptions extends ServerOptions {
    /** The model on the server; by default the collection's name. */
    model?: string;
    /** How many documents a request has; 1000 by default. */
    batchSize?: number;
    /** Listen to the server's events; true by default. Without it, the replication runs once. */
    live?: boolean;
    /** If several tabs are open, only one replicates; true by default. */
    waitForLeadership?: boolean;
    /** Start at once; true by default. */
    autoStart?: boolean;
    /** As in RxDB: pause while the page is hidden, except in the leading tab; true by default. */
    toggleOnDocumentVisible?: boolean;
    /** Cancels the replication. */
    signal?: AbortSignal;
    /** Called when a rule refused an edit; by default it warns on the console. */
    onRefused?: (refused: Refused[]) => void;
    /**
     * Called when a person has revoked this device, after its collection was removed with all its
     * documents; by default it warns on the console.
     */
    onRevoked?: (error: MobyncError) => void;
    /**
     * Called when the collection has the documents of another owner than the token's, after the
     * replication has ended. Nothing was sent or changed. By default it warns on the console.
     */
    onOtherOwner?: (error: MobyncError) => void;
    /** RxDB's replication identifier; by default made from the url and the model. */
    identifier?: string;
}

/**
 * Replicate a collection with a mobync server.
 *
 * The collection's primary key must be `id`. The collection must have `localDocuments: true`, to
 * store the ids of unanswered pushes. Its conflict handler is not changed.
 *
 * @returns RxDB's replication state, which is started unless `autoStart` is false.
 * @throws TypeError, Error: the collection or an option is wrong, or an option is unknown.
 */
export function replicateWithMobync<RxDocType>(
    collection: RxCollection<RxDocType>,
    options: ReplicationOptions,
): Promise<RxReplicationState<RxDocType, Checkpoint>>;

/**
 * The ids of documents whose last edit the server does not have yet, including deletes. Empty before
 * the replication has started, for example because another tab replicates.
 */
export function waiting(replication: RxReplicationState<any, any>): Promise<string[]>;
