// Uploads a file in blocks, several at a time, and then commits their list: a blob is there whole or not at all. Each
// block goes with its MD5, so that one that is damaged on the way is refused and sent again.
import { createHash, randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { BlobRequestConditions, BlockBlobClient, BlockBlobUploadResponse } from '@azure/storage-blob';
import { handleSource } from '../byte_source.js';
import { longRetries, request } from './blob_request.js';

const MiB = 2 ** 20;
const smallestBlock = 8 * MiB;
/** The most blocks that a blob can have. */
const mostBlocks = 50_000;
/** How many blocks are uploaded at a time; each is in memory. */
const blocksAtOnce = 4;
/** A block is given to the connection in chunks of so many bytes, so that progress is seen. */
const chunkBytes = 64 * 1024;

/** Bytes of each block but the last. */
export const blockBytes = (size: number): number => Math.max(smallestBlock, Math.ceil(size / mostBlocks / MiB) * MiB);

/**
 * Uploads a file; `name` is the blob's, for messages.
 * @throws Error that says why; blocks that were uploaded then stay, uncommitted.
 */
export async function uploadBlocks(name: string, blob: BlockBlobClient, handle: FileHandle): Promise<void> {
  const { size } = await handle.stat();
  const bytes = blockBytes(size);
  // Block IDs have one length, as Azure wants them, and are unique to this attempt: blocks of an earlier one do not
  // mix in.
  const attempt = randomBytes(8).toString('hex');
  const ids = Array.from({ length: Math.ceil(size / bytes) }, (_, block) =>
    Buffer.from(`${attempt}-${String(block).padStart(5, '0')}`).toString('base64'),
  );
  const file = handleSource(name, handle, size);
  const failed = new AbortController();
  const { signal } = failed;
  const left = ids.entries();
  const uploadNext = async () => {
    const buffer = Buffer.allocUnsafeSlow(Math.min(bytes, size));
    for (const [block, id] of left) {
      if (signal.aborted) return;
      const part = buffer.subarray(0, Math.min(bytes, size - block * bytes));
      await file.readInto(block * bytes, part);
      await uploadBlock(name, blob, id, part, signal);
    }
  };
  const uploads = Array.from({ length: Math.min(blocksAtOnce, ids.length) }, () =>
    uploadNext().catch((error) => {
      if (!signal.aborted) failed.abort(error);
    }),
  );
  await Promise.all(uploads); // no block is uploaded after a failure is reported
  signal.throwIfAborted();
  // If an answer is lost, the request is repeated and changes nothing: the blocks in the list are committed by then.
  await request(name, ({ signal: abortSignal }) => blob.commitBlockList(ids, { abortSignal }), {
    retryPolicy: longRetries,
  });
}

async function uploadBlock(name: string, blob: BlockBlobClient, id: string, bytes: Buffer, signal: AbortSignal) {
  const transactionalContentMD5 = createHash('md5').update(bytes).digest();
  await request(
    name,
    (watch) => {
      const onProgress = () => watch.reset();
      const options = { abortSignal: watch.signal, transactionalContentMD5, onProgress };
      return blob.stageBlock(id, () => Readable.from(chunks(bytes)), bytes.length, options);
    },
    { retryPolicy: longRetries, signal },
  );
}

function* chunks(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

/** Writes a small blob in one request; it replaces an older one. */
export function putText(
  blob: BlockBlobClient,
  text: string,
  abortSignal: AbortSignal,
  conditions: BlobRequestConditions = {},
): Promise<BlockBlobUploadResponse> {
  const bytes = Buffer.from(text);
  const blobContentMD5 = createHash('md5').update(bytes).digest(); // the server checks it
  return blob.upload(bytes, bytes.length, { abortSignal, conditions, blobHTTPHeaders: { blobContentMD5 } });
}
