// A database of RxDB in memory.
import { createRxDatabase } from 'rxdb';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';

/**
 * Without other instances: RxDB elects a leader among all processes of a machine that have a
 * database of this name, and the tests of a second run would wait until those of the first end.
 */
export function newDatabase(name) {
    return createRxDatabase({ name, storage: getRxStorageMemory(), multiInstance: false });
}
