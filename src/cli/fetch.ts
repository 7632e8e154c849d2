// sonde fetch: fills the cache ahead of time, for machines that will have no network.
import { Command } from 'commander';
import { namedFiles } from '../context/named_files.js';
import { fetchBlobs } from '../files/blob/blob.js';
import { cacheFolder } from '../files/blob/blob_cache.js';
import { counted, showBytes } from '../files/text.js';
import { integer } from './common_options.js';
import { interruptible } from './failure.js';
import { fetchProgressView } from './fetch_progress.js';
import { print } from './terminal.js';

interface FetchOptions {
  layer?: number[];
  refresh?: boolean;
}

const help = `
Examples:
  $ sonde fetch gpt2-small                      a published model
  $ sonde fetch ae-resid-delta-mlp-v4           autoencoders of all layers
  $ sonde fetch ae-mlp-post-act-v4 --layer 5    of one
  $ sonde fetch https://example.com/my-model    a checkpoint in either layout
  $ sonde fetch az://account/container/x.pt     one file
What is in the cache is used without a network. Ctrl-C keeps what has come. SONDE_CACHE moves the cache; SONDE_BLOB_ENDPOINT
names a mirror of the public files. Next: sonde cache`;

export const fetchCommand = (): Command =>
  new Command('fetch')
    .description('fetch a model or autoencoders into the cache')
    .argument('<name...>', 'names of models or autoencoders, or addresses')
    .option('--layer <n>', 'only this layer of autoencoders; may be repeated', (text, before: number[] | undefined) => [
      ...(before ?? []),
      integer(0)(text),
    ])
    .option('--refresh', 'ask whether files have changed, and fetch those again')
    .addHelpText('after', help)
    .action(runFetch);

async function runFetch(names: string[], { layer, refresh = false }: FetchOptions): Promise<void> {
  await interruptible('interrupted: the same command goes on where it stopped', async (signal) => {
    const view = fetchProgressView();
    const { onProgress } = view;
    try {
      for (const name of names) {
        const addresses = await namedFiles(name, layer);
        const blobs = await fetchBlobs(addresses, { onProgress, signal, refresh });
        const bytes = blobs.reduce((sum, { size }) => sum + size, 0);
        view.stop();
        print(`${name}: ${counted(blobs.length, 'file')}, ${showBytes(bytes)} in ${cacheFolder()}`);
      }
    } finally {
      view.stop();
    }
  });
}
