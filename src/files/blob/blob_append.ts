// An append blob: text is added at its end, block by block, and lasts at once. Each block goes with its MD5, so that
// one that is damaged on the way is refused and sent again. If an answer is lost, the block is sent again and may be
// there twice.
import { createHash } from 'node:crypto';
import type { AppendBlobClient } from '@azure/storage-blob';
import { longRetries, request, unlessStatus } from './blob_request.js';

/** The most blocks that are appended to a blob. Azure takes 50,000; the rest is for blocks that come twice. */
export const mostAppends = 49_000;

/** The most bytes that all versions of Azure's service take at once. */
const largestAppend = 2 ** 22;

/** Makes an empty append blob, unless there is a blob. `name` is the blob's, for messages. */
export async function createAppendBlob(name: string, blob: AppendBlobClient): Promise<void> {
  const conditions = { ifNoneMatch: '*' };
  await request(
    name,
    ({ signal: abortSignal }) => unlessStatus([409, 412], undefined, blob.create({ abortSignal, conditions })),
    { retryPolicy: longRetries },
  );
}

/** Appends text. Resolves to the number of blocks that the blob has now. @throws Error that says why. */
export async function appendText(name: string, blob: AppendBlobClient, text: string): Promise<number> {
  const bytes = Buffer.from(text);
  let blocks = 0;
  for (let at = 0; at < bytes.length; at += largestAppend) {
    const block = bytes.subarray(at, at + largestAppend);
    const transactionalContentMD5 = createHash('md5').update(block).digest();
    const appended = await request(
      name,
      ({ signal: abortSignal }) => blob.appendBlock(block, block.length, { abortSignal, transactionalContentMD5 }),
      { retryPolicy: longRetries },
    );
    blocks = appended.blobCommittedBlockCount ?? mostAppends;
  }
  return blocks;
}
