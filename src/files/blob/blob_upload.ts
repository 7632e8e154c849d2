// Uploads a file in blocks, several at a time, and then commits their list: a blob is there whole or not at all. Each
// block goes with its MD5, so that one that is damaged on the way is refused and sent again.
import { createHash, randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { BlobRequestConditions, BlockBlobClient, BlockBlobUploadResponse } from '@azure/storage-blob';
import { handleSource } from '../byte_source.js';
import { patient, request } from './blob_request.js';

const MiB = 2 ** 20;
const smallestBlock = 8 * MiB;
/** That a blob can have. */
const mostBlocks = 50_000;
/** Each holds a block in memory. */
const blocksAtOnce = 4;
/** Of a block, goes to the connection at a time: so it shows whether it takes anything. */
const piece = 64 * 1024;

/** Bytes of each block but the last. */
export const blockBytes = (size: number): number => Math.max(smallestBlock, Math.ceil(size / mostBlocks / MiB) * MiB);

/** `name` is the blob's, for messages. @throws Error in words; blocks that came then lie there, uncommitted. */
export async function uploadBlocks(name: string, blob: BlockBlobClient, handle: FileHandle): Promise<void> {
  const { size } = await handle.stat();
  const bytes = blockBytes(size);
  // Of one length, as Azure wants them, and no other attempt's: what that one left cannot come between.
  const attempt = randomBytes(8).toString('hex');
  const ids = Array.from({ length: Math.ceil(size / bytes) }, (_, block) =>
    Buffer.from(`${attempt}-${String(block).padStart(5, '0')}`).toString('base64'),
  );
  const file = handleSource(name, handle, size);
  const failed = new AbortController();
  const { signal } = failed;
  const left = ids.entries();
  const uploadNext = async () => {
    const room = Buffer.allocUnsafeSlow(Math.min(bytes, size));
    for (const [block, id] of left) {
      if (signal.aborted) return;
      const part = room.subarray(0, Math.min(bytes, size - block * bytes));
      await file.readInto(block * bytes, part);
      await uploadBlock(name, blob, id, part, signal);
    }
  };
  const lanes = Array.from({ length: Math.min(blocksAtOnce, ids.length) }, () =>
    uploadNext().catch((error) => {
      if (!signal.aborted) failed.abort(error);
    }),
  );
  await Promise.all(lanes); // no block comes after a failure is told
  signal.throwIfAborted();
  // Once more after an answer that was lost changes nothing: the list names blocks that are committed by then.
  await request(name, ({ signal: abortSignal }) => blob.commitBlockList(ids, { abortSignal }), { patience: patient });
}

async function uploadBlock(name: string, blob: BlockBlobClient, id: string, bytes: Buffer, signal: AbortSignal) {
  const transactionalContentMD5 = createHash('md5').update(bytes).digest();
  await request(
    name,
    (watch) => {
      const onProgress = () => watch.reset();
      const options = { abortSignal: watch.signal, transactionalContentMD5, onProgress };
      return blob.stageBlock(id, () => Readable.from(pieces(bytes)), bytes.length, options);
    },
    { patience: patient, signal },
  );
}

function* pieces(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += piece) yield bytes.subarray(at, at + piece);
}

/** A small blob in one request, in place of an older one. */
export function putText(
  blob: BlockBlobClient,
  text: string,
  abortSignal: AbortSignal,
  conditions: BlobRequestConditions = {},
): Promise<BlockBlobUploadResponse> {
  const bytes = Buffer.from(text);
  const blobContentMD5 = createHash('md5').update(bytes).digest(); // which the server checks
  return blob.upload(bytes, bytes.length, { abortSignal, conditions, blobHTTPHeaders: { blobContentMD5 } });
}
