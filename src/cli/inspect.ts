// sonde inspect: shows what a dump holds.
import { Command } from 'commander';
import { bytesOf } from '../dump/format/manifest.js';
import { nonFiniteLines } from '../dump/format/non_finite.js';
import { isPacked } from '../dump/format/positions.js';
import type { Statistics } from '../dump/format/statistics.js';
import { textOfAll } from '../dump/format/token_text.js';
import { type DenseRows, type Dump, openDump, type SparseRows } from '../dump/read/reader.js';
import { describeFilter, scalarTexts } from '../dump/shards/dump_plan.js';
import { sizeOf } from '../engine/shape.js';
import { counted, showBytes, threeDigits } from '../files/text.js';
import { print } from './terminal.js';

const help = `
Example:
  $ sonde inspect demo-dump
Next: sonde verify checks every file.`;

export const inspectCommand = (): Command =>
  new Command('inspect')
    .description('show what a dump holds')
    .argument('<dump>', 'the folder of a dump, or az://account/container/prefix')
    .option(
      '--statistics',
      'show the statistics of all neurons, channels and latents, where the dump has them; reads every shard',
    )
    .addHelpText('after', help)
    .action(async (folder: string, { statistics = false }: { statistics?: boolean }) => {
      await using dump = await openDump(folder);
      await printDump(dump);
      if (statistics) await printStatistics(dump);
    });

/** Prints what the manifest says, and a summary of the first row. */
export async function printDump(dump: Dump): Promise<void> {
  const { manifest, shards } = dump;
  const { model, part } = manifest;
  const bytes = bytesOf(shards);
  const files = `${counted(shards.length, 'shard')}, ${showBytes(bytes)}`;
  const whole = part.count > 1 ? `part ${part.index} of ${part.count}, ` : '';
  print(`model     ${model.name}, ${model.dtype}, digest ${model.digest}`);
  if (manifest.tokenizer !== 'gpt2') print('tokenizer unknown: tokens have numbers, and no texts');
  print(`made with ${manifest.arithmetic.join('; ') || 'nothing yet'}`);
  print(`corpus    ${manifest.corpus.map(({ kind, name }) => name ?? kind).join(', ')}`);
  print(`rows      ${dump.rowCount} of ${manifest.context} tokens, ${dump.tokenCount} tokens without padding`);
  if (isPacked(manifest)) print(`positions ${describeFilter(manifest)}`);
  if (manifest.gradientOf) print(`gradients of ${scalarTexts[manifest.gradientOf]}`);
  print(`files     ${files}, ${whole}${manifest.complete ? 'complete' : 'not complete: the same command goes on'}`);
  if (dump.rowCount === 0) return;
  const { tokens, document, stored } = await dump.tokens(0, 1);
  const text = textOfAll([...tokens.filter((_, i) => document[i] !== -1)], manifest.tokenizer);
  print(`first row ${JSON.stringify(text.length > 90 ? `${text.slice(0, 90)}…` : text)}`);
  print('tensors, and what they hold in the first row');
  const { names } = dump;
  const width = longest(names);
  for (const name of names) {
    const rows = await dump.rows(name, 0, 1);
    const shape = `[${[dump.rowCount, ...rows.shape.slice(1)].join(', ')}]`;
    const summary = 'data' in rows ? summaryOfDense(rows, stored) : summaryOfSparse(rows, stored);
    print(`  ${name.padEnd(width)}  ${shape}  ${summary}`);
  }
  const lines = nonFiniteLines(dump.nonFinite, shards.length);
  if (lines.length > 0) print('values that are not finite, in all shards');
  for (const line of lines) print(`  ${line}`);
}

/** Math.max(...) would fail here: there may be any number of names. */
const longest = (names: readonly string[]): number => names.reduce((most, { length }) => Math.max(most, length), 0);

async function printStatistics(dump: Dump): Promise<void> {
  print('statistics of their features, over all shards');
  const { names } = dump;
  const width = longest(names);
  for (const name of names) print(`  ${name.padEnd(width)}  ${summaryOfStatistics(await dump.statistics(name))}`);
}

/** Features with values that are not finite are counted, and left out of the averages. */
function summaryOfStatistics({ count, active, mean, variance, maximum }: Statistics): string {
  if (count === 0) return 'nothing was counted';
  const ever = active.filter((n) => n > 0).length;
  const features = Array.from(mean.keys()).filter((i) => Number.isFinite(variance[i] as number));
  const left = mean.length - features.length;
  const known = `${count} positions: ${ever} of ${active.length} are ever other than 0`;
  const odd = left > 0 ? `; ${left} of ${mean.length} have values that are not finite` : '';
  if (features.length === 0) return `${known}${odd}`;
  const average = (value: (i: number) => number) =>
    threeDigits(features.reduce((sum, i) => sum + value(i), 0) / features.length);
  const largest = threeDigits(features.reduce((most, i) => Math.max(most, maximum[i] as number), -Infinity));
  const others = left > 0 ? `, of the others on average` : '; on average';
  const spread = average((i) => Math.sqrt(variance[i] as number));
  return `${known}${odd}${others} a mean of ${average((i) => mean[i] as number)} and a standard deviation of ${spread}; the largest value ${largest}`;
}

/** `stored` [context]: 1 where the row has values. Those that are not finite are counted, and left out. */
function summaryOfDense({ data, shape }: DenseRows, stored: Uint8Array): string {
  const width = sizeOf(shape.slice(2));
  const all = data.filter((_, i) => stored[Math.floor(i / width)] === 1);
  if (all.length === 0) return 'nothing is stored';
  const values = all.filter(Number.isFinite);
  const odd = values.length < all.length ? `${all.length - values.length} of ${all.length} not finite` : '';
  if (values.length === 0) return odd;
  let [sum, squares] = [0, 0];
  for (const x of values) {
    sum += x;
    squares += x * x;
  }
  const mean = sum / values.length;
  const deviation = Math.sqrt(Math.max(0, squares / values.length - mean * mean));
  return `${threeDigits(mean)} on average, standard deviation ${threeDigits(deviation)}${odd && `; ${odd}`}`;
}

function summaryOfSparse({ indices, values }: SparseRows, stored: Uint8Array): string {
  const positions = stored.filter((here) => here === 1).length;
  if (positions === 0) return 'nothing is stored';
  let strongest = -1; // of the values that are numbers
  for (let i = 0; i < values.length; i++) {
    const x = values[i] as number;
    if (!Number.isNaN(x) && (strongest < 0 || x > (values[strongest] as number))) strongest = i;
  }
  const active = `${(indices.length / positions).toFixed(1)} active per token`;
  const odd = values.filter((x) => !Number.isFinite(x)).length;
  const parts = [
    active,
    ...(strongest < 0 ? [] : [`the strongest ${indices[strongest]}:${threeDigits(values[strongest] as number)}`]),
    ...(odd > 0 ? [`${odd} of ${values.length} not finite`] : []),
  ];
  return parts.join(', ');
}
