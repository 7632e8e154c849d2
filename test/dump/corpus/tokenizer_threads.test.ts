// Threads that die, work that is cancelled, and callers that leave. Oracle: the blocks of one thread, and the system's own
// lists of open files and of what keeps a process alive.
import { spawn } from 'node:child_process';
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import type { Block } from '../../../src/dump/corpus/blocks.js';
import { type CorpusSection, describeSource, openCorpus, readCorpus } from '../../../src/dump/corpus/corpus.js';
import type { SectionRequest } from '../../../src/dump/corpus/section_tokens.js';
import { sectionBytes } from '../../../src/dump/corpus/sections.js';
import { TokenizerThreads } from '../../../src/dump/corpus/tokenizer_threads.js';
import { CorpusReader } from '../../../src/dump/corpus_index/corpus_reader.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { endOf } from '../../support/processes.js';
import { sampleText } from '../folders.js';

const test = suite('tokenizer threads');
const { encode } = gpt2Tokenizer();

function sectionOf(text: string): SectionRequest {
  const bytes = Buffer.from(new Uint8Array(Buffer.from(text)).buffer);
  return { offset: 0, bytes, lines: 0, isLast: true, origin: 'a text', source: { kind: 'text', asIs: true } };
}

/** Runs body with a list of the threads that are asked for something, with one item for each time. */
async function withAsked(body: (asked: Worker[], onAsked: (act: (asked: Worker) => void) => void) => Promise<void>) {
  const usual = Worker.prototype.postMessage;
  const asked: Worker[] = [];
  let act: ((asked: Worker) => void) | undefined;
  Worker.prototype.postMessage = function (...all: Parameters<typeof usual>) {
    asked.push(this);
    usual.apply(this, all);
    act?.(this);
  };
  try {
    await body(asked, (then) => {
      act = then;
    });
  } finally {
    Worker.prototype.postMessage = usual;
  }
}

const tokensOf = async (threads: TokenizerThreads, text: string): Promise<number[]> => {
  const [result] = await threads.run(50_257, [sectionOf(text)]);
  return [...(result?.tokens ?? [])];
};

test('files of text and of tokens in turn, with threads and without', () =>
  withFolder(async (folder) => {
    const story = await readFile(sampleText, 'utf8');
    await writeFile(join(folder, 'long.txt'), story.repeat(Math.ceil(2.2e6 / story.length))); // so that threads begin
    const files = [join(folder, 'long.txt')];
    for (let i = 0; i < 12; i++) {
      const [text, npy] = [join(folder, `${i}.txt`), join(folder, `${i}.npy`)];
      await writeFile(text, story.slice(i, i + 500));
      const header = "{'descr': '<u2', 'fortran_order': False, 'shape': (500,), }".padEnd(117);
      const begin = Buffer.from(`\x93NUMPY\x01\x00\x76\x00${header}\n`, 'latin1');
      await writeFile(npy, Buffer.concat([begin, new Uint8Array(new Uint16Array(500).fill(i).buffer)]));
      files.push(text, npy);
    }
    const tokens = async (count: number) => {
      const threads = new TokenizerThreads(count);
      const all: number[] = [];
      const options = { encode, nVocab: 50_257, threads };
      for await (const chunks of readCorpus(await openCorpus(files), options)) {
        for (const chunk of chunks) all.push(...Array.from(chunk.tokens));
      }
      await threads.close();
      return all;
    };
    assert.equal(await tokens(2), await tokens(1));
  }));

test('a thread that dies while it works is an error, and the next request gets another one', () =>
  withAsked(async (asked, onAsked) => {
    const threads = new TokenizerThreads(2);
    assert.equal(await tokensOf(threads, 'One text.'), encode('One text.'));
    onAsked((worker) => void worker.terminate());
    const both = ['a ', 'b '].map((text) => tokensOf(threads, text.repeat(200_000)));
    await Promise.all(both.map((one) => rejects(one, Error, /^dump: a thread that tokenises has ended$/)));
    onAsked(() => {});
    assert.equal(await tokensOf(threads, 'Another text.'), encode('Another text.'));
    const last = asked.at(-1) as Worker;
    await last.terminate(); // it has nothing to do at this time
    assert.equal(await tokensOf(threads, 'One more.'), encode('One more.'));
    assert.is.not(asked.at(-1), last);
    await threads.close();
  }));

test('threads that are closed while they work give an error', async () => {
  const threads = new TokenizerThreads(2);
  const work = rejects(tokensOf(threads, 'A text. '.repeat(50_000)), Error, /a thread that tokenises has ended/);
  await threads.close();
  await work;
});

/** A text that is long enough for threads, and a reader of it. */
const withReader = (
  body: (made: {
    readonly path: string;
    readonly reader: (count: number, signal?: AbortSignal) => Promise<CorpusReader>;
  }) => Promise<void>,
): Promise<void> =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.txt');
    const text = await readFile(sampleText, 'utf8');
    await writeFile(path, text.repeat(Math.ceil(8e6 / text.length)));
    const sources = await openCorpus(path);
    const settings = {
      ...{ context: 64, limit: null, corpus: sources.map(describeSource) },
      ...{ tokenizer: 'gpt2' as const, model: { vocabulary: 50_257 } },
    };
    await body({
      path,
      reader: async (count, signal) =>
        new CorpusReader(
          sources,
          { settings, rowsPerShard: 128, encode },
          { threads: new TokenizerThreads(count), ...(signal && { signal }) },
        ),
    });
  });

