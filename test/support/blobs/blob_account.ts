// The state of a server of blobs, which changes as in Azure: blobs, blocks that are not committed, leases. Nothing of
// it goes over a network. https://learn.microsoft.com/rest/api/storageservices/operations-on-blobs
import { createHash } from 'node:crypto';

/** Content of a blob, whole or made on demand. */
export type Content = Buffer | { readonly size: number; read(from: number, to: number): Promise<Buffer> };

export interface StoredBlob {
  readonly content: Content;
  readonly etag: string;
  readonly md5: string | undefined;
  readonly modified: Date;
  /** By the clock, in milliseconds. */
  readonly written: number;
  /** The blocks that it was committed from. */
  readonly blocks: ReadonlyMap<string, Buffer>;
  /** How many blocks were appended; undefined for a block blob. */
  readonly appended?: number | undefined;
}

export interface Answer {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

export interface WriteRequest {
  readonly method: string;
  /** `/account/container/blob` */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
  header(name: string): string | undefined;
}

interface Lease {
  readonly id: string;
  readonly seconds: number;
  until: number;
  broken: boolean;
}

export class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string) {
    super(code);
    this.status = status;
    this.code = code;
  }
}

const md5Of = (bytes: Buffer): string => createHash('md5').update(bytes).digest('base64');

export class BlobAccount {
  readonly blobs = new Map<string, StoredBlob>();
  /** Blocks that are not committed, by blob and ID. */
  readonly blocks = new Map<string, Map<string, Buffer>>();
  /** Names in a page of a list. */
  pageSize = 5000;
  /** Azure's is 15 seconds. */
  shortestLease = 15;
  /** Blocks that can be appended to a blob. */
  mostAppends = 50_000;
  readonly #containers = new Set<string>();
  readonly #leases = new Map<string, Lease>();
  #version = 0;

  addContainer(path: string): void {
    this.#containers.add(`/${path}`);
  }

  put(
    path: string,
    content: Content,
    md5?: string,
    blocks: ReadonlyMap<string, Buffer> = new Map(),
    appended?: number,
  ): StoredBlob {
    const modified = new Date(Date.UTC(2026, 0, 1) + 1000 * ++this.#version);
    const etag = `"0x${this.#version.toString(16).padStart(8, '0')}"`;
    const blob = { content, md5, modified, written: Date.now(), etag, blocks, appended };
    this.blobs.set(path, blob);
    this.blocks.delete(path);
    return blob;
  }

  /** Takes a lease, as another client takes one that is over. */
  steal(path: string): void {
    this.#leases.set(path, { id: 'another', seconds: 3600, until: Date.now() + 3_600_000, broken: false });
  }

  answer(request: WriteRequest): Answer {
    const { method, path, query, header } = request;
    const comp = query.get('comp');
    this.#checkContainer(path);
    if (method === 'GET') return this.#list(path, query);
    if (method === 'DELETE') return this.#delete(request);
    if (comp === 'lease') return this.#lease(request);
    this.#checkLease(request);
    if (comp === 'appendblock') return this.#append(request);
    const isOther = this.blobs.get(path)?.appended !== undefined && header('if-none-match') !== '*';
    if (comp !== null && isOther) throw new Refused(409, 'InvalidBlobType');
    if (comp === 'block') return this.#putBlock(request);
    return comp === 'blocklist' ? this.#commit(request) : this.#putBlob(request);
  }

  #checkContainer(path: string): void {
    if (!this.#containers.has(path.split('/').slice(0, 3).join('/'))) throw new Refused(404, 'ContainerNotFound');
  }

  #checkConditions({ path, header }: WriteRequest): void {
    const blob = this.blobs.get(path);
    if (header('if-none-match') === '*' && blob) throw new Refused(409, 'BlobAlreadyExists');
    const wanted = header('if-match');
    if (wanted !== undefined && wanted !== blob?.etag) throw new Refused(412, 'ConditionNotMet');
  }

