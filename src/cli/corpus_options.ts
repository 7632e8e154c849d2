// The options that say which text is read, and how it is cut into rows and shards.
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { CorpusFile } from '../dump/corpus/corpus.js';
import { type TokenDType, tokenDTypes } from '../dump/corpus/token_layout.js';
import { collected, integer, oneOf } from './common_options.js';
import { UsageError } from './failure.js';

export interface CorpusOptions {
  text?: string[];
  jsonl?: string[];
  tokens?: string[];
  filesFrom?: string[];
  tokenDtype?: TokenDType;
  asIs?: boolean;
}

export const addCorpusOptions = (command: Command): Command =>
  command
    .option('--text <file...>', 'text files (UTF-8); <|endoftext|> ends a document', collected)
    .option('--jsonl <file...>', 'files of JSON lines with a "text" each; - for standard input', collected)
    .option(
      '--tokens <file...>',
      "files of tokens: two bytes each, little-endian, or one of numpy.save's or llm.c's; - for standard input",
      collected,
    )
    .option(
      '--files-from <list...>',
      'files whose paths are the lines of this one: .txt, .jsonl, .bin and .npy; for more than fit on a command line',
      collected,
    )
    .option('--token-dtype <dtype>', `of tokens without a header: ${tokenDTypes.join(', ')}`, oneOf(...tokenDTypes))
    .option('--as-is', 'take files for what you say they are, whatever they look like, such as JSON for text');

export const addRowOptions = (command: Command): Command =>
  command
    .option('--context <n>', 'tokens per row (default: 128)', integer(1))
    .option('--shard-tokens <n>', 'tokens per file (default: 1048576)', integer(1))
    .option('--limit <tokens>', 'stop after this many tokens of the text', integer(1));

/** The files of a corpus. `source` is the command's argument, if it has one. */
export function corpusOf(
  command: string,
  { text = [], jsonl = [], tokens = [], filesFrom = [], tokenDtype, asIs }: CorpusOptions,
  source?: string,
): CorpusFile[] {
  if (source !== undefined && source !== '-') {
    throw new UsageError(
      `${command} takes files with --text, --jsonl or --tokens, and - for standard input; what is '${source}'?`,
    );
  }
  if (tokenDtype !== undefined && tokens.length === 0) throw new UsageError('--token-dtype is for --tokens');
  const look = asIs ? { asIs } : {};
  const width = tokenDtype === undefined ? {} : { dtype: tokenDtype };
  const files: CorpusFile[] = [
    ...text.map((path): CorpusFile => ({ path, kind: 'text', ...look })),
    ...jsonl.map((path): CorpusFile => ({ path, kind: 'jsonl', ...look })),
    ...tokens.map((path): CorpusFile => ({ path, kind: 'tokens', ...width, ...look })),
    ...filesFrom.flatMap(pathsIn),
    ...(source === '-' ? [{ path: source, kind: 'text', ...look } as const] : []),
  ];
  if (files.length > 0) return files;
  throw new UsageError(
    `${command} needs a text: --text FILE, --jsonl FILE, --tokens FILE, --files-from LIST, or - for standard input`,
  );
}

/** The paths in a list, one on each line. */
function pathsIn(list: string): string[] {
  let content: string;
  try {
    content = readFileSync(list, 'utf8');
  } catch (cause) {
    throw new UsageError(`--files-from ${list}: ${(cause as Error).message}`, { cause });
  }
  const paths = content.split('\n').map((line) => line.replace(/\r$/, ''));
  const named = paths.filter((path) => path !== '');
  const invalid = named.findIndex((path) => path === '-' || path.includes('\0'));
  if (named.length > 0 && invalid < 0) return named;
  const what =
    named.length === 0 ? 'it names no file' : `line ${paths.indexOf(named[invalid] as string) + 1} is no path`;
  throw new UsageError(`--files-from ${list}: ${what}: one path is expected on each line`);
}
