// Checks a dump against its manifest: a flipped bit, which no reader of safetensors notices, as much as a missing file.
import { type Store, unfinishedOf } from '../files/store.js';
import { digestOf } from './disk.js';
import { latentsName } from './layout.js';
import { claimedFile, isManifestFile, type Manifest, type ShardEntry, shardNumber } from './manifest.js';
import { ShardReader } from './shard_reader.js';

// So much that object storage brings several ranges at a time.
const roomBytes = 2 ** 25;

export interface Problem {
  readonly file: string;
  readonly problem: string;
}

/** Everything that is wrong with a dump, file by file; an empty list when nothing is. */
export async function verifyDump(store: Store, manifest: Manifest): Promise<Problem[]> {
  const problems = await checkFiles(store, manifest);
  const room = new Uint8Array(roomBytes);
  for (const entry of manifest.shards) {
    for (const problem of await checkShard(store, manifest, entry, room)) problems.push({ file: entry.file, problem });
  }
  return problems;
}

async function checkFiles(store: Store, { shards, complete, part }: Manifest): Promise<Problem[]> {
  const problems: Problem[] = [];
  const listed = new Set(shards.map(({ file }) => file));
  for (const file of await store.list()) {
    if (listed.has(file) || isManifestFile(file)) continue;
    const unfinished = unfinishedOf(file);
    if (claimedFile(file))
      problems.push({ file, problem: 'is the claim of a process that writes here, or was killed' });
    else if (unfinished) problems.push({ file, problem: `is an unfinished piece of ${unfinished}` });
    else if (shardNumber(file) !== undefined) problems.push({ file, problem: 'is not listed in the manifest' });
  }
  const gap = shards.findIndex(({ file }, i) => shardNumber(file) !== part.index + i * part.count);
  if (complete && gap >= 0) {
    problems.push({ file: 'manifest.json', problem: `lists ${shards[gap]?.file} where another shard should come` });
  }
  return problems;
}

async function checkShard(store: Store, manifest: Manifest, entry: ShardEntry, room: Uint8Array): Promise<string[]> {
  let shard: ShardReader;
  try {
    shard = await ShardReader.open(store, manifest, entry);
  } catch (error) {
    return [(error as Error).message.replace(`${store.pathOf(entry.file)}: `, '')];
  }
  try {
    const sha256 = await digestOf(shard.file, room);
    if (sha256 !== entry.sha256) return [`its SHA-256 is ${sha256}, but the manifest says ${entry.sha256}`];
    const { tokens, document } = await shard.rows(0, entry.rows);
    const problem = tokenProblem(manifest, entry, tokens, document);
    if (problem) return [problem];
    const found: string[] = [];
    for (const i of manifest.autoencoders.keys()) found.push(...(await checkLatents(shard, manifest, i, document)));
    return found;
  } finally {
    await shard.close();
  }
}

function tokenProblem(
  { context, model }: Manifest,
  entry: ShardEntry,
  tokens: Int32Array,
  document: Int32Array,
): string | undefined {
  let count = 0;
  for (let i = 0; i < tokens.length; i++) {
    const [token, at] = [tokens[i] as number, document[i] as number];
    const place = `row ${Math.floor(i / context)}, position ${i % context}`;
    if (token < 0 || token >= model.vocabulary) return `${place}: ${token} is not a token`;
    if (at < -1) return `${place}: ${at} is not a document`;
    if (at >= 0 && i % context > 0 && document[i - 1] !== at) return `${place}: the document changes within a row`;
    if (at >= 0) count++;
  }
  return count === entry.tokens ? undefined : `holds ${count} tokens, but the manifest says ${entry.tokens}`;
}

async function checkLatents(shard: ShardReader, manifest: Manifest, i: number, document: Int32Array) {
  const { location, latents } = manifest.autoencoders[i] as Manifest['autoencoders'][number];
  const name = latentsName(location);
  const pointers = (await shard.read(`${name}.row_ptr`)) as BigInt64Array;
  const indices = (await shard.read(`${name}.indices`)) as Uint16Array | Int32Array;
  if (pointers[0] !== 0n || pointers.at(-1) !== BigInt(indices.length)) {
    return [`${name}.row_ptr does not go from 0 to ${indices.length}`];
  }
  for (let row = 0; row + 1 < pointers.length; row++) {
    const [from, to] = [Number(pointers[row]), Number(pointers[row + 1])];
    if (to < from) return [`${name}.row_ptr falls at ${row + 1}`];
    if (to > from && (document[row] as number) < 0) return [`${name} has entries at padding (${row})`];
    for (let at = from; at < to; at++) {
      const index = indices[at] as number;
      if (index < 0 || index >= latents)
        return [`${name}.indices[${at}] is ${index}, but there are ${latents} latents`];
      if (at > from && index <= (indices[at - 1] as number)) return [`${name}.indices[${at}] does not ascend`];
    }
  }
  return [];
}
