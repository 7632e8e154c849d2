// The interface of a model as the rest of the library needs it. Transformer implements it, and other models may.
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import type { Tensor } from '../engine/ops/tensor.js';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import type { Gradients, GradientsOptions } from './gradients.js';
import type { Tokens } from './padding.js';
import type { TransformerConfig } from './weights/config.js';

export interface SubjectModel {
  /** The model's name in a dump's manifest. */
  readonly name: string;
  /** Its sizes: they decide the shapes of activations. */
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly device: Device;
  /** The dtype of its activations. It decides which name of its device's arithmetic a dump has. */
  readonly dtype: DType;
  /** Its tokens' texts. A text is refused, and a dump says so, where the name is 'unknown'. */
  readonly enc: Tokenizer;
  /**
   * The activations at `locations` (`5/mlp/post_act`) for tokens [batch, seq], each in the shape that `locationShape`
   * gives; the caller frees them.
   */
  activations(tokens: Tokens, locations: string[]): Promise<Map<string, Tensor>>;
  /**
   * For dumps with gradients: the same activations, and the gradients of the scalar that `of` makes of the logits
   * [batch, seq, vocabulary], as `Transformer.gradients` gives them.
   */
  gradients?(tokens: Tokens, options: Pick<GradientsOptions, 'of' | 'at'>): Promise<Gradients>;
  /** A checksum of the weights, in hexadecimal: two models have the same only if they compute the same. */
  digest(): Promise<string>;
}
