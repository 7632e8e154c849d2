// What the rest of the library needs of a model. Transformer is one; another becomes one by having these members.
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import type { Tensor } from '../engine/ops/tensor.js';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import type { Tokens } from './padding.js';
import type { TransformerConfig } from './weights/config.js';

export interface SubjectModel {
  /** As a dump's manifest names it. */
  readonly name: string;
  /** Its sizes: they decide the shapes of activations. */
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly device: Device;
  /** Of its activations. */
  readonly dtype: DType;
  readonly enc: Tokenizer;
  /**
   * The activations at `locations` (`5/mlp/post_act`) for tokens [batch, seq], each in the shape that `locationShape`
   * gives; the caller frees them.
   */
  activations(tokens: Tokens, locations: string[]): Promise<Map<string, Tensor>>;
  /** The same for two models only if they compute the same: a checksum of the weights, in hexadecimal. */
  digest(): Promise<string>;
}
