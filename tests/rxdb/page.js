// A device in a page: calls are window.device's.

import { getRxStorageDexie } from 'rxdb/plugins/storage-dexie';

import { Device } from './device.js';

window.device = new Device(getRxStorageDexie());
