// The reference activations (test/fixtures/README.md), computed by the original in PyTorch.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../src/engine/native.js';
import { type HostTensor, toFloat32 } from '../../src/files/host_tensor.js';
import { loadSafetensors } from '../../src/files/safetensors/safetensors.js';
import { relativeError } from './close.js';

export interface Golden {
  readonly name: string;
  readonly folder: string;
  readonly json: { n_vocab: number; prompts: number[][]; greedy_tokens: number[][] };
  readonly keys: string[];
  has(key: string): boolean;
  tensor(key: string): HostTensor;
  values(key: string): Float32Array;
  rows(key: string): number[][];
  /**
   * Demands that `actual` is within `bound` of the golden value, relative to its norm; notes that the key was looked
   * at.
   */
  agrees(key: string, actual: ArrayLike<number>, bound: number, label?: string): void;
  /** Keys with which nothing was compared. */
  left(): string[];
}

export const goldenNames = ['tiny', 'narrow-attn'] as const;

export async function openGolden(name: string): Promise<Golden> {
  const folder = join(packageRoot, 'test', 'fixtures', 'goldens', name);
  const tensors = await loadSafetensors(join(folder, 'golden.safetensors'));
  const seen = new Set<string>();
  const tensor = (key: string): HostTensor => {
    const found = tensors[key];
    if (!found) throw new Error(`${name}: there is no golden value ${key}`);
    seen.add(key);
    return found;
  };
  const values = (key: string) => {
    const t = tensor(key);
    return t.dtype === 'float32' ? (t.data as Float32Array) : toFloat32(t);
  };
  return {
    name,
    folder,
    json: JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8')),
    keys: Object.keys(tensors),
    has: (key) => key in tensors,
    tensor,
    values,
    rows(key) {
      const { shape, data } = tensor(key);
      const [rows, width] = shape as [number, number];
      return Array.from({ length: rows }, (_, r) =>
        Array.from({ length: width }, (_, i) => Number(data[r * width + i])),
      );
    },
    agrees(key, actual, bound, label = '') {
      const error = relativeError(actual, values(key));
      if (!(error <= bound)) throw new Error(`${name} ${key} ${label}: relative error ${error}, allowed ${bound}`);
    },
    left: () => Object.keys(tensors).filter((key) => !seen.has(key)),
  };
}
