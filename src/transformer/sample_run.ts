// Sampling: checks what sample() is given, and continues the prompts, a pass for each new token of all rows.
import {
  checkCallback,
  checkInteger,
  checkNumber,
  checkOptions,
  checkSignal,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import type { Device } from '../engine/device.js';
import type { HostArray } from '../engine/dtype.js';
import { Tensor } from '../engine/ops/tensor.js';
import { TextStream } from '../files/tokenizer/text_stream.js';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import type { TransformerHooks } from './hooks.js';
import type { KvCaches } from './kv_cache.js';
import { NextTokenPasses } from './next_token.js';
import { type Pad, prepInputAndPad, type Tokens } from './padding.js';
import { Sampler } from './sampling/sampler.js';
import { derivedSeeds } from './sampling/sampling.js';
import type { ForwardOptions, ForwardResult } from './transformer.js';
import type { TransformerConfig } from './weights/config.js';

/** A text, texts, tokens, or rows of tokens. */
export type Prompts = string | string[] | number[] | number[][];

export interface SampleOptions {
  /** How many tokens to add to each prompt. Default 5. */
  numTokens?: number;
  /** 0 takes the likeliest token each time. Default 1. */
  temperature?: number;
  /** Nucleus sampling: only the likeliest tokens that together have this probability. */
  topP?: number;
  hooks?: TransformerHooks;
  /**
   * Caches with a row for each prompt, which the prompts continue. They are extended in place by the prompts and the new
   * tokens, but for the last token of each row, which no pass has taken: a prompt that goes on from there begins with it.
   * Rows that end before others have padding then. With numTokens: 0, and when sample() rejects, they are as they were.
   */
  kvCaches?: KvCaches;
  /**
   * The same seed gives the same tokens. Random if left out. It stands for `seeds` of derivedSeeds(seed, prompts): each
   * prompt draws from a stream of its own, so that its tokens do not depend on the other prompts.
   */
  seed?: number;
  /** A seed for each prompt, instead of `seed`: a prompt with seeds: [s] alone is that prompt with seed: s. */
  seeds?: readonly number[];
  /**
   * A row ends with the first of these tokens that it gets: this token is its last one, and part of its text. The other
   * rows go on, with the tokens that they would have alone; for hooks, a row that has ended is padding.
   */
  stopTokens?: readonly number[];
  /** Until a row has this many new tokens, its stop tokens are forbidden. From 0, the default, to numTokens. */
  minTokens?: number;
  /**
   * Called for each new token: step by step, and row by row within a step. The next pass begins when the promise that it
   * returns is fulfilled. Its error ends the sampling, and sample() rejects with it.
   */
  onToken?: (token: SampledToken) => void | Promise<void>;
  /** Once it is aborted, no further pass begins: sample() rejects with its reason, unless all tokens are there. */
  signal?: AbortSignal;
}

/** A token as soon as it has been chosen. */
export interface SampledToken {
  /** The index of the prompt. */
  readonly row: number;
  /** The index of the token among the row's new ones. */
  readonly step: number;
  readonly token: number;
  /**
   * The text that the token completes. The bytes of an unfinished character wait for the row's next token, and those
   * left over at its last token become U+FFFD: the texts of a row joined are its string.
   */
  readonly text: string;
}

export interface Samples {
  /** The new tokens of each prompt. */
  readonly tokens: number[][];
  /** The same as text. */
  readonly strings: string[];
}

const sampleOptions: OptionNames<SampleOptions> = {
  numTokens: true,
  temperature: true,
  topP: true,
  hooks: true,
  kvCaches: true,
  seed: true,
  seeds: true,
  stopTokens: true,
  minTokens: true,
  onToken: true,
  signal: true,
};

/** What sampling needs of a transformer. */
export interface SampleModel {
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly enc: Tokenizer;
  readonly device: Device;
  checkHooks(hooks: TransformerHooks | undefined): void;
  /** Demands caches of the model, and keeps others from using them until end(). */
  reserve(kvCaches: KvCaches | undefined): void;
  /** One pass, which begins after `step` new tokens. Of the logits, the last position is enough. */
  pass(
    tokens: Tokens,
    options: Pick<ForwardOptions, 'pad' | 'kvCaches' | 'hooks'>,
    step: number,
  ): Promise<ForwardResult>;
  /** Passes of one new token for each sequence of caches without padding. */
  nextTokens(caches: KvCaches): NextTokenPasses;
}

/** Transformer.sample of a model. */
export async function sample(model: SampleModel, prompts: Prompts, options: SampleOptions): Promise<Samples> {
  checkOptions('sample', options, sampleOptions);
  const { numTokens = 5, temperature = 1, topP, hooks, kvCaches, minTokens = 0, onToken, signal } = options;
  checkInteger('sample', 'numTokens', numTokens, 0);
  if (!(checkNumber('sample', 'temperature', temperature) >= 0)) {
    throw new RangeError(wrong('sample', 'temperature', '0 or more', describe(temperature)));
  }
  if (topP !== undefined && !(checkNumber('sample', 'topP', topP) >= 0 && topP <= 1)) {
    throw new RangeError(wrong('sample', 'topP', 'a probability from 0 to 1', describe(topP)));
  }
  checkInteger('sample', 'minTokens', minTokens, 0, numTokens);
  const stopTokens = stopTokensOf(options.stopTokens, minTokens, model.nVocab);
  checkCallback('sample', 'onToken', onToken);
  checkSignal('sample', signal);
  model.checkHooks(hooks);
  model.reserve(kvCaches);
  const held = kvCaches?.length;
  try {
    const rows = promptRows(model, prompts, numTokens, kvCaches);
    const seeds = seedsOf(options, rows.length);
    signal?.throwIfAborted();
    let tokens: number[][] = rows.map(() => []);
    if (numTokens > 0 && rows.length > 0) {
      const run = { rows, numTokens, stopTokens, minTokens, hooks, kvCaches, onToken, signal };
      tokens = await continued(model, run, new Sampler(seeds, model.nVocab, temperature, topP));
    }
    kvCaches?.end();
    return { tokens, strings: model.enc.decodeBatch(tokens) };
  } catch (error) {
    kvCaches?.end(held);
    throw error;
  }
}

/** The arguments of a run. They have been checked. */
interface RunOptions {
  readonly rows: readonly (readonly number[])[];
  readonly numTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  readonly minTokens: number;
  readonly hooks: TransformerHooks | undefined;
  readonly kvCaches: KvCaches | undefined;
  readonly onToken: SampleOptions['onToken'];
  readonly signal: AbortSignal | undefined;
}

/** The new tokens of each row. */
async function continued(model: SampleModel, run: RunOptions, sampler: Sampler): Promise<number[][]> {
  const { rows, numTokens, stopTokens, minTokens, hooks, onToken, signal } = run;
  const tokens: number[][] = rows.map(() => []);
  const texts = onToken ? rows.map(() => new TextStream(model.enc)) : [];
  let going = [...rows.keys()]; // the rows that have not ended
  let mask: Tensor | undefined;
  let caches = run.kvCaches;
  let passes: NextTokenPasses | undefined; // while all rows go on, and nobody looks into a pass
  try {
    if (minTokens > 0 && stopTokens.size > 0) mask = maskOf(stopTokens, model);
    for (let step = 0; step < numTokens && going.length > 0; step++) {
      signal?.throwIfAborted();
      if (step === 1 && !hooks && caches && NextTokenPasses.fit(caches)) passes = model.nextTokens(caches);
      if (step === 1 && passes && mayRunAhead(run) && sampler.choosesOnDevice) {
        step = await runAhead(passes, sampler, tokens, numTokens);
        if (step === numTokens) break;
      }
      let logits: Tensor;
      if (passes && going.length === rows.length) {
        passes.put(lastTokens(tokens));
        // a view: what a pass returns is not the caller's to free
        logits = passes.run(numTokens - step, (logits) => logits).slice(0);
      } else {
        passes?.dispose();
        passes = undefined;
        const input = step === 0 ? prepInputAndPad(rows, 'left', model.device) : nextInput(tokens, going);
        const options = {
          ...(input.pad && { pad: input.pad }),
          ...(caches && { kvCaches: caches }),
          ...(hooks && { hooks }),
        };
        const result = await model.pass(input.tokens, options, step).finally(() => disposeInput(input));
        caches = result.kvCaches;
        logits = result.logits;
      }
      const chosen = await chosenBy(sampler, logits, step, going, step < minTokens ? mask : undefined);
      for (const [row, token] of chosen) tokens[row]?.push(token);
      const isLast = (token: number) => step === numTokens - 1 || stopTokens.has(token);
      if (onToken) {
        for (const [row, token] of chosen) {
          const text = (texts[row] as TextStream).next(token, { last: isLast(token) });
          await onToken({ row, step, token, text });
        }
      }
      going = going.filter((row) => !isLast(chosen.get(row) as number));
    }
    return tokens;
  } finally {
    passes?.dispose();
    if (caches !== run.kvCaches) caches?.dispose();
    mask?.dispose();
  }
}

/** Whether the host has nothing to do with a token before the next pass begins. */
const mayRunAhead = ({ stopTokens, onToken, signal }: RunOptions): boolean =>
  stopTokens.size === 0 && onToken === undefined && signal === undefined;

/** Passes that are queued while the host does not know the token of the first of them. */
const stepsAhead = 2;

/**
 * New tokens of all rows from step 1 on. The device chooses them, and passes are queued before the host has read the
 * tokens that they take: neither waits for the other. It ends at numTokens, or at a step with a row for which the device
 * cannot choose, and returns that step, which is yet to be taken.
 */
async function runAhead(
  passes: NextTokenPasses,
  sampler: Sampler,
  tokens: number[][],
  numTokens: number,
): Promise<number> {
  const { chosen } = passes;
  const rows = tokens.length;
  using random = Tensor.empty([rows, 2], { device: chosen.device, dtype: 'int32' });
  const queue = (step: number): Promise<HostArray> => {
    const numbers = sampler.randomOf(step);
    if (numbers) random.device.upload(random, numbers);
    passes.run(numTokens - step, (logits) => {
      sampler.choose(chosen, logits.select(1, -1), numbers && random);
      logits.dispose();
    });
    return chosen.read();
  };
  const reads: Promise<HostArray>[] = []; // the first one is that of `step`
  let step = 1;
  try {
    passes.put(lastTokens(tokens));
    for (let queued = step; step < numTokens; step++) {
      for (; queued < numTokens && reads.length < stepsAhead; queued++) {
        const read = queue(queued);
        read.catch(() => {}); // whoever waits for this read gets its error, even where that is later
        reads.push(read);
      }
      const values = (await reads.shift()) as HostArray;
      if (values.includes(0, rows)) {
        passes.takeBack(queued - step);
        await Promise.all(reads); // their errors are the device's, and nobody else will hear of them
        break;
      }
      for (const [row, of] of tokens.entries()) of.push(values[row] as number);
    }
    return step;
  } finally {
    await Promise.allSettled(reads);
  }
}

/** The next token of each row that goes on, by the logits [rows, seq, vocabulary] of its last position. Frees them. */
async function chosenBy(
  sampler: Sampler,
  logits: Tensor,
  step: number,
  going: readonly number[],
  mask: Tensor | undefined,
): Promise<Map<number, number>> {
  try {
    const chosen = await sampler.next(logits.select(1, -1), step, { rows: going, ...(mask && { mask }) });
    return new Map(going.map((row, i) => [row, chosen[i] as number]));
  } finally {
    logits.dispose();
  }
}

interface StepInput {
  readonly tokens: Tokens;
  readonly pad?: Pad;
}

const lastTokens = (tokens: readonly (readonly number[])[]): number[] => tokens.map((row) => row.at(-1) as number);

/** The input of a pass that continues: the last token of each row. A row that has ended is padding from then on. */
function nextInput(tokens: readonly (readonly number[])[], going: readonly number[]): StepInput {
  const last = lastTokens(tokens).map((token) => [token]);
  if (going.length === tokens.length) return { tokens: last };
  const goesOn = new Set(going);
  return { tokens: last, pad: tokens.map((_, row) => [!goesOn.has(row)]) };
}

function disposeInput({ tokens, pad }: StepInput): void {
  for (const held of [tokens, pad]) if (held instanceof Tensor) held.dispose();
}

/** float32 [vocabulary]: what is added to logits so that stop tokens are forbidden. */
function maskOf(stopTokens: ReadonlySet<number>, { nVocab, device }: SampleModel): Tensor {
  const mask = new Float32Array(nVocab);
  for (const token of stopTokens) mask[token] = Number.NEGATIVE_INFINITY;
  return Tensor.from(mask, { device });
}

function stopTokensOf(stopTokens: SampleOptions['stopTokens'], minTokens: number, nVocab: number): ReadonlySet<number> {
  if (stopTokens === undefined) return new Set();
  if (!Array.isArray(stopTokens)) {
    throw new TypeError(wrong('sample', 'stopTokens', 'an array of tokens', describe(stopTokens)));
  }
  checkTokenList('stopTokens', stopTokens, nVocab);
  const all = new Set<number>(stopTokens);
  if (minTokens > 0 && all.size === nVocab) {
    throw new RangeError(
      `sample: stopTokens must leave tokens to choose from while minTokens (${minTokens}) forbids them, but are all ${nVocab} of the vocabulary`,
    );
  }
  return all;
}

function checkTokenList(argument: string, tokens: readonly unknown[], nVocab: number): void {
  const bad = tokens.findIndex((t) => !Number.isInteger(t) || (t as number) < 0 || (t as number) >= nVocab);
  if (bad < 0) return;
  const expected = `a token from 0 to ${nVocab - 1}`;
  throw new RangeError(wrong('sample', `${argument}[${bad}]`, expected, describe(tokens[bad])));
}

function promptRows(
  { enc, nVocab, config }: SampleModel,
  prompts: Prompts,
  numTokens: number,
  kvCaches: KvCaches | undefined,
): number[][] {
  const list = typeof prompts === 'string' ? [prompts] : prompts;
  if (!Array.isArray(list)) {
    throw new TypeError(wrong('sample', 'prompts', 'a text, texts, tokens or rows of tokens', describe(prompts)));
  }
  const single = typeof list[0] === 'number' || typeof list[0] === 'bigint';
  const rows = Array.from<unknown, number[]>(single ? [list] : list, (prompt, i) => {
    if (typeof prompt === 'string') return enc.encode(prompt);
    if (Array.isArray(prompt)) return prompt;
    throw new TypeError(wrong('sample', `prompts[${i}]`, 'a text or an array of tokens', describe(prompt)));
  });
  if (kvCaches && rows.length !== kvCaches.batch) {
    const expected = `${kvCaches.batch}, one for each row of kvCaches`;
    throw new RangeError(wrong('sample', 'the number of prompts', expected, String(rows.length)));
  }
  const { ctxWindow } = config;
  for (const [i, row] of rows.entries()) {
    if (row.length === 0) throw new RangeError(wrong('sample', `prompts[${i}]`, 'at least one token', 'empty'));
    checkTokenList(`prompts[${i}]`, row, nVocab);
    // the last new token is not an input
    const before = kvCaches?.lengths[i] ?? 0;
    const needed = before + row.length + Math.max(numTokens - 1, 0);
    if (needed > ctxWindow) {
      const cached = before > 0 ? `, ${before} of kvCaches included` : '';
      throw new RangeError(
        `sample: a prompt and its new tokens must fit the context window of ${ctxWindow} tokens, but prompts[${i}] takes ${needed}${cached}`,
      );
    }
  }
  return rows;
}

/** The seed of each row. */
function seedsOf({ seed, seeds }: SampleOptions, rows: number): readonly number[] {
  if (seeds === undefined) {
    if (seed !== undefined) checkInteger('sample', 'seed', seed, 0);
    return derivedSeeds(seed ?? Math.floor(Math.random() * 2 ** 48), rows);
  }
  if (seed !== undefined) throw new TypeError('sample: seed and seeds exclude each other, but both are given');
  if (!Array.isArray(seeds)) {
    throw new TypeError(wrong('sample', 'seeds', 'an array of a seed for each prompt', describe(seeds)));
  }
  if (seeds.length !== rows) {
    const expected = `as long as there are prompts, ${rows}`;
    throw new RangeError(wrong('sample', 'seeds', expected, describe(seeds)));
  }
  return Array.from(seeds, (value, row) => checkInteger('sample', `seeds[${row}]`, value, 0));
}
