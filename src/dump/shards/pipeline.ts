// Computes a block with the model and writes its shard. While a batch is computed, the one before is read into host
// memory and written.
import type { Autoencoder } from '../../autoencoder/autoencoder.js';
import { crossEntropy } from '../../engine/ops/cross_entropy.js';
import { Tensor } from '../../engine/ops/tensor.js';
import { withTemporaries } from '../../engine/scope.js';
import { quietly } from '../../files/promises.js';
import type { Store } from '../../files/store/store.js';
import type { SubjectModel } from '../../transformer/subject_model.js';
import type { Block } from '../corpus/blocks.js';
import { type DenseValues, denseValues } from '../format/layout.js';
import { finiteDType } from '../format/non_finite.js';
import type { DenseLocation, SparseLocation } from '../format/settings.js';
import { type StoredFloats, transferDType } from '../format/stored_floats.js';
import { type Batch, batchesOf } from './batches.js';
import type { DumpPlan } from './dump_plan.js';
import type { Prepared } from './prepare.js';
import { ShardWriter } from './shard.js';

// Batches that are read and written while another one is computed. Each needs a slab for its values.
const batchesInFlight = 2;

export interface Pipeline extends Pick<Prepared, 'plan' | 'model' | 'autoencoders'> {
  readonly out: Store;
  readonly slabs: readonly Slab[];
  /** Called with the tokens of each batch that has been written. */
  readonly onStored: (tokens: number) => void;
  readonly signal: AbortSignal | undefined;
}

export const makeSlabs = (plan: DumpPlan): Slab[] => Array.from({ length: batchesInFlight }, () => makeSlab(plan));

/** Host memory for the dense values of a batch, in the order of `denseValues`. It is reused for later batches. */
type Slab = StoredFloats[];

const makeSlab = ({ settings, batch }: DumpPlan): Slab =>
  denseValues(settings).map((values) => {
    const Values = transferDType(values, settings) === 'float32' ? Float32Array : Uint16Array;
    return new Values(batch * settings.context * values.width);
  });

export async function computeShard(pipeline: Pipeline, block: Block): Promise<ShardWriter> {
  const writer = await ShardWriter.create(pipeline.out, pipeline.plan, block);
  const inFlight: Promise<void>[] = [];
  let stored: Promise<void> = Promise.resolve();
  try {
    let begun = 0;
    for (const batch of batchesOf(pipeline.plan, block)) {
      pipeline.signal?.throwIfAborted();
      if (inFlight.length === batchesInFlight) await inFlight.shift();
      if ((batch.rows[0] as number) > writer.refusedRow) continue; // no earlier value can be in these rows
      const values = await compute(pipeline, block, batch);
      const slab = pipeline.slabs[begun++ % batchesInFlight] as Slab;
      stored = quietly(store(pipeline, writer, block, batch, values, slab, stored));
      inFlight.push(stored);
    }
    await stored;
    writer.checkFinite();
    return writer;
  } catch (error) {
    await Promise.allSettled(inFlight);
    await writer.abandon();
    throw error;
  }
}

interface BatchValues {
  /** Those of `denseValues`, in the dtype of the slabs. */
  readonly dense: Tensor[];
  /** The input of each autoencoder, [rows, seq, nInputs], and the gradient there, if there are any. */
  readonly inputs: readonly BatchInput[];
  readonly dispose: () => void;
}

interface BatchInput {
  readonly x: Tensor;
  readonly gradient: Tensor | undefined;
}

