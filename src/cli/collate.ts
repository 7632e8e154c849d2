// sonde collate: makes records of neurons from a dump, shows progress, and prints one line about the outcome.
import { Command, InvalidArgumentError } from 'commander';
import { openDump } from '../dump/read/reader.js';
import { type CollateSelection, collate } from '../dump/report/collate.js';
import { counted } from '../files/text.js';
import { integer } from './common_options.js';
import { interruptible } from './failure.js';
import { tokenProgressView } from './token_progress.js';

interface CollateCommandOptions {
  select: CollateSelection[];
  out: string;
  top: number;
  random: number;
  seed: number;
}

const help = `
Examples:
  One neuron; a range and a list of latents; all neurons (quote the *). sonde demo makes the dump:
    $ sonde collate demo-dump --select 1/mlp/post_act=200 --out records
    $ sonde collate demo-dump --select 0/resid/delta_mlp/latents=0-127 1/resid/delta_mlp/latents=3,5,9-12 --out records
    $ sonde collate demo-dump --select '1/mlp/post_act=*' --out records
  More texts for each, and another choice of the random ones:
    $ sonde collate demo-dump --select '1/mlp/post_act=*' --top 50 --random 100 --seed 7 --out records

A record is a JSON file, records/mlp_post_act/1/200.json: the moments of the neuron's activations over the whole
dump, the texts (rows) with its largest activations, and texts chosen at random. loadNeuronRecord() reads it. Files
that exist already are written again.
What can be selected: sonde inspect DUMP lists the names.`;

export const collateCommand = (): Command =>
  new Command('collate')
    .description('write a record of each neuron or latent of a dump: moments, strongest texts, random texts')
    .argument('<dump>', 'the folder of a dump, or az://account/container/prefix')
    .requiredOption(
      '--select <name=indices...>',
      'neurons or latents: 300, 0-127, 3,5,9-12 or *',
      (text, before: CollateSelection[] | undefined) => [...(before ?? []), selection(text)],
    )
    .requiredOption('--out <folder>', 'the folder to write to')
    .option('--top <n>', 'texts with the largest activations', integer(0), 20)
    .option('--random <n>', 'texts chosen at random', integer(0), 20)
    .option('--seed <n>', 'the seed of the random choice', integer(0), 0)
    .addHelpText('after', help)
    .action((folder: string, options: CollateCommandOptions) => runCollate(folder, options));

async function runCollate(folder: string, { select, ...options }: CollateCommandOptions): Promise<void> {
  const { out } = options;
  await interruptible(`interrupted: the records in ${out} are whole, but not all are there`, async (signal) => {
    await using dump = await openDump(folder);
    const view = tokenProgressView();
    const onProgress = view.update.bind(view);
    const work = collate(dump, { ...options, selections: select, onProgress, signal });
    const { records, rows } = await work.finally(() => view.stop());
    console.log(`${out}: ${counted(records, 'record')} of ${rows} rows`);
  });
}

/** Reads `1/mlp/post_act=0-127`. */
export function selection(text: string): CollateSelection {
  const at = text.lastIndexOf('=');
  const [name, indices] = [text.slice(0, at), text.slice(at + 1)];
  if (at <= 0) throw new InvalidArgumentError('It must read NAME=INDICES, such as 1/mlp/post_act=300.');
  return { name, indices: indices === '*' ? 'all' : indices.split(',').flatMap(range) };
}

function range(text: string): number[] {
  const [, first, last = first] = /^(\d{1,7})(?:-(\d{1,7}))?$/.exec(text.trim()) ?? [];
  const [from, to] = [Number(first), Number(last)];
  if (!(from <= to)) {
    throw new InvalidArgumentError(`Indices are numbers, ranges such as 0-127, or *; what is '${text}'?`);
  }
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