  #checkLease({ path, header }: WriteRequest): void {
    const id = header('x-ms-lease-id');
    const lease = this.#leases.get(path);
    const isHeld = lease !== undefined && !lease.broken && lease.until > Date.now();
    if (isHeld && id === undefined) throw new Refused(412, 'LeaseIdMissing');
    if (isHeld && id !== lease.id) throw new Refused(412, 'LeaseIdMismatchWithBlobOperation');
    if (!isHeld && id !== undefined) throw new Refused(412, lease ? 'LeaseLost' : 'LeaseNotPresentWithBlobOperation');
  }

  #putBlob(request: WriteRequest): Answer {
    const { path, body, header } = request;
    this.#checkConditions(request);
    const md5 = header('x-ms-blob-content-md5') ?? header('content-md5');
    if (md5 !== undefined && md5 !== md5Of(body)) throw new Refused(400, 'Md5Mismatch');
    const appended = header('x-ms-blob-type') === 'AppendBlob' ? 0 : undefined;
    if (appended === 0 && body.length > 0) throw new Refused(400, 'InvalidHeaderValue');
    const { etag } = this.put(path, body, md5, undefined, appended);
    return { status: 201, headers: { ETag: etag } };
  }

  #append(request: WriteRequest): Answer {
    const { path, body, header } = request;
    const blob = this.blobs.get(path);
    if (!blob) throw new Refused(404, 'BlobNotFound');
    if (blob.appended === undefined) throw new Refused(409, 'InvalidBlobType');
    this.#checkConditions(request);
    const md5 = header('content-md5');
    if (md5 !== undefined && md5 !== md5Of(body)) throw new Refused(400, 'Md5Mismatch');
    if (blob.appended >= this.mostAppends) throw new Refused(409, 'BlockCountExceedsLimit');
    const content = blob.content as Buffer;
    const count = blob.appended + 1;
    const { etag } = this.put(path, Buffer.concat([content, body]), undefined, undefined, count);
    const where = { 'x-ms-blob-append-offset': `${content.length}`, 'x-ms-blob-committed-block-count': `${count}` };
    return { status: 201, headers: { ETag: etag, ...where } };
  }

  #putBlock({ path, query, body, header }: WriteRequest): Answer {
    const id = query.get('blockid') ?? '';
    const md5 = header('content-md5');
    if (md5 !== undefined && md5 !== md5Of(body)) throw new Refused(400, 'Md5Mismatch');
    const blocks = this.blocks.get(path) ?? new Map<string, Buffer>();
    const [other = id] = [...(this.blobs.get(path)?.blocks ?? blocks).keys()];
    if (other.length !== id.length) throw new Refused(400, 'InvalidBlobOrBlock');
    this.blocks.set(path, blocks.set(id, body));
    return { status: 201 };
  }

  #commit(request: WriteRequest): Answer {
    const { path, body } = request;
    this.#checkConditions(request);
    const blocks = new Map<string, Buffer>();
    for (const [, id = ''] of body.toString().matchAll(/<Latest>([^<]*)<\/Latest>/g)) {
      const block = this.blocks.get(path)?.get(id) ?? this.blobs.get(path)?.blocks.get(id);
      if (!block) throw new Refused(400, 'InvalidBlockList');
      blocks.set(id, block);
    }
    const { etag } = this.put(path, Buffer.concat([...blocks.values()]), undefined, blocks);
    return { status: 201, headers: { ETag: etag } };
  }

  #delete(request: WriteRequest): Answer {
    const { path } = request;
    if (!this.blobs.has(path)) throw new Refused(404, 'BlobNotFound');
    this.#checkLease(request);
    this.#checkConditions(request);
    this.blobs.delete(path);
    this.blocks.delete(path);
    this.#leases.delete(path);
    return { status: 202 };
  }

  #lease({ path, header }: WriteRequest): Answer {
    const blob = this.blobs.get(path);
    if (!blob) throw new Refused(404, 'BlobNotFound');
    const action = header('x-ms-lease-action');
    const lease = this.#leases.get(path);
    const isHeld = lease !== undefined && !lease.broken && lease.until > Date.now();
    if (action === 'acquire') {
      const id = header('x-ms-proposed-lease-id') ?? '';
      const seconds = Number(header('x-ms-lease-duration'));
      if (!(seconds >= this.shortestLease && seconds <= 60)) throw new Refused(400, 'InvalidHeaderValue');
      if (isHeld && lease.id !== id) throw new Refused(409, 'LeaseAlreadyPresent');
      const until = Date.now() + seconds * 1000;
      this.#leases.set(path, { id, seconds, until, broken: false });
      return { status: 201, headers: { 'x-ms-lease-id': id } };
    }
    if (!lease) throw new Refused(409, 'LeaseNotPresentWithLeaseOperation');
    if (action === 'break') {
      lease.broken = true;
      return { status: 202, headers: { 'x-ms-lease-time': '0' } };
    }
    if (lease.id !== header('x-ms-lease-id')) throw new Refused(409, 'LeaseIdMismatchWithLeaseOperation');
    if (action === 'release') {
      this.#leases.delete(path);
      return { status: 200 };
    }
    if (lease.broken) throw new Refused(409, 'LeaseIsBrokenAndCannotBeRenewed');
    if (blob.written > lease.until) throw new Refused(409, 'LeaseLost');
    lease.until = Date.now() + lease.seconds * 1000;
    return { status: 200, headers: { 'x-ms-lease-id': lease.id } };
  }

  #list(path: string, query: URLSearchParams): Answer {
    const [prefix, delimiter, marker] = [query.get('prefix') ?? '', query.get('delimiter'), query.get('marker') ?? ''];
    const size = Math.min(this.pageSize, Number(query.get('maxresults') ?? this.pageSize));
    const uncommitted = query.get('include')?.includes('uncommittedblobs') ? [...this.blocks.keys()] : [];
    const entries = new Map<string, string>();
    for (const full of [...this.blobs.keys(), ...uncommitted].sort()) {
      if (!full.startsWith(`${path}/${prefix}`)) continue;
      const name = full.slice(path.length + 1);
      const end = delimiter ? name.indexOf(delimiter, prefix.length) : -1;
      if (end >= 0)
        entries.set(name.slice(0, end + 1), `<BlobPrefix><Name>${name.slice(0, end + 1)}</Name></BlobPrefix>`);
      else entries.set(name, entryOf(name, this.blobs.get(full)));
    }
    const left = [...entries].filter(([name]) => name >= marker);
    const next = left[size]?.[0] ?? '';
    const shown = left.slice(0, size).map(([, entry]) => entry);
    const body =
      `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://localhost/">` +
      `<Prefix>${prefix}</Prefix><Blobs>${shown.join('')}</Blobs><NextMarker>${next}</NextMarker></EnumerationResults>`;
    return { status: 200, headers: { 'Content-Type': 'application/xml' }, body };
  }
}

export const typeOf = (blob: StoredBlob | undefined): string =>
  blob?.appended === undefined ? 'BlockBlob' : 'AppendBlob';

/** In Azure, only its length distinguishes a blob that has only blocks. */
function entryOf(name: string, blob: StoredBlob | undefined): string {
  const content = blob?.content ?? Buffer.alloc(0);
  const size = Buffer.isBuffer(content) ? content.length : content.size;
  const dates = `<Last-Modified>${(blob?.modified ?? new Date()).toUTCString()}</Last-Modified>`;
  const etag = `<Etag>${blob?.etag.replaceAll('"', '') ?? '0x0'}</Etag>`;
  const properties = `${dates}${etag}<Content-Length>${size}</Content-Length><BlobType>${typeOf(blob)}</BlobType>`;
  return `<Blob><Name>${name}</Name><Properties>${properties}</Properties></Blob>`;
}
