// sonde inspect: shows what a dump holds.
import { Command } from 'commander';
import { bytesOf } from '../dump/format/manifest.js';
import { isPacked } from '../dump/format/positions.js';
import type { Statistics } from '../dump/format/statistics.js';
import { textOfAll } from '../dump/format/token_text.js';
import { type DenseRows, type Dump, openDump, type SparseRows } from '../dump/read/reader.js';
import { describeFilter } from '../dump/shards/dump_plan.js';
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
}

/** Math.max(...) would fail here: there may be any number of names. */
const longest = (names: readonly string[]): number => names.reduce((most, { length }) => Math.max(most, length), 0);

async function printStatistics(dump: Dump): Promise<void> {
  print('statistics of their features, over all shards');
  const { names } = dump;
  const width = longest(names);
  for (const name of names) print(`  ${name.padEnd(width)}  ${summaryOfStatistics(await dump.statistics(name))}`);
}

function summaryOfStatistics({ count, active, mean, variance, maximum }: Statistics): string {
  if (count === 0) return 'nothing was counted';
  const ever = active.filter((n) => n > 0).length;
  const average = (values: Float64Array) => threeDigits(values.reduce((sum, x) => sum + x, 0) / values.length);
  const largest = threeDigits(maximum.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY));
  const spread = average(variance.map(Math.sqrt));
  return `${count} positions: ${ever} of ${active.length} are ever other than 0; on average a mean of ${average(mean)} and a standard deviation of ${spread}; the largest value ${largest}`;
}

/** `stored` [context]: 1 where the row has values. */
function summaryOfDense({ data, shape }: DenseRows, stored: Uint8Array): string {
  const width = sizeOf(shape.slice(2));
  const values = data.filter((_, i) => stored[Math.floor(i / width)] === 1);
  if (values.length === 0) return 'nothing is stored';
  let [sum, squares] = [0, 0];
  for (const x of values) {
    sum += x;
    squares += x * x;
  }
  const mean = sum / values.length;
  const deviation = Math.sqrt(Math.max(0, squares / values.length - mean * mean));
  return `${threeDigits(mean)} on average, standard deviation ${threeDigits(deviation)}`;
}

function summaryOfSparse({ indices, values }: SparseRows, stored: Uint8Array): string {
  const positions = stored.filter((here) => here === 1).length;
  if (positions === 0) return 'nothing is stored';
  let strongest = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[strongest] as number)) strongest = i;
  const active = `${(indices.length / positions).toFixed(1)} active per token`;
  return indices.length === 0
    ? active
    : `${active}, the strongest ${indices[strongest]}:${threeDigits(values[strongest] as number)}`;
}
