// A lease on a dump in object storage, the right of one process at a time to write it: a small blob that names its
// owner, under a lease of the storage service that the owner renews. Such a lease ends by itself when it is not
// renewed, so that no clock has to decide whether a process on another machine is alive. The process table shows
// whether a process on this machine is alive: the lease of a dead one is taken over at once.
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobLeaseClient, BlockBlobClient } from '@azure/storage-blob';
import { isAtWork, type Lease, longestOwner, type Owner, parseOwner, showOwner, thisProcess } from '../lease.js';
import { longRetries, type RequestOptions, type RetryPolicy, request, unlessStatus } from './blob_request.js';
import { putText } from './blob_upload.js';

/** The duration of a lease in seconds, the shortest that Azure grants. */
export const usualLease = 15;
const pollMilliseconds = 1000;

const noRetries: RetryPolicy = { retries: 0, minTimeout: 0, maxTimeout: 0 };
/** A few quick retries: whether a lease is lost must be known soon. */
const briefRetries: RetryPolicy = { retries: 2, minTimeout: 200, maxTimeout: 1000 };

interface LeasedBlob {
  /** The name in messages. */
  readonly name: string;
  readonly blob: BlockBlobClient;
  /** The lease's duration; it is renewed three times within that. */
  readonly seconds: number;
}

/**
 * The lease, or the name of its owner. An owner on this machine is named at once, another one when a lease's time is
 * over.
 */
export async function takeBlobLease(leased: LeasedBlob): Promise<Lease | string> {
  const self = thisProcess(); // its token is the lease's ID
  const end = performance.now() + (leased.seconds * 1000 * 4) / 3;
  for (;;) {
    const since = performance.now();
    if (await taken(leased, self)) return new BlobLease(leased, self, since);
    const named = await ownerOf(leased);
    // If another process was faster with the lease and has not written its name yet, this process's own may be there.
    const owner = named?.token === self.token ? undefined : named;
    const atWork = owner && isAtWork(owner);
    if (atWork) return showOwner(owner);
    if (atWork === false && (await releasedFor(leased, owner as Owner))) continue;
    if (performance.now() > end) return showOwner(owner);
    await sleep(pollMilliseconds);
  }
}

async function taken({ name, blob, seconds }: LeasedBlob, self: Owner): Promise<boolean> {
  const text = JSON.stringify(self);
  const lease = blob.getBlobLeaseClient(self.token);
  const ask = (send: (abortSignal: AbortSignal) => Promise<unknown>, refusals: readonly number[]) =>
    granted(name, send, refusals, { retryPolicy: longRetries });
  await ask((signal) => putText(blob, text, signal, { ifNoneMatch: '*' }), [409, 412]); // it may be there already
  if (!(await ask((abortSignal) => lease.acquireLease(seconds, { abortSignal }), [404, 409, 412]))) return false;
  // The blob may still name an earlier owner: now it names this one.
  return ask((signal) => putText(blob, text, signal, { leaseId: self.token }), [412]);
}

async function ownerOf({ name, blob }: LeasedBlob): Promise<Owner | undefined> {
  const text = await request(name, async ({ signal: abortSignal }) => {
    // the blob is gone, or empty
    const answer = await unlessStatus([404, 416], undefined, blob.download(0, longestOwner, { abortSignal }));
    const parts: Buffer[] = [];
    for await (const bytes of answer?.readableStreamBody ?? []) parts.push(Buffer.from(bytes));
    return Buffer.concat(parts).toString();
  });
  return parseOwner(text);
}

/**
 * Ends the lease of a dead process, by that lease's ID: a lease that another process has taken since stays. (Breaking
 * the lease would end that one, too.)
 */
function releasedFor({ name, blob }: LeasedBlob, { token }: Owner): Promise<boolean> {
  const release = (abortSignal: AbortSignal) => blob.getBlobLeaseClient(token).releaseLease({ abortSignal });
  const refusals = [400, 404, 409, 412]; // another process has it by now, or it is gone
  return granted(name, release, refusals);
}

/** True when the server does what it is asked for, false when it refuses with one of these statuses. */
const granted = (
  name: string,
  send: (abortSignal: AbortSignal) => Promise<unknown>,
  refusals: readonly number[],
  options: RequestOptions = {},
): Promise<boolean> =>
  request(
    name,
    async ({ signal }) => {
      const done = send(signal).then(() => true);
      return unlessStatus(refusals, false, done);
    },
    options,
  );

class BlobLease implements Lease {
  readonly #leased: LeasedBlob;
  readonly #lease: BlobLeaseClient;
  readonly #timer: NodeJS.Timeout;
  /** Until then it is certainly this process's: the time is counted from the request, not from the server's answer. */
  #until: number;
  #gone = false;

  constructor(leased: LeasedBlob, { token }: Owner, since: number) {
    const { blob, seconds } = leased;
    this.#leased = leased;
    this.#lease = blob.getBlobLeaseClient(token);
    this.#until = since + seconds * 1000;
    // a renewal that fails is tried again when the next one is due
    this.#timer = setInterval(() => this.#renew(noRetries).catch(() => {}), (seconds * 1000) / 3);
    this.#timer.unref();
  }

  /** Without a connection, the lease is not lost before its time is over. */
  async lost(): Promise<boolean> {
    await this.#renew(briefRetries).catch(() => {});
    return this.#gone || performance.now() > this.#until;
  }

  // If the blob cannot be deleted now, its lease ends by itself, and the blob then says whose it was.
  async release(): Promise<void> {
    clearInterval(this.#timer);
    const { name, blob } = this.#leased;
    const conditions = { leaseId: this.#lease.leaseId };
    await request(name, ({ signal: abortSignal }) =>
      unlessStatus([404, 409, 412], undefined, blob.delete({ abortSignal, conditions })),
    ).catch(() => {});
  }

  /** Renews the lease; also one whose time is over, if no other process has taken it since. */
  async #renew(retryPolicy: RetryPolicy): Promise<void> {
    if (this.#gone) return;
    const { name, seconds } = this.#leased;
    const since = performance.now();
    const send = ({ signal: abortSignal }: { signal: AbortSignal }) =>
      unlessStatus([404, 409, 412], undefined, this.#lease.renewLease({ abortSignal }));
    const renewed = await request(name, send, { retryPolicy, timeout: seconds / 3 });
    if (renewed) this.#until = Math.max(this.#until, since + seconds * 1000);
    else this.#gone = true;
  }
}
