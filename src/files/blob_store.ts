// stub while the rest is put in place
import { DiskStore } from './disk_store.js';
export class BlobStore extends DiskStore {}