async function numbersOf(blocks: AsyncIterable<Block>): Promise<number[]> {
  const numbers: number[] = [];
  for await (const { number, tokenCount } of blocks) numbers.push(number, tokenCount);
  return numbers;
}

/** How many times this process has a file open, where the system reports it. */
async function timesOpen(path: string): Promise<number> {
  const numbers = await readdir('/proc/self/fd').catch(() => []);
  const files = await Promise.all(numbers.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
  return files.filter((file) => file === path).length;
}

test('a thread that dies in the middle of a corpus ends the reading, and the same reader can begin again', () =>
  withReader(async ({ path, reader }) => {
    const alone = await reader(1);
    const expected = await numbersOf(alone.blocks());
    await alone.close();
    await withAsked(async (asked, onAsked) => {
      const several = await reader(2);
      onAsked((worker) => {
        if (asked.length === 3) void worker.terminate();
      });
      await rejects(numbersOf(several.blocks()), Error, /a thread that tokenises has ended/);
      assert.ok(asked.length >= 3);
      assert.equal(await numbersOf(several.blocks()), expected);
      await several.close();
    });
    assert.is(await timesOpen(path), 0);
  }));

test('memory is used again, large pieces before small ones, and none that is very large', async () => {
  const threads = new TokenizerThreads(2);
  const large = Array.from({ length: 3 }, () => new ArrayBuffer(sectionBytes));
  for (let i = 0; i < 20; i++) threads.reuse(new ArrayBuffer(10));
  for (const memory of large) threads.reuse(memory);
  for (let i = 0; i < 20; i++) threads.reuse(new ArrayBuffer(10));
  const found = new Set(large.map(() => threads.memory(sectionBytes)));
  assert.ok(large.every((memory) => found.has(memory)));
  threads.reuse(new ArrayBuffer(100 * sectionBytes));
  assert.is(threads.memory(2 * sectionBytes).byteLength, 2 * sectionBytes);
  assert.is(threads.memory(5).byteLength, 10);
});

test('sections that wait keep their tokens while others are tokenised in memory that was used', () =>
  withReader(async ({ path, reader }) => {
    const [one, several] = [await reader(1), await reader(2)];
    const from = { source: 0, offset: 0 };
    const expected: number[][] = [];
    for await (const { result } of one.sections(from)) expected.push([...result.tokens]);
    const waiting: CorpusSection[] = [];
    let at = 0;
    const look = () => {
      const section = waiting.shift() as CorpusSection;
      assert.equal([...section.result.tokens], expected[at++], `section ${at} of ${path}`);
      section.release?.();
    };
    for await (const section of several.sections(from)) {
      waiting.push(section);
      if (waiting.length === 3) look();
    }
    while (waiting.length > 0) look();
    assert.is(at, expected.length);
    await Promise.all([one.close(), several.close()]);
  }));

test('an aborted reading ends with the reason, and leaves no file open', () =>
  withReader(async ({ path, reader }) => {
    for (const last of [0, 40, 90]) {
      const controller = new AbortController();
      const several = await reader(2, controller.signal);
      const read = async () => {
        for await (const { number } of several.blocks()) {
          if (number === last) controller.abort(new Error('enough of it'));
        }
      };
      await rejects(read(), Error, /^enough of it$/);
      await several.close();
      assert.is(await timesOpen(path), 0);
    }
  }));

test('a caller that leaves keeps no file open, nor the process alive', () =>
  withReader(async ({ path, reader }) => {
    for (const last of [0, 40, 90]) {
      const several = await reader(2);
      for await (const { number } of several.blocks()) if (number === last) break;
      await several.close();
      // a read that is under way ends first
      for (let looks = 0; looks < 200 && (await timesOpen(path)) > 0; looks++) await sleep(20);
      assert.is(await timesOpen(path), 0, `left at block ${last}`);
    }
    const url = (file: string) => JSON.stringify(new URL(`../../../src/${file}`, import.meta.url).href);
    for (const closes of [false, true]) {
      const program = `
        import { openCorpus, readCorpus } from ${url('dump/corpus/corpus.js')};
        import { OpenFiles } from ${url('dump/corpus/open_files.js')};
        import { TokenizerThreads } from ${url('dump/corpus/tokenizer_threads.js')};
        import { gpt2Tokenizer } from ${url('files/tokenizer/tokenizer.js')};
        const { encode } = gpt2Tokenizer();
        const [threads, files] = [new TokenizerThreads(2), new OpenFiles()];
        let tokens = 0;
        const sources = await openCorpus(${JSON.stringify(path)});
        for await (const chunks of readCorpus(sources, { encode, nVocab: 50257, threads, files })) {
          for (const chunk of chunks) tokens += chunk.tokens.length;
          if (tokens > 900_000) break;
        }
        if (${closes}) await Promise.all([threads.close(), files.close()]);
        process.stderr.write('left');`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      const { code, errors } = await endOf(child);
      assert.is(code, 0, errors);
      assert.match(errors, closes ? /^left$/ : /^left/); // a file that is closed by the system gets a warning
    }
  }));

test.run();
