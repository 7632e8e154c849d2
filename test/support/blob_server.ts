// A server of blobs on this machine that answers as Azure's does (ranges, ETags, If-Match, checksums) and can be told to
// misbehave: cut connections, stall, damage bytes, answer with errors, replace a blob while it is read.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ServedRequest {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Content of a blob, whole or made on demand. */
export type Content = Buffer | { readonly size: number; read(from: number, to: number): Promise<Buffer> };

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
  /** Changes a byte of each answer. */
  damage?: boolean;
  /** Answers with this status and error code. */
  status?: number;
  code?: string;
  /** Sends the client on to this address. */
  redirect?: string;
}

export interface ServerOptions {
  /** As Python's http.server: no ranges, no ETags. */
  plain?: boolean;
  /** No checksums of ranges. */
  noChecksums?: boolean;
}

const piece = 256 * 1024;

export class BlobServer {
  readonly requests: ServedRequest[] = [];
  /** Bytes of all answers. */
  sent = 0;
  /** What goes wrong with a request, by its number from 0. */
  faults: (request: ServedRequest, number: number) => Faults | undefined = () => undefined;
  readonly #server: Server;
  readonly #blobs = new Map<string, { content: Content; etag: string; md5: string | undefined; modified: Date }>();
  readonly #options: ServerOptions;
  #version = 0;

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

  /** Serves `content` at a path such as `openaipublic/container/blob`, in place of what was there. */
  put(path: string, content: Content, { md5 }: { md5?: string | undefined } = {}): void {
    const modified = new Date(Date.UTC(2026, 0, 1) + 1000 * ++this.#version);
    this.#blobs.set(`/${path}`, { content, md5, modified, etag: `"0x${this.#version.toString(16).padStart(8, '0')}"` });
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
    };
    const faults = this.faults(served, this.requests.push(served) - 1) ?? {};
    if (faults.delay) await new Promise((resolve) => setTimeout(resolve, faults.delay));
    const blob = this.#blobs.get(served.path);
    if (faults.redirect) return void response.writeHead(302, { Location: faults.redirect }).end();
    if (faults.status) return refuse(response, faults.status, faults.code ?? 'Injected');
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
      response.setHeader('x-ms-blob-type', 'BlockBlob');
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
    for (let at = 0; at < body.length; at += piece) {
      const bytes = body.subarray(at, Math.min(at + piece, cutAfter ?? body.length));
      this.sent += bytes.length;
      if (!response.write(bytes)) await drained(response);
      if (response.destroyed) return;
      if (speed) await new Promise((resolve) => setTimeout(resolve, (1000 * piece) / speed));
      if (cutAfter !== undefined && at + piece >= cutAfter) {
        await new Promise((resolve) => setTimeout(resolve, 5)); // let what was written go out
        response.socket?.destroy();
        return;
      }
    }
    response.end();
  }
}

/** Until more can be written, or nobody reads any longer. */
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

/** -> [from, to) */
function rangeOf(range: string | undefined, size: number): [number, number] {
  const [, from, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
  if (from === undefined) return [0, size];
  return [Number(from), last ? Math.min(Number(last) + 1, size) : size];
}

function refuse(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'Content-Type': 'application/xml', 'x-ms-error-code': code });
  response.end(`<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`);
}
