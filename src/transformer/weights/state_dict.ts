// The parameters of a model under the original's names: the list of names, and each as a tensor in the original's
// shape.
import type { PackedMatrix } from '../../engine/ops/pack_weights.js';
import { Tensor } from '../../engine/ops/tensor.js';
import { toHost } from '../../engine/ops/to_host.js';
import { disposeAll } from '../../engine/scope.js';
import type { HostTensor } from '../../files/host_tensor.js';
import { dAttn, dFf, type TransformerConfig } from './config.js';
import type { LayerWeights, Linear, Norm, Weights } from './weights.js';

const layerNames = [
  'ln_1',
  'attn.q_proj',
  'attn.k_proj',
  'attn.v_proj',
  'attn.out_proj',
  'ln_2',
  'mlp.in_layer',
  'mlp.out_layer',
];

const both = (name: string): string[] => [`${name}.weight`, `${name}.bias`];

/** The names, in the order in which they are loaded. */
export function parameterNames({ nLayers }: TransformerConfig): string[] {
  const layers = Array.from({ length: nLayers }, (_, i) =>
    layerNames.flatMap((name) => both(`xf_layers.${i}.${name}`)),
  );
  return ['tok_embed.weight', 'pos_embed.weight', ...layers.flat(), ...both('final_ln'), 'unembed.weight'];
}

/**
 * The shape of a parameter by its name; a linear layer's weight is [out, in].
 * @throws RangeError for an unknown name.
 */
export function parameterShape(name: string, config: TransformerConfig, nVocab: number): number[] {
  const { dModel: D, ctxWindow, nLayers } = config;
  const [A, F] = [dAttn(config), dFf(config)];
  const [, layer, part = name] = /^xf_layers\.(\d{1,6})\.(.*)$/.exec(name) ?? [];
  const shapes: Record<string, number[]> =
    layer === undefined
      ? {
          'tok_embed.weight': [nVocab, D],
          'pos_embed.weight': [ctxWindow, D],
          'final_ln.weight': [D],
          'final_ln.bias': [D],
          'unembed.weight': [nVocab, D],
        }
      : {
          ...Object.fromEntries(['ln_1', 'ln_2'].flatMap(both).map((norm) => [norm, [D]])),
          ...Object.fromEntries(['q', 'k', 'v'].map((q) => [`attn.${q}_proj.weight`, [A, D]])),
          ...Object.fromEntries(['q', 'k', 'v'].map((q) => [`attn.${q}_proj.bias`, [A]])),
          'attn.out_proj.weight': [D, A],
          'attn.out_proj.bias': [D],
          'mlp.in_layer.weight': [F, D],
          'mlp.in_layer.bias': [F],
          'mlp.out_layer.weight': [D, F],
          'mlp.out_layer.bias': [D],
        };
  const shape = Object.hasOwn(shapes, part) ? shapes[part] : undefined;
  if (shape && (layer === undefined || Number(layer) < nLayers)) return shape;
  throw new RangeError(
    `weight: there is no weight '${name}'; names are such as tok_embed.weight and xf_layers.0.attn.q_proj.bias`,
  );
}

/** What holds a parameter: a tensor or a packed matrix, or a third of it where projections are one. */
interface Held {
  readonly of: Tensor | PackedMatrix;
  /** 0, 1 or 2 of its rows, where the weight is [out, in]. */
  readonly third?: number;
}

/** @throws RangeError for a name that the model does not have. */
function heldAs(weights: Weights, config: TransformerConfig, nVocab: number, name: string): Held {
  parameterShape(name, config, nVocab);
  const [, layer, part = name] = /^xf_layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  const [, owner = '', kind] = /^(.*)\.(weight|bias)$/.exec(part) ?? [];
  const stored =
    layer === undefined ? outside(weights, owner) : inside(weights.layers[Number(layer)] as LayerWeights, owner);
  if (stored instanceof Tensor) return { of: stored };
  if ('gain' in stored) return { of: kind === 'weight' ? stored.gain : stored.bias };
  const third = ['attn.q_proj', 'attn.k_proj', 'attn.v_proj'].indexOf(owner);
  return { of: kind === 'bias' ? stored.bias : stored.w, ...(third >= 0 && { third }) };
}

