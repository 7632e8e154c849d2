// sonde report: writes a page about a dump.
import { Command } from 'commander';
import { openDump } from '../dump/read/reader.js';
import type { CollateSelection } from '../dump/report/collate.js';
import { report } from '../dump/report/report.js';
import { selection } from './collate.js';
import { integer } from './common_options.js';
import { interruptible } from './failure.js';
import { tokenProgressView } from './token_progress.js';

interface ReportCommandOptions {
  out: string;
  select?: CollateSelection[];
  latents: number;
  top: number;
}

const help = `
The page shows what is in the dump, how often its latents are active, and the texts where some of them are strongest. It
is one file that opens without a server and holds no script. The page contains text of the dump.

Examples (sonde demo makes the dump):
  $ sonde report demo-dump
  Latents and neurons of your choice:
    $ sonde report demo-dump --select '1/resid/delta_mlp/latents=3,5,9-12' 1/mlp/post_act=200 --out chosen.html`;

export const reportCommand = (): Command =>
  new Command('report')
    .description('write a page about a dump: its latents, how often they are active, and their strongest texts')
    .argument('<dump>', 'the folder of a dump, or az://account/container/prefix')
    .option('--out <file>', 'the page', 'report.html')
    .option(
      '--select <name=indices...>',
      'neurons or latents to show: 300, 0-127, 3,5,9-12 or *',
      (text, before: CollateSelection[] | undefined) => [...(before ?? []), selection(text)],
    )
    .option(
      '--latents <n>',
      'latents of each autoencoder to show, if none are selected: from often to seldom active',
      integer(1),
      12,
    )
    .option('--top <n>', 'texts of each neuron or latent', integer(1), 5)
    .addHelpText('after', help)
    .action((folder: string, options: ReportCommandOptions) => runReport(folder, options));

async function runReport(folder: string, { select, ...options }: ReportCommandOptions): Promise<void> {
  await interruptible('interrupted: no page was written', async (signal) => {
    await using dump = await openDump(folder);
    const view = tokenProgressView();
    const onProgress = view.update.bind(view);
    const work = report(dump, { ...options, ...(select && { selections: select }), onProgress, signal });
    const { out, features } = await work.finally(() => view.stop());
    console.log(`${out}: ${features} neurons and latents with their texts`);
  });
}
