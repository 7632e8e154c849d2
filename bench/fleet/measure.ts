// The parts of a worker's time that can be measured on this machine, with the code that does the work.
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf, makeBuffer } from '../../src/dump/format/disk.js';
import { handleSource } from '../../src/files/byte_source.js';
import { openStore } from '../../src/files/store/open_store.js';
import { gpt2Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import { sampleText } from '../../test/dump/folders.js';
import { median } from '../compare/summary.js';

export interface Measured {
  readonly tokensPerSecond: number;
  /** Of a shard that is on its way to the disk: it is read back, hashed and synced. */
  readonly finishedBytesPerSecond: number;
  /** For a manifest of a shard, synced and with its final name. */
  readonly manifestSeconds: number;
}

const rounds = 3;

export async function measure(folder: string): Promise<Measured> {
  return {
    tokensPerSecond: await tokensPerSecond(),
    finishedBytesPerSecond: await finishedBytesPerSecond(folder),
    manifestSeconds: await manifestSeconds(folder),
  };
}

const secondsSince = (start: number): number => (performance.now() - start) / 1000;

async function tokensPerSecond(): Promise<number> {
  const { encode } = gpt2Tokenizer();
  const text = (await readFile(sampleText, 'utf8')).repeat(20);
  encode(text.slice(0, 100_000));
  const speeds = Array.from({ length: rounds }, () => {
    const start = performance.now();
    return encode(text).length / secondsSince(start);
  });
  return median(speeds);
}

async function finishedBytesPerSecond(folder: string): Promise<number> {
  const [bytes, buffer] = [2 ** 28, makeBuffer()];
  const speeds: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const path = join(folder, `shard-${round}`);
    await using file = await open(path, 'wx+');
    const block = new Uint8Array(2 ** 20).fill(round + 1);
    for (let at = 0; at < bytes; at += block.length) await file.write(block, 0, block.length, at);
    const start = performance.now();
    await digestOf(handleSource(path, file, bytes), buffer);
    await file.sync();
    speeds.push(bytes / secondsSince(start));
  }
  return median(speeds);
}

async function manifestSeconds(folder: string): Promise<number> {
  const store = openStore(folder);
  const times: number[] = [];
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    await store.writeText(`manifest-${i}-of-20.json`, 'x'.repeat(2000));
    times.push(secondsSince(start));
  }
  return median(times);
}