/** Queues a batch on the device. */
async function compute({ model, plan, autoencoders }: Pipeline, block: Block, batch: Batch): Promise<BatchValues> {
  const { settings, wanted } = plan;
  const { context, gradientOf } = settings;
  // Padding is on the right, and a causal model never attends to the right: no pad mask is needed.
  const tokens = Array.from(batch.rows, (row) =>
    Array.from(block.tokens.subarray(row * context, row * context + batch.seq)),
  );
  const { values, gradients } = gradientOf
    ? await withGradients(model, tokens, lengthsOf(block, batch), wanted)
    : { values: await model.activations(tokens, [...wanted]), gradients: new Map<string, Tensor>() };
  const made: Tensor[] = [...values.values(), ...gradients.values()];
  const dispose = () => {
    for (const tensor of made) tensor.dispose();
  };
  const at = (location: string, isGradient: boolean): Tensor => {
    const tensor = (isGradient ? gradients : values).get(location);
    if (tensor) return tensor;
    throw new Error(`dump: the model gave no ${isGradient ? 'gradients' : 'activations'} at ${location}`);
  };
  try {
    const dense = denseValues(settings).map((named) => {
      const tensor = at((settings.locations[named.index] as DenseLocation).location, named.isGradient);
      const dtype = transferDType(named, settings);
      if (tensor.dtype === dtype) return tensor;
      const converted = tensor.to(dtype);
      made.push(converted);
      return converted;
    });
    const inputs = autoencoders.map(({ location }) => {
      const of = (isGradient: boolean) => {
        const x = at(location, isGradient).reshape(batch.rows.length, batch.seq, -1);
        made.push(x);
        return x;
      };
      return { x: of(false), gradient: gradientOf && of(true) };
    });
    return { dense, inputs, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Tokens of a batch. */
type Rows = readonly (readonly number[])[];

const lengthsOf = ({ lengths }: Block, { rows }: Batch): number[] => Array.from(rows, (row) => lengths[row] as number);

/** The values at locations, and the gradients there of the loss of each row. */
const withGradients = (model: SubjectModel, tokens: Rows, lengths: readonly number[], at: readonly string[]) =>
  (model as Required<SubjectModel>).gradients(tokens, { at, of: ({ logits }) => lossOf(logits, tokens, lengths) });

/**
 * The sum of the losses of rows, so that each row has the gradients of its own. A row's loss is the mean cross-entropy of
 * the tokens after its first one, up to its length; 0 where there are none. logits [rows, seq, vocabulary] -> []
 */
function lossOf(logits: Tensor, tokens: Rows, lengths: readonly number[]): Tensor {
  const shape = logits.shape.slice(0, 2);
  const seq = shape[1] as number;
  const targets = new Int32Array(tokens.length * seq);
  const pad = new Uint8Array(targets.length).fill(1);
  const weights = new Float32Array(targets.length);
  for (const [row, own] of tokens.entries()) {
    const predicted = (lengths[row] as number) - 1;
    const [from, to] = [row * seq, row * seq + predicted];
    targets.set(own.slice(1, predicted + 1), from);
    pad.fill(0, from, to);
    weights.fill(1 / predicted, from, to);
  }
  return withTemporaries((own) => {
    const made = (data: Int32Array | Uint8Array | Float32Array) =>
      own(Tensor.from(data, { shape, device: logits.device }));
    const losses = own(crossEntropy(logits, made(targets), { pad: made(pad), reduction: 'none' }));
    return own(losses.mul(made(weights))).sum();
  });
}

/** The active latents, and the gradient of each where that of their reconstruction is given. */
async function latentsOf(autoencoder: Autoencoder, { x, gradient }: BatchInput, threshold: number) {
  const csr = await autoencoder.encodeSparse(x, { threshold });
  if (!gradient) return { csr, gradients: undefined };
  return { csr, gradients: await autoencoder.decodeSparseBackward(csr, gradient, { inputs: x }) };
}

/** Reads a batch from the device and writes it, after the one before. */
async function store(
  pipeline: Pipeline,
  writer: ShardWriter,
  block: Block,
  batch: Batch,
  values: BatchValues,
  slab: Slab,
  before: Promise<void>,
): Promise<void> {
  const { settings } = pipeline.plan;
  try {
    const latents = pipeline.autoencoders.map(({ autoencoder }, i) => {
      const { threshold } = settings.autoencoders[i] as SparseLocation;
      return quietly(latentsOf(autoencoder, values.inputs[i] as BatchInput, threshold));
    });
    const named = denseValues(settings);
    const dense = values.dense.map((tensor, i) => {
      const host = (slab[i] as StoredFloats).subarray(0, tensor.size);
      const reading = tensor.readChecked(host, finiteDType((named[i] as DenseValues).dtype));
      return quietly(reading.then((hasNonFinite) => ({ host, allFinite: !hasNonFinite })));
    });
    // All reads must have settled before the tensors are disposed of and the slab is reused.
    await Promise.allSettled([...latents, ...dense]);
    await before;
    for (const [i, read] of dense.entries()) {
      const { host, allFinite } = await read;
      await writer.writeDense(i, batch, host, allFinite);
    }
    for (const [i, encoded] of latents.entries()) {
      const { csr, gradients } = await encoded;
      await writer.appendLatents(i, batch, csr, gradients);
    }
  } finally {
    values.dispose();
  }
  pipeline.onStored(batch.rows.reduce((sum, row) => sum + (block.lengths[row] as number), 0));
}
