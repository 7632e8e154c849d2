// sonde sample: lets a model continue a text.
import { Command } from 'commander';
import { addModelOptions, integer, loadModel, type ModelOptions, number } from './options.js';

interface SampleOptions extends ModelOptions {
  numTokens: number;
  temperature: number;
  topP?: number;
  seed?: number;
}

const help = `
Examples:
  $ sonde sample "Once there was a little dog"
  $ sonde sample --temperature 0 "Kate found"       the likeliest word each time
  $ sonde sample --seed 7 --top-p 0.9 "Kate" "Tom"  the same words for the same seed
Next: sonde encode "Kate found a red ball"`;

export function sampleCommand(): Command {
  const command = new Command('sample').description('continue a text').argument('<prompt...>', 'one or more texts');
  addModelOptions(command)
    .option('--num-tokens <n>', 'tokens to add', integer(0), 20)
    .option('--temperature <t>', '0: always the likeliest token', number(0), 1)
    .option('--top-p <p>', 'choose among the likeliest tokens that make up p', number(0, 1))
    .option('--seed <n>', 'for the same choice each time', integer(0));
  return command.addHelpText('after', help).action(runSample);
}

async function runSample(prompts: string[], options: SampleOptions): Promise<void> {
  const model = await loadModel(options);
  const { numTokens, temperature, topP, seed } = options;
  const { strings } = await model.sample(prompts, {
    numTokens,
    temperature,
    ...(topP !== undefined && { topP }),
    ...(seed !== undefined && { seed }),
  });
  for (const [i, text] of strings.entries()) console.log(`${prompts[i]}${text}`);
}
