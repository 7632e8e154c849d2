// sonde bench: measures how fast this machine does what sonde is for, compared with what its processor and memory
// allow.
import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { Command } from 'commander';
import { activations } from '../autoencoder/activation.js';
import { Autoencoder } from '../autoencoder/autoencoder.js';
import type { Ceilings } from '../engine/device.js';
import { floorOf } from '../engine/work.js';
import type { Transformer } from '../transformer/transformer.js';
import { type BenchCase, caseTable, filterTable, profileTable } from './bench_tables.js';
import { addModelOptions, addPrecision, integer, loadModel, type ModelOptions } from './common_options.js';
import { print } from './terminal.js';

interface BenchOptions extends ModelOptions {
  context?: number;
  batch: number;
  rounds: number;
  latents: number;
  json?: string;
  profile?: boolean;
}

const help = `
Examples:
  $ sonde bench                                  GPT-2 small of random weights: no download
  $ sonde bench --dtype bfloat16 --threads 2
  $ sonde bench --profile                        where the time of a pass goes, layer by layer
  $ sonde bench --model demo --context 64 --json bench.json
The floor is what the operations take at the ceilings measured just before: the multiply-adds of all threads, and weights
read from memory. What fits into a cache is not counted. An encoder with a filter leaves multiply-adds out, and may be
faster than its floor; --profile says how many sums it had to compute (candidates).`;

export function benchCommand(): Command {
  const command = new Command('bench').description('measure speed on this machine, beside what it allows');
  addPrecision(addModelOptions(command, 'random:gpt2-small'), '--dtype')
    .option('--context <n>', 'tokens of each row (default: 512, or what the model takes)', integer(1))
    .option('--batch <n>', 'rows at a time', integer(1), 4)
    .option('--rounds <n>', 'rounds that are timed, after one that is not', integer(1), 5)
    .option('--latents <n>', 'latents of the autoencoder, whose weights are random (32 fire)', integer(1), 32768)
    .option('--profile', 'show the time of a pass by layer and by operation, and what filters of encoders left')
    .option('--json <file>', 'write everything to a file as well');
  return command.addHelpText('after', help).action(runBench);
}

async function runBench(options: BenchOptions): Promise<void> {
  using model = await loadModel(options);
  const { device, dtype, config } = model;
  const context = Math.min(options.context ?? 512, config.ctxWindow);
  const settings = { model: model.name, dtype, context, batch: options.batch, rounds: options.rounds };
  const machine = { processor: cpus()[0]?.model ?? 'unknown', device: device.description, node: process.version };
  print(`${machine.processor}; ${machine.device}; Node ${machine.node}`);
  const ceilings = await device.ceilings();
  print(showCeilings(ceilings));
  print(`${model.name}, ${dtype}, ${options.batch} rows of ${context} tokens; medians of ${options.rounds} rounds`);
  const cases: BenchCase[] = [];
  for await (const one of measure(model, context, options, ceilings)) cases.push(one);
  for (const line of caseTable(cases)) print(line);
  if (options.profile) {
    for (const line of [...profileTable(cases[0] as BenchCase, ceilings), ...cases.flatMap(filterTable)]) print(line);
  }
  if (options.json === undefined) return;
  const date = new Date().toISOString();
  const kept = cases.map(({ entries, ...one }, i) => {
    const shown = options.profile ? entries.filter(({ filter }) => i === 0 || filter) : [];
    return shown.length > 0 ? { ...one, entries: shown } : one;
  });
  await writeFile(options.json, `${JSON.stringify({ date, machine, settings, ceilings, cases: kept }, null, 2)}\n`);
}

function showCeilings({ float32, bfloat16, bandwidth }: Ceilings): string {
  if (!(float32 > 0)) return 'ceilings: not measured on this device';
  const giga = (x: number) => (x / 1e9).toFixed(0);
  return `ceilings: float32 ${giga(float32)} GFLOP/s, bfloat16 ${giga(bfloat16)} GFLOP/s, memory ${giga(bandwidth)} GB/s`;
}

async function* measure(
  model: Transformer,
  context: number,
  { batch, rounds, latents }: BenchOptions,
  ceilings: Ceilings,
): AsyncGenerator<BenchCase> {
  const { device, config, nVocab } = model;
  const rows = Array.from({ length: batch }, (_, row) =>
    Array.from({ length: context }, (_, i) => ((row + 1) * (i + 1) * 7919) % nVocab),
  );
  const time = async (name: string, tokens: number, run: () => Promise<unknown>): Promise<BenchCase> => {
    const seconds: number[] = [];
    await run(); // not timed: the first use of new memory is slow
    await device.synchronize();
    for (let i = 0; i < rounds; i++) {
      const start = performance.now();
      await run();
      await device.synchronize();
      seconds.push((performance.now() - start) / 1000);
    }
    const entries = await device.profile(run);
    const floors = entries.map((entry) => floorOf(entry, ceilings));
    const known = floors.every((floor) => floor !== undefined);
    const floor = known ? floors.reduce<number>((sum, x) => sum + (x ?? 0), 0) : undefined;
    return { name, tokens, seconds, floor, entries };
  };
  const forward = async () => (await model.forward(rows)).logits.dispose();
  yield time('forward pass with logits', batch * context, forward);

  const location = `${Math.floor((config.nLayers - 1) / 2)}/resid/delta_mlp`;
  const alone = async () => {
    for (const tensor of (await model.activations(rows, [location])).values()) tensor.dispose();
  };
  yield time(`${location} alone`, batch * context, alone);

  const nInputs = config.dModel;
  const autoencoder = new Autoencoder({
    nLatents: latents,
    nInputs,
    device,
    dtype: model.dtype,
    activation: activations.topK(Math.min(32, latents)),
  });
  try {
    yield time(`${location} -> ${latents} latents`, batch * context, async () => {
      for (const tensor of (await model.activations(rows, [location])).values()) {
        using x = tensor;
        await autoencoder.encodeSparse(x);
      }
    });
  } finally {
    autoencoder.dispose();
  }

  const numTokens = Math.min(32, config.ctxWindow - 8);
  const prompt = (rows[0] as number[]).slice(0, 8);
  yield time('sampling, one prompt', numTokens, () => model.sample([prompt], { numTokens, seed: 1 }));
}
