// sonde sample: lets a model continue a text.
import { Command } from 'commander';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import { ablationHooks } from '../transformer/ablation.js';
import {
  addModelOptions,
  addPrecision,
  collected,
  integer,
  loadModel,
  type ModelOptions,
  number,
} from './common_options.js';
import { interruptible, UsageError } from './failure.js';
import { sampleView } from './sample_view.js';

interface SampleOptions extends ModelOptions {
  numTokens: number;
  temperature: number;
  topP?: number;
  seed?: number;
  stop?: string[];
  minTokens: number;
  ablate?: string[];
  json?: boolean;
}

const help = `
Examples:
  $ sonde sample "Once there was a little dog"
  $ sonde sample --temperature 0 "Kate found"       the likeliest word each time
  $ sonde sample --seed 7 --top-p 0.9 "Kate" "Tom"  the same words for the same seed
Each prompt draws from a stream of its own, the first one with the seed N, the others with seeds that follow from N and
their place: a prompt gives the same words at the same place, whatever the others are.
A text ends with a --stop, which is one token and is printed, or else after --num-tokens:
  $ sonde sample --stop . --num-tokens 100 "Kate found"             one sentence
  $ sonde sample --stop . --stop '!' --min-tokens 8 "Kate found"    one of at least nine tokens
  $ sonde sample --stop '<|endoftext|>' --num-tokens 200 "Kate"     one story
Texts are printed as they come. Ctrl-C ends them where they are.
JSON has "prompt", "text", the new "tokens" and a "finishReason", which is length, stop or interrupted:
  $ sonde sample --json "Kate" "Tom" | jq -r .text
Ablations set features of an activation to 0: LOCATION/INDEX, or LOCATION/FIRST-LAST; * is every layer:
  $ sonde sample --ablate 3/mlp/post_act/300 --ablate 1/mlp/post_act/0-127 "Kate found"
  $ sonde sample --ablate '*/attn/qk_probs/2' "Kate found"      head 2 of every layer
Next: sonde encode "Kate found a red ball"`;

export function sampleCommand(): Command {
  const command = new Command('sample').description('continue a text').argument('<prompt...>', 'one or more texts');
  addPrecision(addModelOptions(command), '--dtype')
    .option('--num-tokens <n>', 'tokens to add', integer(0), 20)
    .option('--temperature <t>', '0: always the likeliest token', number(0), 1)
    .option('--top-p <p>', 'choose among the likeliest tokens that make up p', number(0, 1))
    .option('--seed <n>', 'the seed of the random choices, for the same ones each time', integer(0))
    .option('--stop <text>', 'end a text after this token; may be repeated', collected)
    .option('--min-tokens <n>', 'a --stop is forbidden until a text has so many tokens', integer(0), 0)
    .option('--ablate <location/index>', 'set features of an activation to 0; may be repeated', collected)
    .option('--json', 'print a line of JSON for each prompt, at the end');
  return command.addHelpText('after', help).action(runSample);
}

async function runSample(prompts: string[], options: SampleOptions): Promise<void> {
  const { numTokens, minTokens, temperature, topP, seed, ablate, stop = [], json = false } = options;
  if (minTokens > numTokens) {
    throw new UsageError(`--min-tokens ${minTokens} is more than --num-tokens ${numTokens}`);
  }
  await interruptible('interrupted', async (signal) => {
    const model = await loadModel(options, signal);
    const stopTokens = stop.map((text) => stopToken(text, model.enc));
    const hooks = ablate && ablationHooks(ablate, model);
    const view = sampleView(prompts, { numTokens, stopTokens, json, signal });
    try {
      await model.sample(prompts, {
        ...{ numTokens, minTokens, temperature, stopTokens, signal },
        ...(topP !== undefined && { topP }),
        ...(seed !== undefined && { seed }),
        ...(hooks && { hooks }),
        onToken: view.onToken,
      });
    } catch (error) {
      if (signal.aborted && error === signal.reason) view.end();
      else view.fail();
      throw error;
    }
    view.end();
  });
}

function stopToken(text: string, enc: Tokenizer): number {
  const [token, ...more] = enc.encode(text);
  if (token !== undefined && more.length === 0) return token;
  throw new UsageError(`--stop must be one token, but '${text}' is ${token === undefined ? 0 : more.length + 1}`);
}
