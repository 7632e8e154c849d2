// A store under a prefix in a container of Azure's blob storage. Files are written on this machine, in the system's
// temporary folder, and uploaded when they are whole; they are read by ranges. Error messages say why.
//
// A killed upload leaves uncommitted blocks, of a blob that does not exist. List Blobs gives such a blob a length of 0,
// as it does an empty one, so here a blob of 0 bytes counts as an unfinished one; no file of a dump is empty, but for
// an append blob to which nothing was appended yet. Azure does not delete a blob that is only blocks. To remove them,
// an empty list of blocks is committed, and the empty blob that results is deleted, each under the condition that
// nothing was written there since, so that no finished blob can be lost. Readers that look in between, or after a kill
// in between, see an unfinished file as before.
import { randomBytes } from 'node:crypto';
import { open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBlobClient, ContainerClient, ContainerListBlobHierarchySegmentResponse } from '@azure/storage-blob';
import { parseStoreAddress, type StoreAddress } from '../blob/blob_address.js';
import { appendText, createAppendBlob, mostAppends } from '../blob/blob_append.js';
import { containerClientOf } from '../blob/blob_client.js';
import { takeBlobLease, usualLease } from '../blob/blob_lease.js';
import { RemoteBlob } from '../blob/blob_remote.js';
import {
  longRetries,
  type RequestOptions,
  request,
  unlessStatus,
  usualTimeout,
  type Watch,
} from '../blob/blob_request.js';
import { openRemote } from '../blob/blob_source.js';
import { putText, uploadBlocks } from '../blob/blob_upload.js';
import type { ByteSource } from '../byte_source.js';
import type { Lease } from '../lease.js';
import {
  type Appender,
  checkedName,
  type Draft,
  type FoundFile,
  type OpenOptions,
  type Store,
  unfinishedName,
  unfinishedOf,
} from './store.js';

/** The tag in the names that `list` gives for blobs that are only blocks. */
const blocksTag = '00000000';

export interface BlobStoreOptions {
  /** The duration of a lease; for tests. */
  readonly leaseSeconds?: number;
  /** The number of blocks with which a file that is appended to is full; for tests. */
  readonly mostAppends?: number;
}

export class BlobStore implements Store {
  readonly name: string;
  readonly #address: StoreAddress;
  readonly #leaseSeconds: number;
  readonly #mostAppends: number;
  #container: Promise<ContainerClient> | undefined;

  /** `az://account/container/prefix`. @throws Error for an address that is none. */
  constructor(address: string, options: BlobStoreOptions = {}) {
    this.#address = parseStoreAddress(address);
    this.name = this.#address.name;
    this.#leaseSeconds = options.leaseSeconds ?? usualLease;
    this.#mostAppends = options.mostAppends ?? mostAppends;
  }

  pathOf(file: string): string {
    return `${this.name}/${checkedName(this.name, file)}`;
  }

  /**
   * A prefix needs no making, but its container must exist. Whether it can be written shows when the lease is taken.
   */
  async create(): Promise<() => Promise<void>> {
    await this.#page(undefined, 1);
    return async () => {};
  }

  async list(): Promise<string[]> {
    const names: string[] = [];
    let next: string | undefined;
    do {
      const page = await this.#page(next);
      for (const { name, size } of page.blobs) {
        if (name === '') continue; // a blob of the prefix itself, as some tools make to show a folder
        names.push(size === 0 ? unfinishedName(name, blocksTag) : name);
      }
      next = page.next;
    } while (next);
    return names.sort();
  }

