// The right of one process at a time to write a dump in object storage: a small blob that says who has it, under a
// lease that its owner renews. A lease ends by itself when it is not renewed, so nobody has to judge by a clock whether
// a process of another machine is alive; one of this machine is asked, and what a dead one held is taken over at once.
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobLeaseClient, BlockBlobClient } from '@azure/storage-blob';
import { type Claim, isAtWork, type Owner, ownerInWords, parseOwner, thisProcess } from '../lease.js';
import { type Patience, patient, type RequestOptions, request, unlessStatus } from './blob_request.js';
import { putText } from './blob_upload.js';

/** The shortest that Azure grants. */
export const usualLease = 15;
const pollMilliseconds = 1000;
/** More than what an owner says of itself. */
const longestOwner = 4096;

const once: Patience = { retries: 0, minTimeout: 0, maxTimeout: 0 };
/** So that the renewal after a trouble is not later than the lease ends. */
const short: Patience = { retries: 2, minTimeout: 200, maxTimeout: 1000 };

interface ClaimedBlob {
  /** For messages. */
  readonly name: string;
  readonly blob: BlockBlobClient;
  /** Of the lease; it is renewed three times as often. */
  readonly seconds: number;
}

/** The claim, or in words who has it: at once for a process of this machine, else after a lease's time. */
export async function claimBlob(claimed: ClaimedBlob): Promise<Claim | string> {
  const self = thisProcess(); // its token is the lease's ID
  const end = performance.now() + (claimed.seconds * 1000 * 4) / 3;
  for (;;) {
    const since = performance.now();
    if (await taken(claimed, self)) return new HeldLease(claimed, self, since);
    const named = await ownerOf(claimed);
    // Where another was faster with the lease and has not written its name yet, this process's own may be there.
    const owner = named?.token === self.token ? undefined : named;
    const atWork = owner && isAtWork(owner);
    if (atWork) return ownerInWords(owner);
    if (atWork === false && (await releasedFor(claimed, owner as Owner))) continue;
    if (performance.now() > end) return ownerInWords(owner);
    await sleep(pollMilliseconds);
  }
}

async function taken({ name, blob, seconds }: ClaimedBlob, self: Owner): Promise<boolean> {
  const text = JSON.stringify(self);
  const lease = blob.getBlobLeaseClient(self.token);
  const ask = (send: (abortSignal: AbortSignal) => Promise<unknown>, refusals: readonly number[]) =>
    granted(name, send, refusals, { patience: patient });
  await ask((signal) => putText(blob, text, signal, { ifNoneMatch: '*' }), [409, 412]); // it may be there already
  if (!(await ask((abortSignal) => lease.acquireLease(seconds, { abortSignal }), [404, 409, 412]))) return false;
  // It says now who has the lease, if it was another's before.
  return ask((signal) => putText(blob, text, signal, { leaseId: self.token }), [412]);
}

async function ownerOf({ name, blob }: ClaimedBlob): Promise<Owner | undefined> {
  const text = await request(name, async ({ signal: abortSignal }) => {
    // gone, or empty
    const answer = await unlessStatus([404, 416], undefined, blob.download(0, longestOwner, { abortSignal }));
    const parts: Buffer[] = [];
    for await (const bytes of answer?.readableStreamBody ?? []) parts.push(Buffer.from(bytes));
    return Buffer.concat(parts).toString();
  });
  return parseOwner(text);
}

/**
 * Ends the lease of a process that is dead, in its name: by its ID, so that nobody's lease is ended who was faster.
 * (Breaking a lease would end anybody's.)
 */
function releasedFor({ name, blob }: ClaimedBlob, { token }: Owner): Promise<boolean> {
  const release = (abortSignal: AbortSignal) => blob.getBlobLeaseClient(token).releaseLease({ abortSignal });
  const refusals = [400, 404, 409, 412]; // another's by now, or gone
  return granted(name, release, refusals);
}

/** Whether the server does what it is asked for, or refuses with one of these statuses. */
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

class HeldLease implements Claim {
  readonly #claimed: ClaimedBlob;
  readonly #lease: BlobLeaseClient;
  readonly #timer: NodeJS.Timeout;
  /** Until when it is certainly this process's, as it was asked for before the server granted it. */
  #until: number;
  #gone = false;

  constructor(claimed: ClaimedBlob, { token }: Owner, since: number) {
    const { blob, seconds } = claimed;
    this.#claimed = claimed;
    this.#lease = blob.getBlobLeaseClient(token);
    this.#until = since + seconds * 1000;
    // one that fails is tried again when the next one is due
    this.#timer = setInterval(() => this.#renew(once).catch(() => {}), (seconds * 1000) / 3);
    this.#timer.unref();
  }

  /** Without a connection, it is not lost before its time is over. */
  async lost(): Promise<boolean> {
    await this.#renew(short).catch(() => {});
    return this.#gone || performance.now() > this.#until;
  }

  // What cannot be deleted now ends by itself, and says then whose it was.
  async release(): Promise<void> {
    clearInterval(this.#timer);
    const { name, blob } = this.#claimed;
    const conditions = { leaseId: this.#lease.leaseId };
    await request(name, ({ signal: abortSignal }) =>
      unlessStatus([404, 409, 412], undefined, blob.delete({ abortSignal, conditions })),
    ).catch(() => {});
  }

  /** Also a lease whose time is over, if nobody has taken it since. */
  async #renew(patience: Patience): Promise<void> {
    if (this.#gone) return;
    const { name, seconds } = this.#claimed;
    const since = performance.now();
    const send = ({ signal: abortSignal }: { signal: AbortSignal }) =>
      unlessStatus([404, 409, 412], undefined, this.#lease.renewLease({ abortSignal }));
    const renewed = await request(name, send, { patience, timeout: seconds / 3 });
    if (renewed) this.#until = Math.max(this.#until, since + seconds * 1000);
    else this.#gone = true;
  }
}
