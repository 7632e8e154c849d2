// What a benchmark measures, what each figure should reach, and who else measures it: read by all sides.
import type { DType } from '../../src/engine/dtype.js';
import type { Precision } from '../../src/engine/ops/product.js';

/**
 * Who computes: sonde, its AVX2 kernels, PyTorch and so on, or the original implementation. Each is a process of its
 * own.
 */
export const sides = ['sonde', 'avx2', 'torch', 'openblas', 'onnxruntime', 'original'] as const;
export type Side = (typeof sides)[number];

/** One thing to repeat and time; each side has its own idea of how. */
export type Spec =
  | {
      readonly op: 'linear';
      readonly dtype: DType;
      readonly rows: number;
      readonly k: number;
      readonly n: number;
      readonly precision: Precision;
      /** What goes with the product: nothing, bias and GELU, or bias and a residual. */
      readonly fused: 'nothing' | 'gelu' | 'residual';
    }
  | {
      readonly op: 'attention';
      readonly dtype: DType;
      readonly batch: number;
      readonly length: number;
      readonly heads: number;
      readonly channels: number;
    }
  /** top 0: what is above the threshold; torch: relu of all, or topk of all. */
  | {
      readonly op: 'encode';
      readonly dtype: DType;
      readonly rows: number;
      readonly k: number;
      readonly n: number;
      readonly top: number;
      readonly threshold: number;
    }
  | {
      readonly op: 'copy' | 'transpose' | 'convert' | 'add' | 'gelu' | 'layerNorm' | 'addLayerNorm' | 'softmax';
      readonly dtype: DType;
      readonly rows: number;
      readonly width: number;
    }
  /** Element by element, of [rows, width] to the same shape. */
  | {
      readonly op: 'elementwise';
      readonly dtype: DType;
      readonly kind: 'add' | 'exp' | 'gt';
      readonly rows: number;
      readonly width: number;
    }
  /** Of [rows, width], to one value or to one for each column. */
  | {
      readonly op: 'reduce';
      readonly dtype: DType;
      readonly kind: 'sum' | 'max' | 'var';
      readonly over: 'all' | 'first';
      readonly rows: number;
      readonly width: number;
    }
  /** The losses of [rows, width] logits. */
  | { readonly op: 'crossEntropy'; readonly dtype: DType; readonly rows: number; readonly width: number }
  | {
      readonly op: 'embedding';
      readonly dtype: DType;
      readonly rows: number;
      readonly width: number;
      readonly table: number;
    }
  /** From the device to the host; fast: to memory that is there already (torch: pinned). */
  | { readonly op: 'read'; readonly bytes: number; readonly fast: boolean }
  /** Nothing is done: the time that so much arithmetic or reading takes at the ceiling measured just then. */
  | { readonly op: 'ceiling'; readonly kind: 'float32' | 'bfloat16' | 'bandwidth'; readonly amount: number }
  /**
   * A corpus of `rows` rows goes through the model to `until`, and to disk as float32: the whole activation, or of so
   * many latents the `top` largest, or (top 0) those above 3.1, about one in a thousand. With `active`, biases make about
   * so many of a row's latents active, as training does, and the `top` largest of them count. With `everyLayer`, it is the
   * latents of every layer up to `until`, each by an autoencoder of its own. Without `write`, nothing goes to disk.
   */
  | {
      readonly op: 'dump';
      readonly dtype: DType;
      readonly model: string;
      readonly rows: number;
      readonly batch: number;
      readonly length: number;
      readonly until: `${number}/resid/delta_mlp`;
      readonly latents: number;
      readonly top: number;
      readonly active?: number;
      readonly everyLayer?: boolean;
      readonly write: boolean;
    }
  /** So many tokens after a prompt of eight, one at a time. */
  | { readonly op: 'sample'; readonly dtype: DType; readonly model: string; readonly tokens: number }
  /** `calls` tiny operations in a row. */
  | { readonly op: 'launch'; readonly calls: number }
  /** GPT-2 up to `until`: the logits, or the update of a layer's MLP. */
  | {
      readonly op: 'forward';
      readonly dtype: DType;
      readonly model: string;
      readonly batch: number;
      readonly length: number;
      readonly until: 'logits' | `${number}/resid/delta_mlp`;
    }
  /**
   * A pass of GPT-2, and back from a loss: the mean of all next tokens, or that of a token behind the last position, for
   * which only its logits are computed.
   */
  | {
      readonly op: 'gradients';
      readonly dtype: DType;
      readonly model: string;
      readonly batch: number;
      readonly length: number;
      readonly loss: 'all' | 'last';
      /** What has gradients: the residual stream before this layer, or every parameter. */
      readonly of: number | 'parameters';
      readonly timed: 'forward and backward' | 'backward';
    };

/** speed: how many times as fast as the rival; time: how many times its time. */
export type Goal = { readonly speed: number } | { readonly time: number };

export interface Work {
  readonly unit: 'flop' | 'byte' | 'token' | 'call';
  readonly amount: number;
}

export interface Rival {
  readonly label: string;
  readonly side: Side;
  readonly spec: Spec;
  /** What it does in that time, if not as much as ours: then rates are compared, not times. */
  readonly work?: Work;
  readonly goal?: Goal;
  /** Ours must be as exact. */
  readonly asExact?: true;
}

export interface Case {
  readonly group: string;
  readonly name: string;
  readonly shape: string;
  readonly spec: Spec;
  readonly work: Work;
  /** What our error may be: the norm of the difference from float64 as a part of the norm. */
  readonly bound?: number;
  readonly rivals: readonly Rival[];
}

export type Scale = 'full' | 'tiny';

/** The first case of each group, then the second of each, and so on; groups in the order in which they first come. */
export function inTurns(cases: readonly Case[]): Case[] {
  const groups = new Map<string, Case[]>();
  for (const one of cases) groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  const longest = Math.max(0, ...[...groups.values()].map(({ length }) => length));
  return Array.from({ length: longest }, (_, turn) =>
    [...groups.values()].flatMap((group) => group.slice(turn, turn + 1)),
  ).flat();
}
