// Opens a store by its name: a folder on a disk, or an address in object storage.
import { isBlobUrl } from '../blob/blob_address.js';
import { BlobStore } from './blob_store.js';
import { DiskStore } from './disk_store.js';
import type { Store } from './store.js';

/** `path/to/folder`, or `az://account/container/prefix`. @throws Error for an address that is none. */
export const openStore = (name: string): Store => (isBlobUrl(name) ? new BlobStore(name) : new DiskStore(name));
