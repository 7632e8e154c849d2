// sonde sample: lets a model continue a text.
import { Command } from 'commander';
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
import { interruptible } from './failure.js';

interface SampleOptions extends ModelOptions {
  numTokens: number;
  temperature: number;
  topP?: number;
  seed?: number;
  ablate?: string[];
}

const help = `
Examples:
  $ sonde sample "Once there was a little dog"
  $ sonde sample --temperature 0 "Kate found"       the likeliest word each time
  $ sonde sample --seed 7 --top-p 0.9 "Kate" "Tom"  the same words for the same seed
Each prompt draws from a stream of its own, the first one with the seed N, the others with seeds that follow from N and
their place: a prompt gives the same words at the same place, whatever the others are.
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
    .option('--ablate <location/index>', 'set features of an activation to 0; may be repeated', collected);
  return command.addHelpText('after', help).action(runSample);
}

async function runSample(prompts: string[], options: SampleOptions): Promise<void> {
  const model = await interruptible('interrupted', (signal) => loadModel(options, signal));
  const { numTokens, temperature, topP, seed, ablate } = options;
  const { strings } = await model.sample(prompts, {
    numTokens,
    temperature,
    ...(topP !== undefined && { topP }),
    ...(seed !== undefined && { seed }),
    ...(ablate && { hooks: ablationHooks(ablate, model) }),
  });
  for (const [i, text] of strings.entries()) console.log(`${prompts[i]}${text}`);
}