  async find(file: string): Promise<FoundFile | undefined> {
    const found = await this.#ask(file, (blob, { signal: abortSignal }) =>
      unlessStatus([404], undefined, blob.getProperties({ abortSignal })),
    );
    const size = found?.contentLength ?? 0;
    return size === 0 ? undefined : { size, regular: true };
  }

  async open(file: string, options?: OpenOptions): Promise<ByteSource> {
    const blob = await this.#blob(file);
    return openRemote(new RemoteBlob({ name: this.pathOf(file), baseName: file }, blob, usualTimeout), options);
  }

  async writeText(file: string, text: string): Promise<void> {
    await this.#ask(file, (blob, { signal }) => putText(blob, text, signal), { retryPolicy: longRetries });
  }

  async writePieces(file: string, pieces: Iterable<string>): Promise<void> {
    await this.writeText(file, [...pieces].join(''));
  }

  async append(file: string): Promise<Appender> {
    const [name, blob, most] = [this.pathOf(file), (await this.#blob(file)).getAppendBlobClient(), this.#mostAppends];
    let blocks = 0;
    await createAppendBlob(name, blob);
    return {
      get isFull() {
        return blocks >= most;
      },
      async append(text) {
        if (text !== '') blocks = await appendText(name, blob, text);
      },
      async close() {},
    };
  }

  async remove(name: string): Promise<void> {
    const file = unfinishedOf(name);
    if (file !== undefined && name === unfinishedName(file, blocksTag)) return this.#removeBlocks(file);
    await this.#ask(name, (blob, { signal: abortSignal }) =>
      unlessStatus([404], undefined, blob.delete({ abortSignal })),
    );
  }

  /** The draft's file on this machine has no name, so that nothing of it is left when the process is killed. */
  async draft(file: string, tag: string, part?: string): Promise<Draft> {
    checkedName(this.name, file);
    const unfinished = checkedName(this.name, unfinishedName(file, tag, part));
    const path = join(tmpdir(), checkedName(tmpdir(), `${unfinished}.${randomBytes(8).toString('hex')}`));
    const handle = await open(path, 'wx+', 0o600);
    try {
      await unlink(path);
    } catch (error) {
      await handle.close();
      throw error;
    }
    let state: 'written' | 'uploading' | 'published' = 'written';
    return {
      path: `${path} (TMPDIR moves it)`,
      handle,
      publish: async () => {
        state = 'uploading';
        await uploadBlocks(this.pathOf(file), await this.#blob(file), handle);
        state = 'published';
        await handle.close();
      },
      discard: async () => {
        await handle.close().catch(() => {}); // it is closed already
        if (state !== 'uploading') return;
        await this.#removeBlocks(file).catch(() => {}); // the next dump removes them, when there is a connection
      },
    };
  }

  async takeLease(file: string): Promise<Lease | string> {
    return takeBlobLease({ name: this.pathOf(file), blob: await this.#blob(file), seconds: this.#leaseSeconds });
  }

  canLink(from: Store, file: string): Promise<boolean> {
    return this.link(from, file);
  }

  async link(from: Store, file: string): Promise<boolean> {
    checkedName(this.name, file);
    throw new Error(
      `cannot give ${from.pathOf(file)} a name in ${this.name}: ` +
        'parts in object storage must lie under one prefix: nothing is copied',
    );
  }

  async #removeBlocks(file: string): Promise<void> {
    const etag = await this.#ask(file, async (blob, { signal: abortSignal }) => {
      const conditions = { ifNoneMatch: '*' };
      const made = await unlessStatus([409, 412], undefined, blob.commitBlockList([], { abortSignal, conditions }));
      if (made) return made.etag;
      const there = await unlessStatus([404], undefined, blob.getProperties({ abortSignal }));
      return there?.contentLength === 0 ? there.etag : undefined; // an earlier, interrupted attempt left it
    });
    if (etag === undefined) return;
    await this.#ask(file, (blob, { signal: abortSignal }) =>
      unlessStatus([404, 412], undefined, blob.delete({ abortSignal, conditions: { ifMatch: etag } })),
    );
  }

  async #page(continuationToken: string | undefined, maxPageSize?: number) {
    const container = await this.#client();
    const { prefix } = this.#address;
    const page = await request(this.name, async ({ signal: abortSignal }) => {
      const options = { prefix, includeUncommitedBlobs: true, abortSignal };
      const pages = container.listBlobsByHierarchy('/', options).byPage({
        ...(continuationToken !== undefined && { continuationToken }),
        ...(maxPageSize !== undefined && { maxPageSize }),
      });
      return (await pages.next()).value as ContainerListBlobHierarchySegmentResponse | undefined;
    });
    const blobs = (page?.segment.blobItems ?? []).map(({ name, properties }) => ({
      name: name.slice(prefix.length),
      size: properties.contentLength ?? 0,
    }));
    return { blobs, next: page?.continuationToken };
  }

  async #ask<T>(
    file: string,
    send: (blob: BlockBlobClient, watch: Watch) => Promise<T>,
    options: RequestOptions = {},
  ): Promise<T> {
    const blob = await this.#blob(file);
    return request(this.pathOf(file), (watch) => send(blob, watch), options);
  }

  async #blob(file: string): Promise<BlockBlobClient> {
    const name = `${this.#address.prefix}${checkedName(this.name, file)}`;
    return (await this.#client()).getBlockBlobClient(name);
  }

  #client(): Promise<ContainerClient> {
    this.#container ??= containerClientOf(this.#address);
    return this.#container;
  }
}
