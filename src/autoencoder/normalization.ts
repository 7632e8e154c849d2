// The normalisation of inputs that openai/sparse_autoencoder's v5 autoencoders were trained with: each row's mean is
// removed, then it is divided by its standard deviation (the unbiased one) plus 1e-5; a reconstruction is scaled back.
import { rootMeanSquare } from '../engine/ops/root_mean_square.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { disposeAll } from '../engine/scope.js';

const eps = 1e-5;

/** x [..., inputs] normalised, in x's dtype; the arithmetic is in float32. */
export function normalized(x: Tensor): Tensor {
  return withStatistics(x, ({ centred, std }) => {
    using divisor = std.add(eps);
    return centred.div_(divisor).to(x.dtype);
  });
}

/** Undoes normalized(inputs): x * std + mean, in place. x and inputs have the same shape. */
export function denormalize(x: Tensor, inputs: Tensor): Tensor {
  return withStatistics(inputs, ({ mean, std }) => x.mul_(std).add_(mean));
}

/** The gradient of what denormalize(x, inputs) was given, float32, from that of its result. */
export function denormalizeBackward(gradient: Tensor, inputs: Tensor): Tensor {
  return withStatistics(inputs, ({ std }) => gradient.mul(std));
}

interface Statistics {
  /** x - mean, float32 like x. */
  readonly centred: Tensor;
  /** float32 [..., 1] */
  readonly mean: Tensor;
  /** float32 [..., 1], of n - 1 degrees of freedom. */
  readonly std: Tensor;
}

function withStatistics(x: Tensor, use: (statistics: Statistics) => Tensor): Tensor {
  const width = x.shape.at(-1) as number;
  using wide = x.to('float32');
  const mean = wide.mean(-1, { keepDim: true });
  const centred = wide.sub(mean);
  const std = rootMeanSquare(centred, { eps: 0 }).mul_(Math.sqrt(width / (width - 1)));
  try {
    return use({ centred, mean, std });
  } finally {
    disposeAll(mean, centred, std);
  }
}
