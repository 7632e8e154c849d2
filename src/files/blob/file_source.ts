// The source of a reader: the path or address of a file, an open blob, or the bytes themselves.
import { type LocalSource, ofBytes } from '../byte_source.js';
import { BlobFile, openNamed } from './blob.js';

/** A path, `az://account/container/path`, `https://…`, the result of openBlob, or the bytes of a file. */
export type FileSource = string | Uint8Array | BlobFile;

/** Opens a file for the function `reader`, whose name messages begin with. Closing leaves a caller's blob open. */
export async function openSource(reader: string, from: FileSource): Promise<LocalSource> {
  if (typeof from === 'string') {
    const { source, origin } = await openNamed(reader, from);
    return { ...source, origin };
  }
  if (from instanceof BlobFile) return borrowed(reader, from);
  if (from instanceof Uint8Array) return ofBytes(`${reader}: the bytes`, from);
  throw new TypeError(
    `${reader}: expected the path or address of a file, what openBlob gives, or bytes as a Uint8Array, but got ${typeof from}`,
  );
}

function borrowed(reader: string, { name, source, origin }: BlobFile): LocalSource {
  const { size, raw } = source;
  return {
    name: `${reader}: ${name}`,
    size,
    raw,
    origin,
    read: (position, length) => source.read(position, length),
    readInto: (position, bytes) => source.readInto(position, bytes),
    async close() {},
  };
}
