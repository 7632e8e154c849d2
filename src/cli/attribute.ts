// sonde attribute: shows which neurons, heads and latents a word is due to, by activation times gradient.
import { Command } from 'commander';
import type { Autoencoder } from '../autoencoder/autoencoder.js';
import { findAutoencoderSpec, listAutoencoderNames } from '../context/registry.js';
import { type DumpLocation, expandDumpLocations, parseDumpLocation } from '../dump/format/dump_location.js';
import { checkInputs, checkLayered, findAutoencoder } from '../dump/shards/autoencoders.js';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import { type AttributionDirection, attribute } from '../transformer/attribution/attribute.js';
import { locationShape } from '../transformer/location.js';
import type { Transformer } from '../transformer/transformer.js';
import { type Attributed, attributionJson, attributionLines } from './attribute_view.js';
import {
  addDevice,
  addModel,
  addPrecision,
  autoencoderLocation,
  collected,
  integer,
  loadModel,
  type ModelOptions,
  oneOf,
} from './common_options.js';
import { interruptible, UsageError } from './failure.js';
import { fetchProgressView } from './fetch_progress.js';
import { print, warn } from './terminal.js';

interface AttributeOptions extends ModelOptions {
  target: string;
  instead?: string;
  at?: string[];
  autoencoder?: string[];
  top: number;
  direction: AttributionDirection;
  json?: boolean;
}

const help = `
Examples:
  $ sonde attribute "Leo came from Paris, which is in" --target " France" --instead " Germany"
  $ sonde attribute "Kate found a red" --target " ball" --at '*/mlp/post_act' --top 20
  $ sonde attribute "Kate found a red" --target " ball" --autoencoder '*/resid/delta_mlp=ae-resid-delta-mlp'
  $ sonde attribute "Kate found a red" --target " ball" --direction against
  $ sonde attribute --json "Kate found a red" --target " ball" | jq '.groups[].strongest[0]'
Listed are the --top strongest of each kind of location that speak for the target, the largest attribution first, over
all layers and tokens. --direction against lists those that speak against it, and both whatever is largest in size. The
sum in the title is that of all there are, whatever is listed.
An attribution is value times gradient: about how much lower the logit of the target, behind the last token, would be
if that value alone were 0, at its token. A head's is the sum over its channels. With --instead it is the logit of the
target minus that of the other token: it tells what speaks for the one rather than the other.
The test is an ablation: set each of them alone to 0, at its position only, and run the prompt again. The signs are right
for nearly all. The sum over neurons, or over latents, is about what was predicted; heads often lose twice as much or more,
as a gradient is linear and what a whole head does is not. With --instead the estimate is the better one.
Most tokens begin with a space. Positions of tokens are counted from 0.
Locations have neurons (5/mlp/post_act), heads (5/attn/v_out), channels (5/resid/post_mlp) or latents
(5/resid/delta_mlp/latents, with an --autoencoder there); * is every layer.
Autoencoders by name, of the demo model: ${listAutoencoderNames('demo').join(', ')};
of gpt2-small: ${listAutoencoderNames('gpt2-small').join(', ')}.
Next: sonde sample --ablate 3/mlp/post_act/253 "Leo came from Paris, which is in", for the text without a neuron.`;

export function attributeCommand(): Command {
  const command = new Command('attribute')
    .description('show which neurons, heads and latents a word is due to, token by token')
    .argument('<prompt>', 'a text')
    .requiredOption('--target <token>', 'the token whose logit is attributed')
    .option('--instead <token>', 'attribute by how much the target is above this token');
  addPrecision(addDevice(addModel(command), 'cpu, as gradients are computed there alone'), '--dtype')
    .option(
      '--at <location>',
      'where to look; may be repeated (default: all neurons, mlp/post_act, and all heads, attn/v_out)',
      collected,
    )
    .option(
      '--autoencoder <location=name>',
      'look at the latents of an autoencoder (a name, a file or an address), and where; may be repeated',
      (text, before: string[] | undefined) => collected(autoencoderLocation(text), before),
    )
    .option('--top <n>', 'how many of each are listed', integer(1), 10)
    .option(
      '--direction <direction>',
      'list those that speak for the target, against it, or both by size: for, against, both',
      oneOf('for', 'against', 'both'),
      'for',
    )
    .option('--json', 'print JSON');
  return command.addHelpText('after', help).action(runAttribute);
}

