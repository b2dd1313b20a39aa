// A device on Node: a call a line on stdin, its answer a line on stdout.

import { createInterface } from 'node:readline';

import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';

import { Device } from './device.js';

const device = new Device(getRxStorageMemory());
for await (const line of createInterface({ input: process.stdin })) {
    const { call, args } = JSON.parse(line);
    let answer;
    try {
        answer = { result: (await device[call](...args)) ?? null };
    } catch (error) {
        answer = { error: `${error.name}: ${error.message}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit();
