// Tokens per second on one thread: of our encode compared with gpt-tokenizer's, in turns, and of whole corpora from
// files to the rows of a dump. It also shows how time grows with an unbroken span of one letter.
//   npm run bench:tokenizer [FILE.txt] [ROUNDS]     without a file, the project's own texts are used over and over
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { blocksOf } from '../src/dump/corpus/blocks.js';
import { openCorpus, readCorpus } from '../src/dump/corpus/corpus.js';
import { packageRoot } from '../src/engine/native.js';
import { gpt2Tokenizer } from '../src/files/tokenizer/tokenizer.js';
import { median } from './compare/summary.js';

const [file, rounds = '5'] = process.argv.slice(2);
const load = createRequire(import.meta.url);
const peer = load('gpt-tokenizer/encoding/r50k_base') as { encode: (text: string) => number[] };
const { version } = load('gpt-tokenizer/package.json') as { version: string };
const { encode } = gpt2Tokenizer();

const leastCharacters = 8e6;

async function sampleText(): Promise<string> {
  if (file) return readFile(file, 'utf8');
  const sources = (await readdir(join(packageRoot, 'src'), { recursive: true })).filter((name) => name.endsWith('.ts'));
  const names = ['README.md', 'CONTRIBUTING.md', 'assets/demo/stories-sample.txt', ...sources.map((s) => `src/${s}`)];
  const texts = await Promise.all(names.map((name) => readFile(join(packageRoot, name), 'utf8')));
  const all = texts.join('\n\n').replaceAll('<|endoftext|>', '');
  return all.repeat(Math.ceil(leastCharacters / all.length));
}

/** Seconds of encoding a text in chunks, as a dump does, and the tokens. */
function timeEncode(encodeChunk: (text: string) => number[], text: string): { seconds: number; tokens: number } {
  const chunks = Array.from({ length: Math.ceil(text.length / 16_384) }, (_, i) =>
    text.slice(i * 16_384, (i + 1) * 16_384),
  );
  const start = performance.now();
  let tokens = 0;
  for (const chunk of chunks) tokens += encodeChunk(chunk).length;
  return { seconds: (performance.now() - start) / 1000, tokens };
}

async function timeCorpus(path: string): Promise<{ seconds: number; tokens: number }> {
  const start = performance.now();
  let tokens = 0;
  const read = readCorpus(await openCorpus(path), { encode, nVocab: 50_257 });
  for await (const block of blocksOf(read, { context: 128, rowsPerBlock: 8192 })) tokens += block.tokenCount;
  return { seconds: (performance.now() - start) / 1000, tokens };
}

const millions = ({ seconds, tokens }: { seconds: number; tokens: number }): number => tokens / seconds / 1e6;
const show = (name: string, speeds: number[]): void =>
  console.log(`${name.padEnd(34)} ${median(speeds).toFixed(1)} million tokens/s`);

console.log(`${cpus()[0]?.model}, Node ${process.version}, one thread, ${rounds} rounds, medians`);
const text = await sampleText();
timeEncode(encode, text.slice(0, 1e6));
timeEncode(peer.encode, text.slice(0, 1e6));
const speeds = { ours: [] as number[], theirs: [] as number[], ratios: [] as number[] };
for (let i = 0; i < Number(rounds); i++) {
  const ours = millions(timeEncode(encode, text));
  const theirs = millions(timeEncode(peer.encode, text));
  speeds.ours.push(ours);
  speeds.theirs.push(theirs);
  speeds.ratios.push(ours / theirs);
}
show('encode', speeds.ours);
show(`encode of gpt-tokenizer ${version}`, speeds.theirs);
console.log(`${'  ratio'.padEnd(34)} ${median(speeds.ratios).toFixed(2)}`);

const folder = await mkdtemp(join(tmpdir(), 'sonde-tokens-'));
try {
  const documents = text.match(/.{1,800}/gs) ?? [];
  const corpora = {
    'corpus.txt': documents.join('<|endoftext|>'),
    'corpus.jsonl': documents.map((document) => JSON.stringify({ text: document })).join('\n'),
    'corpus.bin': Uint16Array.from(documents.flatMap((document) => [...encode(document), 50_256])),
  };
  for (const [name, content] of Object.entries(corpora)) {
    const path = join(folder, name);
    await writeFile(path, content);
    const measured: number[] = [];
    for (let i = 0; i < Number(rounds); i++) measured.push(millions(await timeCorpus(path)));
    show(`from ${name} to rows`, measured);
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

function timeSpan(letter: string, length: number): number {
  const span = letter.repeat(length);
  const times = Array.from({ length: Number(rounds) }, () => {
    const start = performance.now();
    encode(span);
    return performance.now() - start;
  });
  return median(times);
}

for (const letter of ['a', '漢', ' ']) {
  const ratio = timeSpan(letter, 2 ** 20) / timeSpan(letter, 2 ** 18);
  console.log(`${`a span of ${JSON.stringify(letter)}, four times as long`.padEnd(34)} ${ratio.toFixed(1)} x the time`);
}
