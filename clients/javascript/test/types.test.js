// The types: an app for each module, in test/types, as the strictest compiler takes it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import test from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);
const compiler = fileURLToPath(import.meta.resolve('typescript/bin/tsc'));
const samples = fileURLToPath(new URL('types', import.meta.url));

const KINDS = {
    Node: ['--module', 'NodeNext', '--moduleResolution', 'NodeNext'],
    'a bundler': ['--module', 'ESNext', '--moduleResolution', 'Bundler'],
};

for (const [kind, options] of Object.entries(KINDS)) {
    test(`the types are right for an app for ${kind}`, async () => {
        const compiled = run(process.execPath, [compiler, '-p', samples, ...options]);
        const said = await compiled.then(() => '', (error) => error.stdout || String(error));
        assert.deepEqual(ours(said), []);
    });
}

/** What was said of these files: WatermelonDB's own types have errors that an app cannot help. */
function ours(said) {
    const errors = said.split(/\n(?! )/).filter((each) => each !== '');
    return errors.filter((each) => !each.startsWith('node_modules/@nozbe/watermelondb/'));
}
