// sonde verify: checks a dump against its manifest.
import { Command } from 'commander';
import { bytesOf } from '../dump/format/manifest.js';
import { openDump } from '../dump/read/reader.js';
import { counted, showBytes } from '../files/text.js';
import { print, warnOfNonFinite } from './terminal.js';

const help = `
It reads every shard, and checks its size, SHA-256, header and shapes, whether its tokens, documents and latents make
sense, and how many values are NaN or infinite: the manifest must have counted them. It says these counts, and names
every unfinished or unlisted file in the dump's folder. It changes nothing. The exit code is 1 when something is wrong.

Example:
  $ sonde verify my-dump`;

export const verifyCommand = (): Command =>
  new Command('verify')
    .description('check every file of a dump')
    .argument('<dump>', 'the folder of a dump, or az://account/container/prefix')
    .addHelpText('after', help)
    .action(verify);

async function verify(folder: string): Promise<void> {
  await using dump = await openDump(folder);
  const problems = await dump.verify();
  for (const { file, problem } of problems) print(`${file}: ${problem}`);
  if (problems.length > 0) {
    const count = problems.length === 1 ? '1 problem was' : `${problems.length} problems were`;
    throw new Error(`${folder}: ${count} found`);
  }
  const bytes = bytesOf(dump.shards);
  const files = `${counted(dump.shards.length, 'shard')}, ${showBytes(bytes)}`;
  print(`${folder}: ${files}: every file is as the manifest says`);
  warnOfNonFinite(dump.nonFinite, dump.shards.length);
  if (!dump.manifest.complete) print('The dump is not complete: the same command goes on.');
}
