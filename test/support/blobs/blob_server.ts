// A server of blobs on this machine that answers as Azure's does (ranges, ETags, conditions, checksums; and writes,
// lists and leases, which blob_account.ts keeps) and can be made to misbehave: cut connections, stall, damage bytes,
// answer with errors, replace a blob while it is read. Processes that a test starts reach it by `endpoint`.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Answer, BlobAccount, type Content, Refused, type StoredBlob, typeOf } from './blob_account.js';

export type { Content } from './blob_account.js';

export interface ServedRequest {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  /**
   * `get`, `head`, `put blob`, `put block`, `commit`, `create append`, `append`, `delete`, `list`, or `acquire`, `renew`,
   * `release`, `break`.
   */
  readonly operation: string;
}

export interface Faults {
  /** Closes each connection after so many bytes of an answer. */
  cutAfter?: number;
  /** Milliseconds before each answer. */
  delay?: number;
  /** Bytes per second of each answer. */
  speed?: number;
  /** Sends headers and then nothing. */
  stall?: boolean;
  /** Answers a range with so many bytes fewer. */
  shorten?: number;
  /** Changes a byte of each answer, or of what is written. */
  damage?: boolean;
  /** Closes the connection after so many bytes of the request. */
  cutRequestAfter?: number;
  /** Executes the request, and closes the connection without an answer. */
  loseAnswer?: boolean;
  /** The request is executed when this resolves, if its connection is still open then. */
  hold?: Promise<unknown>;
  /** Answers with this status and error code. */
  status?: number;
  code?: string;
  /** Sent with the status: seconds, or a date. */
  retryAfter?: number | string;
  /** Redirects the client to this address. */
  redirect?: string;
}

export interface ServerOptions {
  /** The server behaves as Python's http.server: no ranges, no ETags. */
  plain?: boolean;
  /** No checksums of ranges. */
  noChecksums?: boolean;
}

const chunkBytes = 256 * 1024;

export class BlobServer {
  readonly requests: ServedRequest[] = [];
  /** Bytes of all answers. */
  sent = 0;
  /** The blobs; to look at, and to change. */
  readonly account = new BlobAccount();
  /** The fault of a request, by the request's number from 0. */
  faults: (request: ServedRequest, number: number) => Faults | undefined = () => undefined;
  readonly #server: Server;
  readonly #options: ServerOptions;

  private constructor(server: Server, options: ServerOptions) {
    this.#server = server;
    this.#options = options;
  }

