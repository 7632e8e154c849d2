// sonde merge: makes one dump of parts that several machines have made.
import { Command } from 'commander';
import { mergeDumps } from '../dump/shards/merge.js';
import { counted } from '../files/text.js';
import { print, warnOfNonFinite } from './terminal.js';

const help = `
The manifest of the whole replaces those of the parts; it is, byte for byte, that of one process. No data is
copied: shards of other folders get a second name in the first one, so they must be on the same disk. In object storage
all parts must lie under one prefix.

Examples:
  Four machines wrote to one folder, each with --shard I/4:
    $ sonde merge dump
  Each wrote to a folder of its own:
    $ sonde merge dump part-0 part-1 part-2 part-3
Next: sonde verify checks every file.`;

export const mergeCommand = (): Command =>
  new Command('merge')
    .description('make one dump of parts (dump --shard)')
    .argument('<dump>', 'the folder of the whole, with parts in it, or new; or az://account/container/prefix')
    .argument('[parts...]', 'more folders with parts')
    .addHelpText('after', help)
    .option('--any-arithmetic', 'merge parts that were made with different arithmetics (sonde devices)')
    .action(async (out: string, parts: string[], options: { anyArithmetic?: boolean }) => {
      const { rows, tokens, shards, nonFinite } = await mergeDumps(out, parts, options);
      print(`${out}: ${rows} rows, ${tokens} tokens in ${counted(shards, 'shard')}`);
      warnOfNonFinite(nonFinite, shards);
    });
