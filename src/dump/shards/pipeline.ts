// Computes a block with the model and writes its shard. While a batch is computed, the one before is read into host
// memory and written.
import type { Tensor } from '../../engine/ops/tensor.js';
import { quietly } from '../../files/promises.js';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { widthOf } from '../format/layout.js';
import { denseDType } from '../format/non_finite.js';
import type { SparseLocation } from '../format/settings.js';
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

/** Host memory for the values of a batch, location by location. It is reused for later batches. */
type Slab = StoredFloats[];

function makeSlab({ settings, batch }: DumpPlan): Slab {
  const Values = transferDType(settings) === 'float32' ? Float32Array : Uint16Array;
  return settings.locations.map((entry) => new Values(batch * settings.context * widthOf(entry)));
}

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
  /** The values of each location, in the dtype of the slabs. */
  readonly dense: Tensor[];
  /** The input of each autoencoder, [rows, seq, nInputs]. */
  readonly inputs: Tensor[];
  readonly dispose: () => void;
}

/** Queues a batch on the device. */
async function compute({ model, plan, autoencoders }: Pipeline, block: Block, batch: Batch): Promise<BatchValues> {
  const { context, locations } = plan.settings;
  const dtype = transferDType(plan.settings);
  // Padding is on the right, and a causal model never attends to the right: no pad mask is needed.
  const tokens = Array.from(batch.rows, (row) =>
    Array.from(block.tokens.subarray(row * context, row * context + batch.seq)),
  );
  const activations = await model.activations(tokens, [...plan.wanted]);
  const made: Tensor[] = [...activations.values()];
  const dispose = () => {
    for (const tensor of made) tensor.dispose();
  };
  const at = (location: string): Tensor => {
    const tensor = activations.get(location);
    if (tensor) return tensor;
    throw new Error(`dump: the model gave no activations at ${location}`);
  };
  try {
    const dense = locations.map(({ location }) => {
      const tensor = at(location);
      if (tensor.dtype === dtype) return tensor;
      const converted = tensor.to(dtype);
      made.push(converted);
      return converted;
    });
    const inputs = autoencoders.map(({ location }) => {
      const x = at(location).reshape(batch.rows.length, batch.seq, -1);
      made.push(x);
      return x;
    });
    return { dense, inputs, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
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
      return quietly(autoencoder.encodeSparse(values.inputs[i] as Tensor, { threshold }));
    });
    const dense = values.dense.map((tensor, i) => {
      const host = (slab[i] as StoredFloats).subarray(0, tensor.size);
      const reading = tensor.readChecked(host, denseDType(settings.dtype));
      return quietly(reading.then((hasNonFinite) => ({ host, allFinite: !hasNonFinite })));
    });
    // All reads must have settled before the tensors are disposed of and the slab is reused.
    await Promise.allSettled([...latents, ...dense]);
    await before;
    for (const [i, read] of dense.entries()) {
      const { host, allFinite } = await read;
      await writer.writeDense(i, batch, host, allFinite);
    }
    for (const [i, csr] of latents.entries()) await writer.appendLatents(i, batch, await csr);
  } finally {
    values.dispose();
  }
  pipeline.onStored(batch.rows.reduce((sum, row) => sum + (block.lengths[row] as number), 0));
}