  static async start(options: ServerOptions = {}): Promise<BlobServer> {
    const server = createServer();
    const own = new BlobServer(server, options);
    server.on('request', (request, response) => {
      own.#answer(request, response).catch(() => response.destroy());
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return own;
  }

  get address(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** For SONDE_BLOB_ENDPOINT: blobs are put under `openaipublic/container/path`. */
  get endpoint(): string {
    return `${this.address}/openaipublic`;
  }

  /** Serves `content` at a path such as `openaipublic/container/blob`; it replaces an older blob. */
  put(path: string, content: Content, { md5 }: { md5?: string | undefined } = {}): void {
    this.account.put(`/${path}`, content, md5);
  }

  /** Resolves when every request is over. */
  async settled(): Promise<void> {
    const connections = () => new Promise((resolve) => this.#server.getConnections((_, count) => resolve(count)));
    do {
      this.#server.closeIdleConnections();
      await new Promise((resolve) => setTimeout(resolve, 10));
    } while ((await connections()) !== 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.address);
    const header = (name: string): string | undefined => request.headers[name] as string | undefined;
    const range = this.#options.plain ? undefined : (header('x-ms-range') ?? header('range'));
    const served: ServedRequest = {
      method: request.method ?? '',
      path: decodeURIComponent(url.pathname),
      query: url.search,
      range,
      authorization: header('authorization'),
      operation: operationOf(request.method ?? '', url.searchParams.get('comp'), header),
    };
    const faults = this.faults(served, this.requests.push(served) - 1) ?? {};
    if (faults.delay) await new Promise((resolve) => setTimeout(resolve, faults.delay));
    if (faults.redirect) return void response.writeHead(302, { Location: faults.redirect }).end();
    if (faults.status) return refuse(response, faults.status, faults.code ?? 'Injected', faults.retryAfter);
    if (served.operation === 'get' || served.operation === 'head') {
      await faults.hold;
      return this.#read(served, header, response, faults);
    }
    const body = await bodyOf(request, faults);
    await faults.hold;
    if (!body || response.destroyed) return;
    const { method, path } = served;
    try {
      const answer = this.account.answer({ method, path, query: url.searchParams, body, header });
      if (faults.loseAnswer) request.socket.destroy();
      else await this.#reply(response, answer, faults);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refuse(response, error.status, error.code);
    }
  }

  async #reply(response: ServerResponse, { status, headers, body = '' }: Answer, faults: Faults): Promise<void> {
    const bytes = Buffer.from(body);
    response.writeHead(status, { ...headers, 'Content-Length': bytes.length });
    await this.#send(response, bytes, faults);
  }

  async #read(
    served: ServedRequest,
    header: (name: string) => string | undefined,
    response: ServerResponse,
    faults: Faults,
  ): Promise<void> {
    const { range } = served;
    const blob: StoredBlob | undefined = this.account.blobs.get(served.path);
    if (!blob) return refuse(response, 404, 'BlobNotFound');
    const { content, etag, md5, modified } = blob;
    const size = Buffer.isBuffer(content) ? content.length : content.size;
    const wanted = header('if-match');
    if (wanted !== undefined && wanted !== etag) return refuse(response, 412, 'ConditionNotMet');
    const [from, to] = rangeOf(range, size);
    if (from > to || (range !== undefined && from >= size)) return refuse(response, 416, 'InvalidRange');
    const body = served.method === 'HEAD' ? Buffer.alloc(0) : await part(content, from, to - (faults.shorten ?? 0));
    const length = served.method === 'HEAD' ? size : body.length;
    response.statusCode = range === undefined ? 200 : 206;
    response.setHeader('Content-Length', length);
    response.setHeader('Last-Modified', modified.toUTCString());
    if (!this.#options.plain) {
      response.setHeader('Accept-Ranges', 'bytes');
      response.setHeader('ETag', etag);
      response.setHeader('x-ms-blob-type', typeOf(blob));
      if (range !== undefined) response.setHeader('Content-Range', `bytes ${from}-${from + length - 1}/${size}`);
      if (range !== undefined && header('x-ms-range-get-content-md5') === 'true' && !this.#options.noChecksums) {
        response.setHeader('Content-MD5', createHash('md5').update(body).digest('base64'));
      }
      if (md5) response.setHeader(range === undefined ? 'Content-MD5' : 'x-ms-blob-content-md5', md5);
    }
    if (served.method === 'HEAD') return void response.end();
    await this.#send(response, faults.damage ? damaged(body) : body, faults);
  }

  async #send(response: ServerResponse, body: Buffer, { cutAfter, speed, stall }: Faults): Promise<void> {
    response.flushHeaders();
    if (stall) return;
    for (let at = 0; at < body.length; at += chunkBytes) {
      const bytes = body.subarray(at, Math.min(at + chunkBytes, cutAfter ?? body.length));
      this.sent += bytes.length;
      if (!response.write(bytes)) await drained(response);
      if (response.destroyed) return;
      if (speed) await new Promise((resolve) => setTimeout(resolve, (1000 * chunkBytes) / speed));
      if (cutAfter !== undefined && at + chunkBytes >= cutAfter) {
        await new Promise((resolve) => setTimeout(resolve, 5)); // let written bytes be sent
        response.socket?.destroy();
        return;
      }
    }
    response.end();
  }
}

function operationOf(method: string, comp: string | null, header: (name: string) => string | undefined): string {
  if (comp === 'lease') return header('x-ms-lease-action') ?? '';
  const named: Record<string, string> = {
    list: 'list',
    block: 'put block',
    blocklist: 'commit',
    appendblock: 'append',
  };
  const put = header('x-ms-blob-type') === 'AppendBlob' ? 'create append' : 'put blob';
  return named[comp ?? ''] ?? (method === 'PUT' ? put : method.toLowerCase());
}

/** The body of a request; undefined when the connection is closed before all of it has come. */
async function bodyOf(request: IncomingMessage, { cutRequestAfter, damage }: Faults): Promise<Buffer | undefined> {
  const parts: Buffer[] = [];
  let came = 0;
  try {
    for await (const bytes of request) {
      parts.push(bytes as Buffer);
      came += (bytes as Buffer).length;
      if (cutRequestAfter !== undefined && came >= cutRequestAfter) request.socket.destroy();
    }
  } catch {
    return undefined;
  }
  if (!request.complete) return undefined;
  const body = Buffer.concat(parts);
  return damage && body.length > 0 ? damaged(body) : body;
}

/** Waits until more can be written, or the reader is gone. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
    if (response.destroyed) done();
  });
}

const part = async (content: Content, from: number, to: number): Promise<Buffer> =>
  Buffer.isBuffer(content) ? content.subarray(from, Math.max(from, to)) : content.read(from, Math.max(from, to));

function damaged(body: Buffer): Buffer {
  const copy = Buffer.from(body);
  const at = Math.floor(copy.length / 2);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

/** The bytes [from, to) that a request asks for: all when it has no range. */
function rangeOf(range: string | undefined, size: number): [number, number] {
  const [, from, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
  if (from === undefined) return [0, size];
  return [Number(from), last ? Math.min(Number(last) + 1, size) : size];
}

function refuse(response: ServerResponse, status: number, code: string, retryAfter?: number | string): void {
  const wait = retryAfter === undefined ? {} : { 'Retry-After': String(retryAfter) };
  response.writeHead(status, { 'Content-Type': 'application/xml', 'x-ms-error-code': code, ...wait });
  response.end(`<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`);
}
