// sonde dump: reads the options of a dump, shows its progress, and prints one line about the outcome.
import { Command } from 'commander';
import type { CorpusFile } from '../dump/corpus/corpus.js';
import { type Dropped, droppable, dumpDTypes, gradientScalars, type Part } from '../dump/format/settings.js';
import { dump, planOf } from '../dump/run.js';
import { describePlan } from '../dump/shards/dump_plan.js';
import { type DumpOptions, type PlainOptions, plainOptions } from '../dump/shards/options.js';
import type { DeviceName } from '../engine/device.js';
import { counted, showBytes } from '../files/text.js';
import {
  addModelAndWorkers,
  addPrecision,
  autoencoderLocation,
  chosenWorkers,
  collected,
  integer,
  number,
  oneOf,
} from './common_options.js';
import { addCorpusOptions, addRowOptions, type CorpusOptions, corpusOf } from './corpus_options.js';
import { interruptible, UsageError } from './failure.js';
import { fetchProgressView } from './fetch_progress.js';
import { partOf } from './part.js';
import { warnOfNonFinite } from './terminal.js';
import { tokenProgressView } from './token_progress.js';

export interface DumpRequestOptions extends PlainOptions, CorpusOptions {
  model: string;
  hook?: string[];
  autoencoder?: string[];
}

interface DumpCommandOptions extends DumpRequestOptions {
  device?: DeviceName[];
  workers?: number;
  threads?: number;
  shard?: Part;
  plan?: boolean;
}

const help = `
Locations (quote the *, which stands for every layer):
  resid/post_emb  logits                 the embedding, the prediction
  5/resid/delta_attn  5/resid/delta_mlp  what layer 5 adds to the residual stream
  5/resid/post_attn  5/resid/post_mlp    the residual stream after it
  5/mlp/pre_act  5/mlp/post_act          its neurons
  5/attn/q  k  v  v_out                  by head; 5/attn/qk_logits and qk_probs: by key and head
  5/attn/head_out                        what each head of layer 5 adds to the residual stream

Examples:
  Neurons of layer 1 of the demo model, on your text:
    $ sonde dump --text stories.txt --hook 1/mlp/post_act --out neurons
  The residual stream of every layer of GPT-2 small, as bfloat16:
    $ sonde dump --model gpt2-small --jsonl docs.jsonl --hook '*/resid/post_mlp' --dtype bfloat16 --out residuals
  Sparse latents of every layer; {layer} in a path is the layer:
    $ sonde dump --text stories.txt --autoencoder '*/resid/delta_mlp=ae-resid-delta-mlp' --out latents
    $ sonde dump --text stories.txt --autoencoder '*/mlp/post_act=my-ae/{layer}.pt' --out latents
    $ sonde dump --model gpt2-small --text t.txt --autoencoder '5/resid/delta_mlp=ae-resid-delta-mlp-v4' --out latents
  Compressed text, through a pipe:
    $ zcat docs.txt.gz | sonde dump - --hook 1/resid/post_mlp --out dump
  A process for each of two GPUs, or two that share the cores:
    $ sonde dump --model gpt2-xl --text big.txt --hook '*/resid/post_mlp' --out dump --device cuda:0,cuda:1
    $ sonde dump --text big.txt --hook 1/resid/post_mlp --out dump --workers 2
  Into Azure Blob Storage, with AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_SAS_TOKEN:
    $ sonde dump --text big.txt --hook 1/resid/post_mlp --out az://account/container/dump
  A quarter of the work for each of four machines, into one folder or one each; then sonde merge:
    $ sonde dump --text big.txt --hook 1/resid/post_mlp --out dump --shard 0/4
    $ sbatch --array=0-3 --wrap "sonde dump --text big.txt --hook 1/resid/post_mlp --out dump --shard auto"
  Neurons, and the gradient of each row's next-token loss with respect to them (on the CPU):
    $ sonde dump --text stories.txt --hook 1/mlp/post_act --gradient-of loss --out neurons

  One position in twenty of the residual stream, as bytes, and the statistics of all:
    $ sonde dump --text big.txt --hook 1/resid/post_mlp --out sample --sample 0.05 --dtype int8 --statistics

Whatever stops a dump, the same command again goes on where it stopped. --plan shows what would be done. Values that are
not finite, or too large for the dtype, are stored as such; the last lines say how many, location by location.
Next: sonde inspect DUMP. The shards are plain safetensors, for numpy and torch as well.`;

