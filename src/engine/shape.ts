// Shapes, strides, broadcasting and indices: pure functions, no device, no native code. Those that every operation calls
// are plain loops, for speed.
import { describe } from '../checks/arguments.js';

export type Shape = readonly number[];

export const maxRank = 8; // kMaxRank in native/ops.h

/** The most elements of a row whose indices an int32 holds. */
export const maxIndexed = 2 ** 31;

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (let d = 0; d < shape.length; d++) size *= shape[d] as number;
  return size;
}

/** The shape that a rest parameter holds: its numbers, or one list of them. */
export const shapeOf = (given: Shape | readonly [Shape]): Shape =>
  given.length === 1 && Array.isArray(given[0]) ? given[0] : (given as Shape);

/** The number of rows: the product of all dimensions but the last. */
export function rowCount(shape: Shape): number {
  let rows = 1;
  for (let d = 0; d < shape.length - 1; d++) rows *= shape[d] as number;
  return rows;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let d = 0; d < a.length; d++) if (a[d] !== b[d]) return false;
  return true;
}

/** Element strides of a row-major tensor without gaps. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = shape.slice();
  let step = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    strides[d] = step;
    step *= shape[d] as number;
  }
  return strides;
}

export function isContiguous(shape: Shape, strides: Shape): boolean {
  let step = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    const n = shape[d] as number;
    if (n === 0) return true;
    if (n !== 1 && strides[d] !== step) return false;
    step *= n;
  }
  return true;
}

/**
 * Strides that show the elements of a tensor, in their row-major order, as `target`, a shape of as many elements;
 * undefined where no strides do, and only a copy can.
 */
export function viewStrides(shape: Shape, strides: Shape, target: Shape): number[] | undefined {
  const out = contiguousStrides(target);
  if (sizeOf(target) === 0) return out;
  let to = target.length - 1;
  // Runs of dimensions that lie in memory like one, from the last on. Each must be the product of some of the target's.
  for (let from = shape.length - 1; from >= 0; ) {
    let run = shape[from] as number;
    const step = strides[from--] as number;
    for (; from >= 0; from--) {
      const n = shape[from] as number;
      if (n !== 1 && strides[from] !== step * run) break; // the stride of one element means nothing
      run *= n;
    }
    let filled = 1;
    for (; filled < run; to--) {
      out[to] = step * filled;
      filled *= target[to] as number;
    }
    if (filled !== run) return undefined;
  }
  return out;
}

/** The shape both broadcast to (right-aligned, a 1 repeats), or undefined. */
export function broadcastShape(a: Shape, b: Shape): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let d = 1; d <= rank; d++) {
    const m = a[a.length - d] ?? 1;
    const n = b[b.length - d] ?? 1;
    if (m !== n && m !== 1 && n !== 1) return undefined;
    out[rank - d] = m === 1 ? n : m;
  }
  return out;
}

/** Strides that show a tensor of `shape` as `target`: 0 where it repeats. */
export function broadcastStrides(shape: Shape, strides: Shape, target: Shape): number[] {
  const lead = target.length - shape.length;
  return target.map((n, d) => {
    const from = d - lead;
    return from < 0 || (shape[from] === 1 && n !== 1) ? 0 : (strides[from] as number);
  });
}

interface Extent {
  readonly shape: Shape;
  readonly strides: Shape;
  readonly offset: number;
}

/** The first element of a window on memory, and the one behind its last. */
function extent({ shape, strides, offset }: Extent): [number, number] {
  if (sizeOf(shape) === 0) return [offset, offset];
  const last = shape.reduce((sum, n, d) => sum + (n - 1) * (strides[d] as number), 0);
  return [offset, offset + last + 1];
}

/** Whether two windows on the same memory show the same elements in the same order. */
export const sameWindow = (a: Extent, b: Extent): boolean =>
  a.offset === b.offset && sameShape(a.shape, b.shape) && sameShape(a.strides, b.strides);

/** Whether two windows on the same memory may have elements in common: whether their first to last elements do. */
export function overlap(a: Extent, b: Extent): boolean {
  const [a0, a1] = extent(a);
  const [b0, b1] = extent(b);
  return a0 < b1 && b0 < a1;
}

/** `[4, 128, 768]`, as errors show a shape, or what was given as one. */
export function showShape(shape: readonly unknown[]): string {
  const shown = Array.from(shape.slice(0, 16), (n) => (typeof n === 'number' ? String(n) : describe(n)));
  return `[${shown.join(', ')}${shape.length > shown.length ? ', …' : ''}]`;
}
