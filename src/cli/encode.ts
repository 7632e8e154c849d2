// sonde encode: shows the latents of an autoencoder in a text, token by token.
import { Command } from 'commander';
import { listAutoencoderNames } from '../context/registry.js';
import { expandDumpLocations, showDumpLocation } from '../dump/format/dump_location.js';
import { findAutoencoder } from '../dump/shards/autoencoders.js';
import type { SparseLatents } from '../engine/ops/sparse_encode.js';
import type { Transformer } from '../transformer/transformer.js';
import {
  addModelOptions,
  addPrecision,
  autoencoderLocation,
  collected,
  integer,
  loadModel,
  type ModelOptions,
} from './common_options.js';
import { interruptible, UsageError } from './failure.js';
import { fetchProgressView } from './fetch_progress.js';
import { print } from './terminal.js';

interface EncodeOptions extends ModelOptions {
  autoencoder?: string[];
  top: number;
}

const demoDefault = '1/resid/delta_mlp -> ae-resid-delta-mlp';
const help = `
Examples:
  $ sonde encode "Kate found a red ball"
  $ sonde encode --autoencoder '*/mlp/post_act=ae-mlp-post-act' --top 3 "Kate found a red ball"
  $ sonde encode --model gpt2-small --autoencoder '8/resid/delta_mlp=ae-resid-delta-mlp-v4' "Hello"
  $ sonde encode --model ./my-gpt2 --autoencoder '8/resid/delta_mlp=my-ae/{layer}.pt' "Hello"
Autoencoders by name, of the demo model: ${listAutoencoderNames('demo').join(', ')};
of gpt2-small: ${listAutoencoderNames('gpt2-small').join(', ')}.
Next: sonde dump --help, for the latents of a whole text.`;

export function encodeCommand(): Command {
  const command = new Command('encode')
    .description('show the strongest latents of an autoencoder, token by token (latent:value)')
    .argument('<prompt>', 'a text');
  addPrecision(addModelOptions(command), '--dtype')
    .option(
      '--autoencoder <location=name>',
      'which autoencoder (a name, a file or an address), and where; may be repeated',
      (text, before: string[] | undefined) => collected(autoencoderLocation(text), before),
    )
    .option('--top <n>', 'latents per token', integer(1), 5);
  return command.addHelpText('after', help).action(runEncode);
}

async function runEncode(prompt: string, options: EncodeOptions): Promise<void> {
  const autoencoders = options.autoencoder ?? (options.model === 'demo' ? [demoDefault] : []);
  if (autoencoders.length === 0)
    throw new UsageError(`encode needs an --autoencoder LOCATION=NAME for ${options.model}`);
  await interruptible('interrupted', async (signal) => {
    const model = await loadModel(options, signal);
    const tokens = model.enc.encode(prompt);
    if (tokens.length === 0) throw new UsageError('encode needs a text of one token at least');
    const fetching = fetchProgressView();
    try {
      for (const location of expandDumpLocations(autoencoders, model.config, 'encode')) {
        const { onProgress } = fetching;
        const found = await findAutoencoder(location, {}, model, { onProgress, signal, operation: 'encode' });
        fetching.stop();
        print(showDumpLocation(location));
        const activations = await model.activations([tokens], [location.location]);
        using x = activations.get(location.location);
        if (!x) throw new Error(`encode: the model gave no activations at ${location.location}`);
        const sparse = await found.autoencoder.encodeSparse(x.reshape(tokens.length, -1));
        for (const line of table(model, tokens, sparse, options.top)) print(line);
        found.autoencoder.dispose();
      }
    } finally {
      fetching.stop();
    }
  });
}

function table(model: Transformer, tokens: number[], sparse: SparseLatents, top: number): string[] {
  const texts = tokens.map((token) => JSON.stringify(model.enc.decode([token])));
  const width = Math.max(...texts.map((text) => text.length));
  return texts.map((text, position) => {
    const [from, to] = [Number(sparse.rowPtr[position]), Number(sparse.rowPtr[position + 1])];
    const strongest = Array.from(sparse.indices.subarray(from, to), (latent, i): [number, number] => [
      latent,
      sparse.values[from + i] as number,
    ])
      .sort((a, b) => b[1] - a[1])
      .slice(0, top)
      .map(([latent, value]) => `${latent}:${value.toFixed(3)}`.padEnd(11));
    return `  ${text.padEnd(width)}  ${strongest.join(' ')}`.trimEnd();
  });
}
