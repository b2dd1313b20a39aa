// An app that edits, syncs, and is killed by the test meanwhile: node killed.js url owner file
import { Phone } from './phone.js';

const [url, owner, file] = process.argv.slice(2);
const phone = new Phone({ url }, owner, { file });
await phone.update('m', { done: true });
await phone.create('n', { name: 'bread' });
await phone.sync();