/** The options of all commands that make dumps: which text is read, and what is stored. */
export function addDumpOptions(command: Command): Command {
  const read = addCorpusOptions(command.argument('[source]', '- for text on standard input'));
  return addRowOptions(
    addPrecision(
      read
        .option('--hook <location...>', 'what to store; may be repeated', collected)
        .option(
          '--autoencoder <location=name...>',
          'store the latents of an autoencoder (a name or a file) there',
          (text, before: string[] | undefined) => collected(text === '-' ? text : autoencoderLocation(text), before),
        )
        .requiredOption(
          '--out <folder>',
          'the folder to write to: new, empty, or one to go on with; or az://account/container/prefix',
        ),
      '--precision',
    ),
  )
    .option('--batch <n>', 'rows of the full context at a time (default: about 2048 tokens on the CPU)', integer(1))
    .option(
      '--dtype <dtype>',
      'how values are stored: float16 (default), float32, bfloat16, which numpy cannot read, or int8 with a scale for each token',
      oneOf(...dumpDTypes),
    )
    .option('--threshold <x>', 'store latents above it (default: 0)', number(0))
    .option(
      '--finite',
      'end with an error at the first value that is NaN, infinite or too large for the dtype, instead of counting such values',
    )
    .option(
      '--drop <what>',
      'do not store padding, endoftext, or both (with a comma); the rest is packed',
      (text, before: Dropped[] | undefined) => [...(before ?? []), ...text.split(',').map(oneOf(...droppable))],
    )
    .option('--sample <part>', 'store only this part of the positions, such as 0.05, chosen at random', number(0, 1))
    .option('--seed <n>', 'the seed of the random choice (default: 0)', integer(0))
    .option('--statistics', 'store the count, mean, variance and maximum of each neuron, channel and latent as well')
    .option('--parquet', 'store latents as Parquet as well, sorted by latent')
    .option(
      '--gradient-of <what>',
      'store gradients as well, LOCATION.gradient beside each location: loss, the mean next-token cross-entropy of each row',
      oneOf(...gradientScalars),
    )
    .option('--any-arithmetic', 'go on with a dump that was begun with another arithmetic (sonde devices)');
}

export function dumpCommand(): Command {
  const command = new Command('dump').description('store what happens inside a model on a text');
  return addModelAndWorkers(addDumpOptions(command))
    .option(
      '--shard <i/n>',
      'make only part i of n, counted from 0; auto or auto/N in a Slurm array or an indexed Kubernetes job',
      (text) => partOf(text),
    )
    .option('--plan', 'only print what would be done')
    .addHelpText('after', help)
    .action((source: string | undefined, options: DumpCommandOptions) => runDump(source, options));
}

async function runDump(source: string | undefined, options: DumpCommandOptions): Promise<void> {
  const { out, shard } = options;
  const request = dumpRequest('dump', source, options);
  await interruptible(`interrupted: ${out} can be continued with the same command`, async (signal) => {
    const whole: DumpOptions = { ...request, ...chosenWorkers(options), ...(shard && { shard }), signal };
    await (options.plan ? printPlan(whole) : dumpWithProgress(whole));
  });
}

async function printPlan(request: DumpOptions): Promise<void> {
  const fetching = fetchProgressView();
  const plan = await planOf({ ...request, onFetch: fetching.onProgress }).finally(() => fetching.stop());
  console.log(describePlan(plan));
}

/** The options of the command line as those of dump(). What was not given is left out, so that the defaults hold. */
export function dumpRequest(
  command: string,
  source: string | undefined,
  options: DumpRequestOptions,
): DumpOptions & { corpus: CorpusFile[] } {
  const hooks = [...(options.hook ?? []), ...(options.autoencoder ?? [])];
  const locations = hooks.filter((hook) => hook !== '-');
  const corpus = corpusOf(command, options, source ?? hooks.find((hook) => hook === '-'));
  if (locations.length === 0) {
    throw new UsageError(`${command} needs a --hook or an --autoencoder: what is to be stored?`);
  }
  const { out, ...others } = plainOptions(options);
  return { out, model: options.model, corpus, locations, ...others };
}

/**
 * Runs a dump, shows its progress on standard error, and prints one line about the result. Warns of values that are not
 * finite.
 */
export async function dumpWithProgress(request: DumpOptions): Promise<void> {
  const fetching = fetchProgressView();
  const view = tokenProgressView();
  const result = await dump({
    ...request,
    onFetch: fetching.onProgress,
    onProgress(progress) {
      fetching.stop();
      view.update(progress);
    },
  }).finally(() => {
    fetching.stop();
    view.stop();
  });
  const { out, written, bytes } = result;
  const files = `${counted(result.shards, 'shard')}, ${showBytes(bytes)}`;
  const counts = `${result.rows} rows, ${result.tokens} tokens in ${files}`;
  console.log(written === 0 ? `${out} is complete already: ${counts}. Nothing was done.` : `${out}: ${counts}`);
  warnOfNonFinite(result.nonFinite, result.shards);
}
