// Hooks at some positions of the sequences, wherever these are in a pass: behind padding, after the tokens of caches, or
// in a later pass.
import { checkInteger, describe, wrong } from '../engine/check.js';
import type { Device } from '../engine/device.js';
import { indexCopyInPlace } from '../engine/ops/index_copy.js';
import { indexSelect } from '../engine/ops/index_select.js';
import { Tensor } from '../engine/ops/tensor.js';
import { currentRecord } from '../engine/record.js';
import { showShape } from '../engine/shape.js';
import { extended, inChain, placed } from './hook_chain.js';
import { checkedPlace, type Hook, Hooks, type PartialHookContext } from './hooks.js';
import { pointsOfKeys } from './location.js';
import { type Positions, positionsOf, positionsTensor } from './token_positions.js';

/**
 * A hook at these positions only. At the points attn.k and attn.v they are positions of keys, those of caches included,
 * elsewhere of the pass's tokens. `hook` receives x as [rows, positions, …], the positions in the order given here. It
 * is called once where all rows have all of the positions in the pass; otherwise once for the rows that have the same
 * ones of them, in the order of the first such rows; and not at all where no row has one. What it changes or returns
 * becomes part of the whole. In its context, `rows` are the rows of the batch, and `positions` (`keyPositions` at
 * attn.k and attn.v) are [rows, positions]. At qk_logits and qk_probs the positions are those of the queries.
 * @throws RangeError for what is no position, or the same one twice.
 */
export const atPositions = (positions: number | readonly number[], hook: Hook): Hooks =>
  new AtPositions(positions).appendAs('atPositions', hook);

/** A part of x that one call of a hook sees. */
interface Block {
  /** Rows of x. */
  readonly rows: number[];
  /** Where each of these rows has the positions: indices of the second dimension of x. */
  readonly indices: number[][];
  readonly positions: number[];
}

/** @internal */
export class AtPositions extends Hooks {
  readonly positions: readonly number[];

  constructor(positions: number | readonly number[]) {
    super();
    this.positions = checkedPositions(positions);
  }

  override async run(x: Tensor, context: PartialHookContext = {}, where?: string): Promise<Tensor> {
    const place = checkedPlace('atPositions', x, context, where);
    return inChain(x, context, place, async (inner, chain) => {
      const own = dimensionOf(x, inner);
      if (typeof own !== 'string') throw placed(new TypeError(`${place}: ${own.problem}`), chain);
      const { scope } = chain;
      for (const block of blocksOf(await positionsOf(inner[own] as Tensor), this.positions)) {
        const view = viewOf(x, block);
        const part = view ?? scope.add(gathered(x, block));
        const values = await contextOf(inner, own, block, x.device);
        const made = [values.positions, values.keyPositions].map((tensor) => tensor && scope.add(tensor));
        const result = await super.run(part, extended(inner, values), place);
        if (!view) scatter(x, block, result);
        else if (result !== view) view.copyFrom(result);
        scope.free(result, part);
        // backward hooks inside have the same context later
        const record = currentRecord();
        if (record) for (const tensor of made) tensor && record.hold(scope.keep(tensor));
        else scope.free(...made);
      }
      return x;
    });
  }

  override clone(): Hooks {
    return this.copyInto(new AtPositions(this.positions));
  }

  /** @internal */
  override get title(): string {
    return `atPositions(${this.positions.join(', ')})`;
  }
}

function checkedPositions(positions: number | readonly number[]): number[] {
  if (typeof positions === 'object' && !Array.isArray(positions)) {
    throw new TypeError(wrong('atPositions', 'positions', 'a position or an array of positions', describe(positions)));
  }
  const list: number[] = Array.isArray(positions) ? [...positions] : [positions as number];
  if (list.length === 0)
    throw new RangeError(wrong('atPositions', 'positions', 'at least one position', 'an empty list'));
  for (const [i, position] of list.entries()) {
    checkInteger('atPositions', Array.isArray(positions) ? `positions[${i}]` : 'positions', position, 0);
  }
  const twice = list.find((position, i) => list.indexOf(position) < i);
  if (twice === undefined) return list;
  throw new RangeError(`atPositions: positions must be different ones, but ${twice} is there more than once`);
}

type Dimension = 'positions' | 'keyPositions';

const isPositions = (value: unknown): value is Tensor =>
  value instanceof Tensor && value.dtype === 'int32' && value.shape.length === 2;

/** Which positions of the context the second dimension of x is of. */
function dimensionOf(
  x: Tensor,
  { point, positions, keyPositions }: PartialHookContext,
): Dimension | { problem: string } {
  const fits = (of: Tensor | undefined) => isPositions(of) && of.shape[0] === x.shape[0] && of.shape[1] === x.shape[1];
  const isOfKeys = point === undefined ? fits(keyPositions) && !fits(positions) : pointsOfKeys.has(point);
  const [name, own] = isOfKeys ? (['keyPositions', keyPositions] as const) : (['positions', positions] as const);
  if (fits(own)) return name;
  if (!isPositions(own)) {
    const actual = (own as unknown) instanceof Tensor ? String(own) : describe(own);
    return { problem: `the context of atPositions must have ${name}, an int32 tensor [batch, seq], but has ${actual}` };
  }
  const [batch, seq] = own.shape;
  return {
    problem: `x must be [${batch}, ${seq}, …] for atPositions, as the positions of the pass, but is ${showShape(x.shape)}`,
  };
}