async function runAttribute(prompt: string, options: AttributeOptions): Promise<void> {
  const { autoencoder: wanted = [], top, direction, json = false } = options;
  await interruptible('interrupted', async (signal) => {
    const model = await loadModel({ device: 'cpu', ...options }, signal);
    const { enc, config } = model;
    const tokens = enc.encode(prompt);
    if (tokens.length === 0) throw new UsageError('attribute needs a prompt of one token at least');
    if (tokens.length > config.ctxWindow) {
      throw new UsageError(
        `the prompt has ${tokens.length} tokens, and the window of ${model.name} holds ${config.ctxWindow}`,
      );
    }
    const target = oneToken('--target', options.target, enc);
    const instead = options.instead === undefined ? undefined : oneToken('--instead', options.instead, enc);
    if (instead === target) throw new UsageError('--instead must be another token than --target');
    const autoencoders = await loadAutoencoders(wanted, model, signal);
    try {
      const latents = Object.keys(autoencoders).map((location) => `${location}/latents`);
      const found = await attribute(model, tokens, {
        ...{ target, autoencoders, top, direction },
        ...(instead !== undefined && { instead }),
        ...(options.at && { at: [...options.at, ...latents] }),
      });
      const textOf = (token: number) => enc.decode([token]);
      const shown: Attributed = { ...found, prompt, tokens, target, instead, direction, textOf };
      if (json) print(attributionJson(shown));
      else for (const line of attributionLines(shown)) print(line);
    } finally {
      for (const autoencoder of Object.values(autoencoders)) autoencoder.dispose();
    }
    for (const [option, text] of [['--target', options.target] as const, ['--instead', options.instead] as const]) {
      if (text !== undefined) warnOfSpace(option, text, prompt, enc);
    }
  });
}

/** The token that a text is. @throws UsageError that says which tokens it is, and which text nearby is one. */
function oneToken(option: string, text: string, enc: Tokenizer): number {
  const tokens = enc.encode(text);
  if (tokens.length === 1) return tokens[0] as number;
  const parts = tokens.map((token) => JSON.stringify(enc.decode([token]))).join(', ');
  const is = tokens.length === 0 ? 'is none' : `is ${tokens.length}: ${parts}`;
  const others = [` ${text}`, text.trimEnd(), ` ${text.trim()}`, text.trim()].filter((other) => other.trim() !== '');
  const other = others.find((one) => enc.encode(one).length === 1);
  const where = other === ` ${text}` ? 'with a space before it' : 'with other spaces';
  const advice = other === undefined ? '' : `; ${where}, ${JSON.stringify(other)} is one`;
  throw new UsageError(`${option} must be exactly one token, but ${JSON.stringify(text)} ${is}${advice}`);
}

/** Says so where a word is given without the space that it has inside a text. */
function warnOfSpace(option: string, text: string, prompt: string, enc: Tokenizer): void {
  if (!/^[\p{L}\p{N}]/u.test(text) || /\s$/.test(prompt) || enc.encode(` ${text}`).length !== 1) return;
  warn(`${option} ${JSON.stringify(text)} goes on with the last word; a new word is ${JSON.stringify(` ${text}`)}`);
}

/** By location. */
async function loadAutoencoders(
  wanted: readonly string[],
  model: Transformer,
  signal: AbortSignal,
): Promise<Record<string, Autoencoder>> {
  const loaded: Record<string, Autoencoder> = {};
  if (wanted.length === 0) return loaded;
  checkLayered(wanted.map(parseDumpLocation), {}, 'attribute');
  const locations = expandDumpLocations(wanted, model.config, 'attribute');
  for (const location of locations) checkTrainedAt(location, model.name);
  const fetching = fetchProgressView();
  try {
    for (const location of locations) {
      const { onProgress } = fetching;
      const found = await findAutoencoder(location, {}, model, { onProgress, signal, operation: 'attribute' });
      fetching.stop();
      loaded[location.location] = found.autoencoder;
      checkInputs(found, locationShape(location.location, model.config, 1, 1, 1).at(-1) as number, 'attribute');
    }
    return loaded;
  } catch (error) {
    for (const autoencoder of Object.values(loaded)) autoencoder.dispose();
    throw error;
  } finally {
    fetching.stop();
  }
}

/** An autoencoder with a name says nothing about activations that it was not trained on. */
function checkTrainedAt({ location, autoencoder: name = '' }: DumpLocation, modelName: string): void {
  const trained = findAutoencoderSpec(modelName, name)?.dst;
  const here = location.replace(/^\d+\//, '').replaceAll('/', '_');
  if (trained === undefined || trained === here) return;
  const place = trained.replace('_', '/'); // resid_delta_mlp is resid/delta_mlp, mlp_post_act is mlp/post_act
  throw new UsageError(`--autoencoder ${location}=${name}: it was trained at LAYER/${place}, and not at ${location}`);
}
