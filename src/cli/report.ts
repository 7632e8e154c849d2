// sonde report: a page about a dump.
import { Command } from 'commander';
import { openDump } from '../dump/read/reader.js';
import type { CollateSelection } from '../dump/report/collate.js';
import { report } from '../dump/report/report.js';
import { selection } from './collate.js';
import { interruptible } from './failure.js';
import { integer } from './options.js';
import { progressView } from './progress.js';

interface ReportCommandOptions {
  out: string;
  select?: CollateSelection[];
  latents: number;
  top: number;
}

const help = `
What is in the dump, how often its latents are active, and the texts where some of them are strongest. One file that
opens without a server and holds no script; what is in the dump's text is in the page.

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
    .option('--latents <n>', 'of each autoencoder, if none are selected: from often to seldom active', integer(1), 12)
    .option('--top <n>', 'texts of each', integer(1), 5)
    .addHelpText('after', help)
    .action((folder: string, options: ReportCommandOptions) => runReport(folder, options));

async function runReport(folder: string, { select, ...options }: ReportCommandOptions): Promise<void> {
  await interruptible('interrupted: no page was written', async (signal) => {
    await using dump = await openDump(folder);
    const view = progressView();
    const onProgress = view.update.bind(view);
    const work = report(dump, { ...options, ...(select && { selections: select }), onProgress, signal });
    const { out, features } = await work.finally(() => view.stop());
    console.log(`${out}: ${features} neurons and latents with their texts`);
  });
}
