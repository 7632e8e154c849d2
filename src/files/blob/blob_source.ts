// A blob as a file to read at any position, range by range, without a copy on this machine.
import pLimit from 'p-limit';
import { type ByteSource, checkRange } from '../byte_source.js';
import { allocate } from '../memory.js';
import { type BlobVersion, checkedRange, type RemoteBlob } from './blob_remote.js';

/** Requests at a time over all blobs of the process. */
const requests = pLimit(8);

/**
 * The blob as it is now. Later reads are of the same version, or fail. A blob that is `growing` is appended to
 * meanwhile and has another version then: reads are of the bytes that it has now.
 */
export async function openRemote(remote: RemoteBlob, { growing = false } = {}): Promise<ByteSource> {
  const found = await remote.version();
  const version = growing ? { ...found, etag: undefined } : found;
  const { name } = remote.address;
  const { size } = version;
  return {
    name,
    size,
    async read(position, length) {
      checkRange(name, size, position, length);
      const bytes = allocate(name, length);
      await fill(remote, version, position, bytes);
      return bytes;
    },
    async readInto(position, bytes) {
      checkRange(name, size, position, bytes.length);
      await fill(remote, version, position, bytes);
    },
    async close() {},
  };
}

/**
 * Fills `bytes` by ranges for which the server gives a checksum, several at a time; the first failure ends the others.
 */
async function fill(remote: RemoteBlob, version: BlobVersion, position: number, bytes: Uint8Array): Promise<void> {
  const failed = new AbortController();
  const { signal } = failed;
  const parts = Array.from({ length: Math.ceil(bytes.length / checkedRange) }, (_, part) =>
    requests(async () => {
      signal.throwIfAborted();
      const own = bytes.subarray(part * checkedRange, (part + 1) * checkedRange);
      const into = Buffer.from(own.buffer, own.byteOffset, own.length);
      await remote.read(version, position + part * checkedRange, into, () => {}, signal);
    }).catch((error) => {
      if (!signal.aborted) failed.abort(error);
    }),
  );
  await Promise.all(parts); // nothing is written into `bytes` afterwards
  signal.throwIfAborted();
}
