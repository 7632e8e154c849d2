// Where bytes come from: a file, or chunks of a stream.

/** Gives bytes in order. */
export interface ByteReader {
  /** Puts some of the next bytes into memory, one at least, and returns their number: 0 at the end. */
  readInto(memory: Buffer): Promise<number>;
  /** To be called when no more is read. */
  close(): Promise<void>;
}

/** The bytes of chunks, as they come. */
export function chunkReader(chunks: AsyncIterable<Buffer>): ByteReader {
  const iterator = chunks[Symbol.asyncIterator]();
  let chunk: Buffer = Buffer.alloc(0);
  return {
    async readInto(memory) {
      while (chunk.length === 0) {
        const { value, done } = await iterator.next();
        if (done) return 0;
        chunk = value;
      }
      const count = chunk.copy(memory);
      chunk = chunk.subarray(count);
      return count;
    },
    close: async () => void (await iterator.return?.()),
  };
}
