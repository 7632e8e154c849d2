// The input of a pass: tokens of unequal length side by side, padding, the positions that follow from it, and the part of
// the pass that is to be computed.
import {
  checkDType,
  checkInteger,
  checkOperands,
  checkOptions,
  checkShape,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import { checkDevice, type Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { Tensor } from '../engine/ops/tensor.js';
import { makeAll } from '../engine/scope.js';
import { showShape } from '../engine/shape.js';
import { type Chosen, choose, type Positions } from './token_positions.js';
import type { TransformerConfig } from './weights/config.js';

/** Tokens of a batch: an int32 tensor [batch, seq], or an array of equally long rows. */
export type Tokens = Tensor | readonly (readonly number[])[];

/** Padding of a batch, 1 or true = ignore this token: a bool tensor [batch, seq], or an array of rows of that length. */
export type Pad = Tensor | readonly (readonly (number | boolean)[])[];

/** A residual stream to begin with. */
export interface PassStart {
  /** The first layer that is computed, or the number of layers for the final layer norm and the unembedding alone. */
  layer: number;
  /**
   * What goes into that layer, [batch, seq, model width], of the model's dtype: the value of `LAYER - 1/resid/post_mlp`, or
   * of `resid/post_emb` for layer 0. It stays the caller's, who may change it when the pass is done.
   */
  residual: Tensor;
}

/** What is computed of a pass. */
export interface PassRange {
  /**
   * The positions whose logits are computed, in this order: a list for each row, all of one length, or 'last', each row's
   * last token that is not padding. Negative ones count from the row's end. All positions without it. The logits are
   * [batch, chosen, vocabulary], with the same bits; other activations are those of all positions.
   */
  logitsAt?: 'last' | readonly (readonly number[])[];
  /**
   * Begin at a layer. The tokens then only say how many there are, and which of them are padding. Hooks, locations and
   * caches of what lies below are refused.
   */
  from?: PassStart;
}
export const passRange: OptionNames<PassRange> = { logitsAt: true, from: true };
const fromOptions: OptionNames<PassStart> = { layer: true, residual: true };

/**
 * Prompts brought to one length by padding: tokens int32 [batch, seq] (0 where padded), pad bool [batch, seq] (1 =
 * padding).
 * @throws TypeError or RangeError for what is no prompt, or no token.
 */
export function prepInputAndPad(
  prompts: readonly (readonly number[])[],
  side: 'left' | 'right',
  device?: Device,
): { tokens: Tensor; pad: Tensor } {
  if (side !== 'left' && side !== 'right') {
    throw new TypeError(wrong('prepInputAndPad', 'side', "'left' or 'right'", describe(side)));
  }
  if (!Array.isArray(prompts) || prompts.length === 0) {
    throw new RangeError(wrong('prepInputAndPad', 'prompts', 'an array of at least one prompt', describe(prompts)));
  }
  checkDevice('prepInputAndPad', device);
  for (const [row, prompt] of prompts.entries()) checkPrompt(prompt, row);
  const longest = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0);
  if (longest === 0) throw new RangeError('prepInputAndPad: prompts must have at least one token among them');
  const tokens = new Int32Array(prompts.length * longest);
  const pad = new Uint8Array(tokens.length).fill(1);
  for (const [row, prompt] of prompts.entries()) {
    const at = row * longest + (side === 'left' ? longest - prompt.length : 0);
    tokens.set(prompt, at);
    pad.fill(0, at, at + prompt.length);
  }
  const shape = [prompts.length, longest];
  const where = device ? { device } : {};
  const [ofTokens, ofPad] = makeAll(
    () => Tensor.from(tokens, { shape, ...where }),
    () => Tensor.from(pad, { shape, ...where }),
  );
  return { tokens: ofTokens, pad: ofPad };
}

function checkPrompt(prompt: unknown, row: number): void {
  if (!Array.isArray(prompt)) {
    throw new TypeError(wrong('prepInputAndPad', `prompts[${row}]`, 'an array of tokens', describe(prompt)));
  }
  const bad = prompt.findIndex((token) => !Number.isInteger(token) || token < 0 || token >= 2 ** 31);
  if (bad < 0) return;
  const argument = `prompts[${row}][${bad}]`;
  throw new RangeError(wrong('prepInputAndPad', argument, 'an integer of 0 or more', describe(prompt[bad])));
}

/** The input of a pass. */
export interface Input {
  readonly batch: number;
  readonly seq: number;
  /** int32 [batch, seq]; the pass frees both. */
  readonly tokens: Tensor;
  /** The row of the position embedding that each token takes; padding takes that of a token beside it. */
  readonly positions: Tensor;
  /** The position of each token, -1 for padding. */
  readonly tokenPositions: Positions;
  /** Tokens of each row up to the end of this pass, padding left out. */
  readonly lengths: readonly number[];
  /** The positions whose logits are computed; without it, those of all are. */
  readonly chosen?: Chosen;
  readonly from?: PassStart;
}

/** What the input of a pass must fit. */
export interface InputModel {
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly device: Device;
  readonly dtype: DType;
}

/**
 * Checks tokens and pad against the model and computes positions: the number of tokens before each one, without
 * padding, but with the `earlier` ones of each row in a cache.
 */
export async function prepareInput(
  tokens: Tokens,
  pad: Pad | undefined,
  earlier: readonly number[] | undefined,
  { logitsAt, from }: PassRange,
  model: InputModel,
  operation: string,
): Promise<Input> {
  const { device, nVocab } = model;
  const { ctxWindow } = model.config;
  const [batch, seq] = checkTokens(operation, tokens, nVocab, device);
  if (earlier && earlier.length !== batch) {
    throw new RangeError(wrong(operation, 'tokens', `of ${earlier.length} rows, as kvCaches`, `${batch} rows`));
  }
  const padded = pad === undefined ? new Uint8Array(batch * seq) : await readPad(operation, pad, batch, seq, device);
  const embedded = new Int32Array(batch * seq);
  const lengths: number[] = [];
  const tokenPositions: Int32Array[] = [];
  for (let row = 0; row < batch; row++) {
    const before = earlier?.[row] ?? 0;
    const own = new Int32Array(seq).fill(-1);
    let seen = 0;
    for (let i = 0; i < seq; i++) {
      const at = row * seq + i;
      if (!padded[at]) own[i] = before + seen++;
      embedded[at] = Math.min(before + Math.max(seen - 1, 0), ctxWindow - 1); // padding after a full window needs a row too
    }
    lengths.push(before + seen);
    tokenPositions.push(own);
  }
  const longest = lengths.reduce((most, length) => Math.max(most, length), 0);
  if (longest > ctxWindow) {
    throw new RangeError(
      `${operation}: sequences must fit the context window of ${ctxWindow} tokens, but one has ${longest}`,
    );
  }
  if (from) checkResidual(operation, from.residual, batch, seq, model);
  const chosen = logitsAt === undefined ? undefined : choose(operation, 'logitsAt', logitsAt, tokenPositions);
  const made = (data: Int32Array) => Tensor.from(data, { shape: [batch, seq], device });
  const [ownTokens, positions] = makeAll(
    () => (tokens instanceof Tensor ? tokens.clone() : made(Int32Array.from(tokens.flat()))),
    () => made(embedded),
  );
  const range = { ...(chosen && { chosen }), ...(from && { from }) };
  return { batch, seq, tokens: ownTokens, positions, tokenPositions, lengths, ...range };
}

/** Demands a layer to begin at, if one is given. Gives a copy, as the object may be changed before the pass begins. */
export function checkedStart(
  operation: string,
  from: PassStart | undefined,
  { nLayers }: TransformerConfig,
): PassStart | undefined {
  if (from === undefined) return undefined;
  checkOptions(operation, from, fromOptions, 'from');
  const { layer, residual } = from;
  checkInteger(operation, 'from.layer', layer, 0, nLayers);
  return { layer, residual };
}

function checkResidual(operation: string, residual: unknown, batch: number, seq: number, model: InputModel): void {
  if (!(residual instanceof Tensor)) {
    throw new TypeError(wrong(operation, 'from.residual', 'a tensor', describe(residual)));
  }
  checkOperands(operation, { 'from.residual': residual });
  const { device, dtype } = model;
  if (residual.device !== device) {
    throw new TypeError(wrong(operation, 'from.residual', `on ${device}, as the model`, `on ${residual.device}`));
  }
  checkDType(operation, 'from.residual', residual, dtype);
  const shape = [batch, seq, model.config.dModel];
  checkShape(operation, 'from.residual', residual.shape, shape, 'the shape of tokens, and the model width');
}

function checkTokens(operation: string, tokens: Tokens, nVocab: number, device: Device): [number, number] {
  if (tokens instanceof Tensor) {
    checkOperands(operation, { tokens });
    if (tokens.device !== device)
      throw new TypeError(wrong(operation, 'tokens', `on ${device}, as the model`, `on ${tokens.device}`));
    if (tokens.dtype !== 'int32') throw new TypeError(wrong(operation, 'tokens', 'int32', tokens.dtype));
    if (tokens.shape.length !== 2 || tokens.size === 0) {
      throw new RangeError(wrong(operation, 'tokens', '[batch, seq], both at least 1', showShape(tokens.shape)));
    }
    return tokens.shape as unknown as [number, number];
  }
  const rows: unknown = tokens;
  const expected = 'an int32 tensor [batch, seq] or an array of rows of numbers';
  if (!Array.isArray(rows)) throw new TypeError(wrong(operation, 'tokens', expected, describe(rows)));
  let seq = 0;
  for (const [r, row] of rows.entries()) {
    if (!Array.isArray(row)) {
      throw new TypeError(wrong(operation, 'tokens', expected, `an array with ${describe(row)} as its row ${r}`));
    }
    if (r === 0) seq = row.length;
    if (row.length !== seq) {
      throw new RangeError(
        `${operation}: tokens must be rows of one length, but row 0 has ${seq} and row ${r} has ${row.length}; prepInputAndPad makes them so`,
      );
    }
    const bad = row.findIndex((token) => !Number.isInteger(token) || token < 0 || token >= nVocab);
    if (bad >= 0) {
      throw new RangeError(
        wrong(operation, `tokens[${r}][${bad}]`, `an integer from 0 to ${nVocab - 1}`, describe(row[bad])),
      );
    }
  }
  if (seq === 0) throw new RangeError(`${operation}: tokens must have at least one row of at least one token`);
  return [rows.length, seq];
}

async function readPad(operation: string, pad: Pad, batch: number, seq: number, device: Device): Promise<Uint8Array> {
  const shape = showShape([batch, seq]);
  if (Array.isArray(pad)) return padOfRows(operation, pad, batch, seq);
  if (!(pad instanceof Tensor)) {
    throw new TypeError(
      wrong(operation, 'pad', 'a bool tensor [batch, seq] or an array of rows of 0 and 1', describe(pad)),
    );
  }
  checkOperands(operation, { pad });
  if (pad.dtype !== 'bool') throw new TypeError(wrong(operation, 'pad', 'bool', pad.dtype));
  if (pad.device !== device)
    throw new TypeError(wrong(operation, 'pad', `on ${device}, as the model`, `on ${pad.device}`));
  if (pad.shape[0] !== batch || pad.shape[1] !== seq || pad.shape.length !== 2) {
    throw new RangeError(wrong(operation, 'pad', `${shape} (the shape of tokens)`, showShape(pad.shape)));
  }
  return (await pad.read()) as Uint8Array;
}

function padOfRows(operation: string, rows: readonly unknown[], batch: number, seq: number): Uint8Array {
  const shape = `${showShape([batch, seq])} (the shape of tokens)`;
  if (rows.length !== batch) throw new RangeError(wrong(operation, 'pad', shape, `${rows.length} rows`));
  const padded = new Uint8Array(batch * seq);
  for (const [r, row] of rows.entries()) {
    if (!Array.isArray(row)) throw new TypeError(wrong(operation, `pad[${r}]`, 'a row of 0 and 1', describe(row)));
    if (row.length !== seq) {
      throw new RangeError(wrong(operation, 'pad', shape, `of ${row.length} values in row ${r}`));
    }
    for (const [i, value] of row.entries()) {
      if (value !== 0 && value !== 1 && typeof value !== 'boolean') {
        throw new RangeError(wrong(operation, `pad[${r}][${i}]`, '0 or 1, or false or true', describe(value)));
      }
      padded[r * seq + i] = Number(value);
    }
  }
  return padded;
}