/**
 * A parameter by its name: a new tensor, which the caller frees.
 * @throws RangeError for a name that the model does not have.
 */
export function parameterOf(weights: Weights, config: TransformerConfig, nVocab: number, name: string): Tensor {
  const { of, third } = heldAs(weights, config, nVocab, name);
  if (of instanceof Tensor) return (third === undefined ? of : thirdOf(of, third)).clone();
  const all = of.unpack({ transposeB: true });
  if (third === undefined) return all;
  using joint = all;
  return thirdOf(joint, third).clone();
}

/** The gradients of all parameters by their names, from those of the weights; 0 where the loss does not depend on one. */
export function parameterGradients(
  weights: Weights,
  config: TransformerConfig,
  nVocab: number,
  gradientOf: (weight: Tensor | PackedMatrix) => Tensor | undefined,
): Map<string, Tensor> {
  const gradients = new Map<string, Tensor>();
  const joint = new Map<Tensor | PackedMatrix, Tensor | undefined>(); // of what holds three parameters
  for (const name of parameterNames(config)) {
    const { of, third } = heldAs(weights, config, nVocab, name);
    const all = third !== undefined && joint.has(of) ? joint.get(of) : transposed(gradientOf(of), of);
    if (third !== undefined) joint.set(of, all);
    const own = all && (third === undefined ? all : copied(thirdOf(all, third)));
    const { device } = of;
    gradients.set(name, own ?? Tensor.zeros(parameterShape(name, config, nVocab), { device }));
  }
  disposeAll(...joint.values());
  return gradients;
}

/** The gradient of a matrix [in, out] as [out, in], in the same memory; that of a vector as it is. */
const transposed = (gradient: Tensor | undefined, of: Tensor | PackedMatrix): Tensor | undefined =>
  gradient && !(of instanceof Tensor) ? gradient.transferTo([of.n, of.k], [1, of.n]) : gradient;

/** A tensor of its own, of the layout that a gradient [out, in] has: that of [in, out]. */
function copied(t: Tensor): Tensor {
  const { shape } = t;
  return shape.length === 2
    ? t
        .transpose(0, 1)
        .clone()
        .transferTo(shape, [1, shape[0] as number])
    : t.clone();
}

const thirdOf = (joint: Tensor, i: number): Tensor => {
  const n = (joint.shape[0] as number) / 3;
  return joint.slice(0, i * n, (i + 1) * n);
};

function outside({ tokEmbed, posEmbed, lnF, unembed }: Weights, owner: string): Tensor | Norm | Linear {
  if (owner === 'tok_embed') return tokEmbed;
  if (owner === 'pos_embed') return posEmbed;
  return owner === 'final_ln' ? lnF : { w: unembed, bias: lnF.bias };
}

function inside({ ln1, qkv, out, ln2, mlpIn, mlpOut }: LayerWeights, owner: string): Norm | Linear {
  const parts: Record<string, Norm | Linear> = { ln_1: ln1, ln_2: ln2, 'attn.out_proj': out, 'mlp.in_layer': mlpIn };
  return owner === 'mlp.out_layer' ? mlpOut : (parts[owner] ?? qkv);
}

/** Every parameter under the original's name, read to the host one at a time, in the order of parameterNames. */
export async function* hostParameters(
  weights: Weights,
  config: TransformerConfig,
  nVocab: number,
): AsyncGenerator<[string, HostTensor]> {
  for (const name of parameterNames(config)) {
    using parameter = parameterOf(weights, config, nVocab, name);
    yield [name, await toHost(parameter)];
  }
}
