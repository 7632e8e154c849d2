// sonde index: makes the index of a corpus ahead of the dumps that use it.
import { Command } from 'commander';
import { type IndexProgress, indexCorpus } from '../dump/index_corpus.js';
import { counted, showBytes, withCommas } from '../files/text.js';
import { integer } from './common_options.js';
import { addCorpusOptions, addRowOptions, type CorpusOptions, corpusOf } from './corpus_options.js';
import { interruptible } from './failure.js';
import { type Display, progressViewOf } from './progress_view.js';

interface IndexCommandOptions extends CorpusOptions {
  out: string;
  context?: number;
  shardTokens?: number;
  limit?: number;
  vocabulary?: number;
}

const help = `
The index says where each shard of a dump begins in the text, so that parts of a dump, workers of a queue and a dump that
goes on read nothing before their shards. A dump makes it by itself on the way, and sonde queue plan does before anything
is computed. It is the file index.jsonl in the folder of the dump; a copy serves other folders, such as one for each part.
The same command on several machines that share the folder makes the index of a large corpus faster: they share the work.

Examples:
  $ sonde index --text big.txt --out dump
  $ sonde dump --text big.txt --hook 1/mlp/post_act --out dump --shard 0/4
  $ find text -name '*.txt' | sort > list; sonde index --files-from list --shard-tokens 4194304 --out dump

The dump must have the same files, --context, --shard-tokens and --limit.`;

export function indexCommand(): Command {
  return addRowOptions(addCorpusOptions(new Command('index').description('find where the shards of a dump begin')))
    .option('--vocabulary <n>', "the size of the model's vocabulary (default: 50257, GPT-2's)", integer(1))
    .requiredOption(
      '--out <folder>',
      'the folder of the dump: new, empty, or one with it; or az://account/container/prefix',
    )
    .addHelpText('after', help)
    .action(runIndex);
}

async function runIndex(options: IndexCommandOptions): Promise<void> {
  const { out, context, shardTokens, limit, vocabulary } = options;
  const corpus = corpusOf('index', options);
  await interruptible(`interrupted: the same command goes on with ${out}`, async (signal) => {
    const view = progressViewOf(display, process.stderr);
    const { shards, tokens, bytesRead } = await indexCorpus({
      ...{ corpus, out, signal, onProgress: (progress) => view.update(progress) },
      ...(context !== undefined && { context }),
      ...(shardTokens !== undefined && { shardTokens }),
      ...(limit !== undefined && { limit }),
      ...(vocabulary !== undefined && { vocabulary }),
    }).finally(() => view.stop());
    const is = bytesRead === 0 ? 'is there already' : 'is made';
    console.log(`${out}: the index of ${counted(shards, 'shard')}, ${tokens} tokens, ${is}`);
  });
}

const display: Display<IndexProgress> = {
  bar: { format: '{bar} {percentage}%  {shown}' },
  barOf: (progress) => ({
    value: Math.min(progress.bytesRead, progress.totalBytes),
    total: Math.max(progress.totalBytes, 1),
    texts: { shown: shownProgress(progress) },
  }),
  lineOf: shownProgress,
  skipsRepeatedLines: true,
};

function shownProgress({ shards, tokens, bytesRead, totalBytes }: IndexProgress): string {
  return `${showBytes(bytesRead)} of ${showBytes(totalBytes)}, ${withCommas(tokens)} tokens, ${counted(shards, 'shard')}`;
}
