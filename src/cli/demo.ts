// sonde demo, for a first try: dumps the demo model on the sample text, shows the dump, and says how to read it.
import { join } from 'node:path';
import { Command } from 'commander';
import { openDump } from '../dump/read/reader.js';
import { packageRoot } from '../engine/native.js';
import { dumpWithProgress } from './dump.js';
import { interruptible } from './failure.js';
import { printDump } from './inspect.js';

export const demoCommand = (): Command =>
  new Command('demo')
    .description('dump the demo model on a text that ships with the package, and look at what came out')
    .option('--out <folder>', 'the folder to write to', 'demo-dump')
    .action(({ out }: { out: string }) => runDemo(out));

async function runDemo(out: string): Promise<void> {
  const text = join(packageRoot, 'assets', 'demo', 'stories-sample.txt');
  const hooks = "--hook 1/mlp/post_act --autoencoder '*/resid/delta_mlp=ae-resid-delta-mlp'";
  console.log(`$ sonde dump --model demo --text stories-sample.txt ${hooks} --out ${out}`);
  await interruptible(`interrupted: ${out} can be continued with the same command`, async (signal) => {
    const locations = ['1/mlp/post_act', '*/resid/delta_mlp -> ae-resid-delta-mlp'];
    await dumpWithProgress({ model: 'demo', corpus: text, locations, out, signal });
  });
  console.log(`\n$ sonde inspect ${out}`);
  await using dump = await openDump(out);
  await printDump(dump);
  console.log(howToRead(out));
}

const howToRead = (out: string): string => `
To read it in Python (pip install safetensors numpy):
  from safetensors.numpy import load_file
  shard = load_file("${out}/shard-00000.safetensors")
  neurons = shard["1/mlp/post_act"]                  # float16 [rows, context, neurons]
  start, end = shard["1/resid/delta_mlp/latents.row_ptr"][5:7]   # row 0, position 5
  shard["1/resid/delta_mlp/latents.indices"][start:end], shard["1/resid/delta_mlp/latents.values"][start:end]

In TypeScript:
  import { openDump } from 'sonde';
  const dump = await openDump('${out}');
  const { data, shape } = await dump.rows('1/mlp/post_act', 0, 8);                  // Float32Array, [8, 128, 256]
  const { rowPtr, indices, values } = await dump.rows('1/resid/delta_mlp/latents', 0, 8);

Your own text: sonde dump --help`;
