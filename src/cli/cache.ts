// sonde cache: lists, checks or removes what has been fetched from the network.
import { Command } from 'commander';
import { type CachedBlob, clearCache, listCache, verifyCache } from '../files/blob/blob_cache.js';
import { counted, showBytes } from '../files/text.js';
import { UsageError } from './failure.js';
import { print } from './terminal.js';

const help = `
Examples:
  $ sonde cache                              what there is, and where
  $ sonde cache --verify                     compute every checksum; exit code 1 when a file has changed
  $ sonde cache --clear                      remove everything, unfinished downloads included
  $ sonde cache --clear sparse-autoencoder   remove what has this word in its address
SONDE_CACHE moves the cache. Next: sonde fetch --help`;

interface CacheOptions {
  clear?: string | true;
  verify?: boolean;
}

export const cacheCommand = (): Command =>
  new Command('cache')
    .description('list, check or clear the files that were fetched from the network')
    .option('--clear [word]', 'remove the files, or those that have this word in their address')
    .option('--verify', 'compute the checksums of the files')
    .addHelpText('after', help)
    .action(async ({ clear, verify }: CacheOptions) => {
      if (clear === '')
        throw new UsageError('--clear: an empty word is in every address; --clear alone removes all files');
      if (clear !== undefined && verify) throw new UsageError('--clear and --verify exclude each other');
      if (clear !== undefined) return runClear(clear);
      if (verify) return runVerify();
      const { folder, blobs, unfinishedBytes } = await listCache();
      for (const blob of blobs) print(`${showBytes(blob.size).padStart(9)}  ${blob.name}`);
      print(`${folder}: ${total(blobs)}`);
      if (unfinishedBytes > 0) print(`and ${showBytes(unfinishedBytes)} of downloads that were not finished`);
    });

async function runClear(clear: string | true): Promise<void> {
  const { folder, blobs, unfinishedBytes } = await clearCache((name) => clear === true || name.includes(clear));
  const rest = unfinishedBytes > 0 ? `, and ${showBytes(unfinishedBytes)} of unfinished downloads` : '';
  print(`${folder}: removed ${total(blobs)}${rest}`);
}

async function runVerify(): Promise<void> {
  const { good, broken } = await verifyCache();
  for (const name of broken) print(`has changed: ${name}`);
  if (broken.length > 0)
    throw new Error(`${broken.length} files of the cache have changed; the next use fetches them again`);
  print(`${total(good)}: all are as they were fetched`);
}

const total = (blobs: readonly CachedBlob[]): string => {
  const bytes = blobs.reduce((sum, { size }) => sum + size, 0);
  return `${counted(blobs.length, 'file')}, ${showBytes(bytes)}`;
};
