#!/usr/bin/env node
// The `sonde` command. Each of its subcommands is a file of this folder, which reads options, calls the library, and
// prints.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { packageRoot } from '../engine/native.js';
import { attributeCommand } from './attribute.js';
import { benchCommand } from './bench.js';
import { cacheCommand } from './cache.js';
import { collateCommand } from './collate.js';
import { demoCommand } from './demo.js';
import { devicesCommand } from './devices.js';
import { dumpCommand } from './dump.js';
import { encodeCommand } from './encode.js';
import { reportFailure } from './failure.js';
import { fetchCommand } from './fetch.js';
import { indexCommand } from './index_corpus.js';
import { inspectCommand } from './inspect.js';
import { mergeCommand } from './merge.js';
import { queueCommand } from './queue.js';
import { reportCommand } from './report.js';
import { sampleCommand } from './sample.js';
import { verifyCommand } from './verify.js';

const { version, description } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'));

const program = new Command('sonde')
  .description(description)
  .version(version)
  .helpCommand(false)
  .addHelpText(
    'after',
    `
Start here:
  $ sonde demo                             dump the demo model's activations, and look at them
  $ sonde sample "Once there was"          let the demo model write
  $ sonde encode "Kate found a red ball"   what its autoencoders see in each word
  $ sonde attribute "Kate found a red" --target " ball"   the neurons and heads that a word is due to
  $ sonde dump --help                      activations of your own text, with examples
  $ sonde fetch --help                     the published GPT-2 models and their autoencoders

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. SONDE_DEBUG=1 shows where an error came from.`,
  );

for (const command of [
  demoCommand,
  dumpCommand,
  indexCommand,
  inspectCommand,
  verifyCommand,
  mergeCommand,
  queueCommand,
  reportCommand,
  collateCommand,
  sampleCommand,
  encodeCommand,
  attributeCommand,
  fetchCommand,
  cacheCommand,
  devicesCommand,
  benchCommand,
]) {
  program.addCommand(command());
}
for (const command of [program, ...program.commands, ...program.commands.flatMap(({ commands }) => commands)]) {
  command.exitOverride().configureOutput({
    outputError: (text, write) => write(text.replace(/^error: /, 'sonde: ')),
  });
  command.showHelpAfterError('Try --help for examples.');
}

// A reader that has seen enough, such as `head`, closes the pipe.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = reportFailure(error);
}
