// The contents of a report: how often each latent is active, and the texts where chosen neurons and latents are
// strongest.
import { latentsName } from '../format/layout.js';
import type { DumpSettings } from '../format/settings.js';
import type { Dump, SparseRows } from '../read/reader.js';
import { type FetchedRow, fetchRows } from './collate_fetch.js';
import { readAll, scanDump } from './collate_scan.js';
import { checkLatents, type FeatureTensor, featureTensorOf, rowsWithin } from './features.js';
import type { ScanMeter } from './scan_progress.js';

/** How often each latent of an autoencoder is active. */
export interface LatentActivity {
  readonly name: string;
  readonly latents: number;
  /** The number of tokens whose latents the dump holds. */
  readonly tokens: number;
  /** [latents]: the number of tokens where each is active. */
  readonly active: Float64Array;
  /** [latents]: the largest activation of each; 0 where a latent never is active, NaN where one of them is NaN. */
  readonly largest: Float32Array;
}

export interface Example {
  readonly row: number;
  readonly tokens: Int32Array;
  readonly activations: Float32Array;
}

/** A neuron or latent, and the rows where it is strongest, the strongest first. */
export interface Feature {
  readonly name: string;
  readonly index: number;
  readonly mean: number;
  readonly tokenizer: DumpSettings['tokenizer'];
  readonly examples: readonly Example[];
}

export interface Reading {
  readonly dump: Dump;
  readonly signal: AbortSignal | undefined;
  readonly meter: ScanMeter;
}

const chunkBytes = 2 ** 25; // for the rows that are read at once

export const activitiesOf = async (reading: Reading): Promise<LatentActivity[]> => {
  const activities: LatentActivity[] = [];
  for (const { location } of reading.dump.manifest.autoencoders) {
    activities.push(await activityOf(reading, latentsName(location)));
  }
  return activities;
};

async function activityOf({ dump, signal, meter }: Reading, name: string): Promise<LatentActivity> {
  const tensor = featureTensorOf(dump, name);
  const active = new Float64Array(tensor.width);
  const largest = new Float32Array(tensor.width);
  let tokens = 0;
  for await (const chunk of readAll(dump, tensor, { chunkBytes, meter, signal })) {
    for (let row = 0; row < chunk.count; row++) checkLatents(name, chunk, row);
    const { indices, values } = chunk.values as SparseRows;
    for (let i = 0; i < indices.length; i++) {
      const latent = indices[i] as number;
      active[latent] = (active[latent] as number) + 1;
      const value = values[i] as number;
      if (value > (largest[latent] as number) || Number.isNaN(value)) largest[latent] = value;
    }
    for (const stored of chunk.tokens.stored) tokens += stored;
  }
  return { name, latents: tensor.width, tokens, active, largest };
}

/** Neurons or latents of one location with the rows where they are strongest, `top` of each at most. */
export async function featuresOf(
  { dump, signal, meter }: Reading,
  name: string,
  indices: readonly number[],
  top: number,
): Promise<Feature[]> {
  const tensor = featureTensorOf(dump, name);
  const scan = await scanDump(dump, tensor, Int32Array.from(indices), { top, chunkBytes, meter, signal });
  const rows = new Map(indices.map((index, slot) => [index, scan.top.rowsOf(slot)]));
  const rowsAtOnce = rowsWithin(dump, tensor, chunkBytes);
  const fetched = await fetchRows(dump, tensor, rows, { rowsAtOnce, signal });
  const features = indices.map((index, slot) => ({
    ...{ name, index, mean: scan.moments.summary(slot).mean, tokenizer: dump.manifest.tokenizer },
    examples: (rows.get(index) ?? []).map((row) => ({ row, ...fetched(index, row) })).filter(isShown(tensor)),
  }));
  meter.written(indices.length);
  return features;
}

// A row is no example of a latent that is not active in it.
const isShown =
  ({ sparse }: FeatureTensor) =>
  ({ activations }: FetchedRow): boolean =>
    !sparse || activations.some((x) => x !== 0);

/**
 * `count` latents, spread evenly over how often they are active, from often to seldom. Latents that are active at fewer
 * than ten tokens are left out unless there are no others, as a few texts say little.
 */
export function spread({ active }: LatentActivity, count: number): number[] {
  const order = (least: number) =>
    Array.from(active.keys())
      .filter((i) => (active[i] as number) >= least)
      .sort((a, b) => (active[b] as number) - (active[a] as number) || a - b);
  const often = order(10);
  const from = often.length > 0 ? often : order(1);
  if (from.length <= count) return from;
  const step = count > 1 ? (from.length - 1) / (count - 1) : 0;
  return Array.from({ length: count }, (_, i) => from[Math.round(i * step)] as number);
}

/**
 * The numbers of latents by their firing rates, in half powers of ten. `never` counts those that are active nowhere.
 */
export interface RateHistogram {
  readonly never: number;
  /** Rates from 10^(from) up to 10^(from + 0.5); the last one includes 1. */
  readonly bins: readonly { readonly from: number; readonly count: number }[];
}

export function histogramOf({ active, tokens }: LatentActivity): RateHistogram {
  const lowest = -Math.ceil(2 * Math.log10(Math.max(2, tokens)));
  const counts = new Array<number>(-lowest).fill(0);
  let never = 0;
  for (const count of active) {
    if (count === 0) never++;
    else {
      const bin = Math.min(-1, Math.max(lowest, Math.floor(2 * Math.log10(count / tokens))));
      counts[bin - lowest] = (counts[bin - lowest] as number) + 1;
    }
  }
  const first = counts.findIndex((count) => count > 0);
  const bins = counts.map((count, i) => ({ from: (i + lowest) / 2, count }));
  return { never, bins: first < 0 ? [] : bins.slice(first) };
}
