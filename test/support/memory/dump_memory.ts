// The peak memory of a process that dumps a corpus of so many tokens: each dump is made by a process of its own.
import { execFileSync } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import { dump } from '../../../src/dump/run.js';
import { openDevice } from '../../../src/engine/device.js';
import { activations } from '../../../src/index.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { ownMemory } from '../machine.js';
import { random } from '../random.js';

export interface DumpMemory {
  /** The peak of resident memory, in bytes. */
  readonly peak: number;
  readonly seconds: number;
}

const self = fileURLToPath(import.meta.url);
const mark = 50_256;

export interface DumpMemoryOptions {
  readonly model: string;
  readonly layer: number;
  readonly tokens: number;
  readonly latents: number;
  readonly shardTokens: number;
  /** For the corpus and the dump. */
  readonly folder: string;
  /** Collect garbage after each batch, so that only used memory counts. */
  readonly collect?: boolean;
}

/** Dumps an MLP's update and its latents, with documents of 1 to 400 tokens. For Linux, which reports the peak. */
export function measureDump(options: DumpMemoryOptions): DumpMemory {
  const flags = options.collect ? ['--expose-gc'] : [];
  const output = execFileSync(process.execPath, [...flags, self, 'dump', JSON.stringify(options)], {
    encoding: 'utf8',
  });
  return JSON.parse(output);
}

async function writeCorpus(path: string, tokens: number): Promise<void> {
  const rng = random(tokens);
  await using file = await open(path, 'w');
  for (let left = tokens; left > 0; ) {
    const length = Math.min(left, rng.integer(1, 401));
    const document = Uint16Array.from({ length }, (_, i) => (i === length - 1 ? mark : rng.integer(0, mark)));
    await file.write(document);
    left -= length;
  }
}

const [, , what, argument = ''] = process.argv;
if (process.argv[1] === self && what === 'dump') {
  const { model: name, layer, tokens, latents, shardTokens, folder } = JSON.parse(argument) as DumpMemoryOptions;
  const corpus = join(folder, `${tokens}.bin`);
  await writeCorpus(corpus, tokens);
  const device = openDevice('cpu');
  using model = await Transformer.load(name, { device });
  using ae = new Autoencoder({
    nLatents: latents,
    nInputs: model.config.dModel,
    activation: activations.topK(16),
    device,
  });
  const delta = `${layer}/resid/delta_mlp`;
  const start = performance.now();
  await dump({
    model,
    corpus,
    locations: [delta, `${delta} -> ae`],
    autoencoders: { ae },
    out: join(folder, String(tokens)),
    shardTokens,
    onProgress: () => globalThis.gc?.(),
  });
  console.log(JSON.stringify({ peak: ownMemory('VmHWM'), seconds: (performance.now() - start) / 1000 }));
}
