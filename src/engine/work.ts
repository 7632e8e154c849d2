// The least work of an operation, from the shapes of its tensors alone, and how long it takes at a device's ceilings.
import type { Ceilings, ProfileEntry } from './device.js';
import { byteWidth, type DType } from './dtype.js';

export interface Work {
  /** Operations on float32 or bfloat16; a multiply-add counts two. */
  readonly flops: number;
  readonly dtype: 'float32' | 'bfloat16';
  /** Bytes that are read from memory and written to it. */
  readonly bytes: number;
}

type Argument = ProfileEntry['arguments'][number];

// The size of a last-level cache. Tensors that are not weights come from the cache if all of them fit.
const cacheBytes = 2 ** 25;

const sizeOf = ({ shape }: Argument): number => shape.reduce((product, n) => product * n, 1);
const bytesOf = (tensor: Argument): number => sizeOf(tensor) * byteWidth(tensor.dtype as DType);

/** The least work of an operation; attention is taken to be causal, as GPT-2's is. */
export function workOf({ operation, arguments: all }: Pick<ProfileEntry, 'operation' | 'arguments'>): Work {
  const at = (name: string) => all.find((argument) => argument.name === name);
  const [x, w] = [at('x') ?? at('a') ?? at('q'), at('w') ?? at('b') ?? at('k')];
  const isProduct = ['linear', 'matmul', 'attention', 'sparseEncode'].includes(operation);
  const half = isProduct && x?.dtype === 'bfloat16' && w?.dtype === 'bfloat16';
  const weights = operation === 'linear' || operation === 'sparseEncode' ? at('w') : undefined;
  const others = all.filter((argument) => argument !== weights && !['table', 'filter'].includes(argument.name));
  const otherBytes = others.reduce((sum, argument) => sum + bytesOf(argument), 0);
  return {
    flops: flopsOf(operation, at),
    dtype: half ? 'bfloat16' : 'float32',
    bytes: (weights ? bytesOf(weights) : 0) + (otherBytes > cacheBytes ? otherBytes : 0),
  };
}

function flopsOf(operation: string, at: (name: string) => Argument | undefined): number {
  const [x, w, out] = [at('x'), at('w'), at('out')];
  if (x && w && (operation === 'linear' || operation === 'sparseEncode')) return 2 * sizeOf(x) * (w.shape[1] as number);
  const a = at('a');
  if (a && out && operation === 'matmul') return 2 * sizeOf(out) * (a.shape.at(-1) as number);
  const [q, k, v] = [at('q'), at('k'), at('v')];
  if (!q || !k || !v || operation !== 'attention') return 0;
  const [B, S, H, D] = q.shape as [number, number, number, number];
  const T = k.shape[1] as number;
  const pairs = S * T - (S * (S - 1)) / 2; // of a query and a key that it may see
  return 2 * B * H * pairs * (D + (v.shape[3] as number));
}

/** The least time of an operation in seconds; undefined where the device's ceilings are not known. */
export function floorOf(entry: Pick<ProfileEntry, 'operation' | 'arguments'>, ceilings: Ceilings): number | undefined {
  const { flops, dtype, bytes } = workOf(entry);
  if (!(ceilings[dtype] > 0 && ceilings.bandwidth > 0)) return undefined;
  return Math.max(flops / ceilings[dtype], bytes / ceilings.bandwidth);
}