/** The blocks of the rows that have some of the wanted positions. */
function blocksOf(all: Positions, wanted: readonly number[]): Block[] {
  const blocks = new Map<string, Block>();
  for (const [row, own] of all.entries()) {
    const indices = wanted.flatMap((position) => indicesOf(own, position));
    if (indices.length === 0) continue;
    const positions = indices.map((index) => own[index] as number);
    const key = positions.join();
    const block = blocks.get(key) ?? { rows: [], indices: [], positions };
    block.rows.push(row);
    block.indices.push(indices);
    blocks.set(key, block);
  }
  return [...blocks.values()];
}

/** Where a position is in a row: once, unless the logits of a position were asked for several times. */
function indicesOf(row: Int32Array, position: number): number[] {
  const indices: number[] = [];
  for (let at = row.indexOf(position); at >= 0; at = row.indexOf(position, at + 1)) indices.push(at);
  return indices;
}

/** The distance of neighbours in a list, if all have the same, and it is above 0. */
function stepOf(list: readonly number[]): number | undefined {
  const step = list.length > 1 ? (list[1] as number) - (list[0] as number) : 1;
  return step > 0 && list.every((n, i) => n === (list[0] as number) + i * step) ? step : undefined;
}

/** The block as a view of x, where it is one. */
function viewOf(x: Tensor, { rows, indices }: Block): Tensor | undefined {
  const [first, ...others] = indices as [number[], ...number[][]];
  const [rowStep, step] = [stepOf(rows), stepOf(first)];
  if (rowStep === undefined || step === undefined) return undefined;
  if (others.some((row) => row.some((index, i) => index !== first[i]))) return undefined;
  const [batch, seq, ...rest] = x.strides as [number, number, ...number[]];
  const offset = x.offset + (rows[0] as number) * batch + (first[0] as number) * seq;
  return x.window([rows.length, first.length, ...x.shape.slice(2)], [batch * rowStep, seq * step, ...rest], offset);
}

/** x with its first two dimensions as one, where their strides allow it: [row, index] of x is at row `at`. */
function flattened(x: Tensor): { flat: Tensor; at: (row: number, index: number) => number } | undefined {
  const [batch, seq, ...rest] = x.shape as [number, number, ...number[]];
  const [rowStride, stride, ...others] = x.strides as [number, number, ...number[]];
  const view = (rows: number, step: number) => x.window([rows, ...rest], [step, ...others]);
  if (rowStride % stride === 0) {
    const step = rowStride / stride;
    return { flat: view((batch - 1) * step + seq, stride), at: (row, index) => row * step + index };
  }
  if (stride % rowStride !== 0) return undefined;
  const step = stride / rowStride;
  return { flat: view((seq - 1) * step + batch, rowStride), at: (row, index) => index * step + row };
}

/** The rows of a flattened tensor that are the block's, one after the other. */
const listOf = ({ rows, indices }: Block, at: (row: number, index: number) => number): number[] =>
  rows.flatMap((row, r) => (indices[r] as number[]).map((index) => at(row, index)));

function gathered(x: Tensor, block: Block): Tensor {
  const place = flattened(x);
  if (!place) {
    using copy = x.clone();
    return gathered(copy, block);
  }
  const part = indexSelect(place.flat, 0, listOf(block, place.at));
  return part.transferTo([block.rows.length, block.positions.length, ...x.shape.slice(2)]);
}

function scatter(x: Tensor, block: Block, part: Tensor): void {
  const place = flattened(x);
  if (!place) {
    using copy = x.clone();
    scatter(copy, block, part);
    x.copyFrom(copy);
    return;
  }
  const rows = part.reshape(block.rows.length * block.positions.length, ...x.shape.slice(2));
  indexCopyInPlace(place.flat, 0, listOf(block, place.at), rows);
  if (rows.storage !== part.storage) rows.dispose();
}

/** What the hooks of a block learn. Its tensors are new ones. */
async function contextOf(
  context: PartialHookContext,
  own: Dimension,
  { rows, positions }: Block,
  device: Device,
): Promise<PartialHookContext> {
  const ofBlock = positionsTensor(
    rows.map(() => Int32Array.from(positions)),
    device,
  );
  const values: PartialHookContext = { rows: rows.map((row) => context.rows?.[row] ?? row), [own]: ofBlock };
  const other = own === 'positions' ? 'keyPositions' : 'positions';
  const tensor = context[other];
  // where all rows are in the block, the hook has the tensor of the context
  if (tensor && tensor.shape[0] !== rows.length) {
    const all = await positionsOf(tensor);
    values[other] = positionsTensor(
      rows.map((row) => all[row] as Int32Array),
      device,
    );
  }
  return values;
}
