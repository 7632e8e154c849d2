// Helpers that the tests of dumps share: the sample text, and the comparison of folders byte by byte.
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';

export const sampleText = join(packageRoot, 'assets', 'demo', 'stories-sample.txt');

/** Returns every file of a folder with the hash of its bytes. */
export async function contentsOf(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const hashes = names.map(async (name) => {
    const bytes = await readFile(join(folder, name));
    return [name, `${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`];
  });
  return Object.fromEntries(await Promise.all(hashes));
}

export async function assertSameFolder(actual: string, expected: string): Promise<void> {
  assert.equal(await contentsOf(actual), await contentsOf(expected));
}

/** Makes the manifest agree with a shard that a test has changed. */
export async function resealed(folder: string, number: number): Promise<void> {
  const path = join(folder, 'manifest.json');
  const manifest = JSON.parse(await readFile(path, 'utf8'));
  const bytes = await readFile(join(folder, manifest.shards[number].file));
  manifest.shards[number].sha256 = createHash('sha256').update(bytes).digest('hex');
  manifest.shards[number].bytes = bytes.length;
  await writeFile(path, JSON.stringify(manifest));
}
