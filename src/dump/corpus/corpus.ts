// The corpus of a dump: files, standard input or the caller's own documents, streamed as tokens. Memory stays bounded
// for a corpus of any size.
//
// One rule holds for all of them: a document is the part of a text or token file up to and including an <|endoftext|>
// (or the file's end), a line of a .jsonl file, or an item of an iterable. Documents are numbered in that order, empty
// ones included.
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import { Readable } from 'node:stream';
import { checkOptions, describe, type OptionNames, wrong } from '../../engine/check.js';
import { isBlobUrl } from '../../files/blob/blob_address.js';
import {
  formatByName,
  type Head,
  headBytes,
  headOf,
  jsonLinesProblem,
  nulProblem,
  textProblem,
  withHead,
} from './content.js';
import { parseJson } from './json_start.js';
import { endOfText, TextCutter } from './text_chunks.js';
import { readTokens } from './token_file.js';
import {
  looked,
  type TokenDType,
  type TokenHints,
  type TokenLayout,
  tokenDTypes,
  tokenLayout,
} from './token_layout.js';

export type CorpusKind = 'text' | 'jsonl' | 'tokens';

/**
 * A path whose extension gives the kind (.txt, .jsonl, .bin, .npy), or a path with its kind. `-` is standard input,
 * with text unless its kind is given.
 */
export type CorpusFile = string | CorpusFileOptions;

export interface CorpusFileOptions {
  path: string;
  kind: CorpusKind;
  /**
   * The form of tokens that have no header: little-endian uint16, int32, uint32 or int64. When it is left out, they are
   * taken for uint16, unless every other one is 0.
   */
  dtype?: TokenDType;
  /**
   * Takes the file for what `kind` says, whatever it looks like: JSON for text, binary data for text, and text or a
   * header for tokens. Otherwise such files are refused.
   */
  asIs?: boolean;
}

const fileNames: OptionNames<CorpusFileOptions> = { path: true, kind: true, dtype: true, asIs: true };

/** Files, or documents: text or tokens each. `process.stdin` stands for text on standard input. */
export type Corpus = CorpusFile | CorpusFile[] | AsyncIterable<string | number[]>;

/** The description of a source in the manifest, which distinguishes one corpus from another. */
export interface SourceDescription {
  readonly kind: CorpusKind | 'standard input' | 'iterable';
  readonly name?: string;
  readonly bytes?: number;
  /** The form of the tokens, where it is not uint16. */
  readonly dtype?: Exclude<TokenDType, 'uint16'>;
}

export interface Source extends SourceDescription {
  readonly path?: string;
  /** Where the tokens of a file lie; found out as soon as they are read on standard input. */
  readonly layout?: TokenLayout;
  readonly hints?: TokenHints;
  readonly documents?: AsyncIterable<string | number[]>;
}

/** Some tokens of a document. `ends` is true for the last chunk of a document, which may be empty. */
export interface TokenChunk {
  readonly tokens: ArrayLike<number>;
  readonly ends: boolean;
}

/** The tokenizer of the model, the size of its vocabulary, and a callback for the progress. */
export interface ReadOptions {
  readonly encode: (text: string) => number[];
  readonly nVocab: number;
  readonly onBytes?: (bytes: number) => void;
  readonly signal?: AbortSignal | undefined;
}

const kinds: Record<string, CorpusKind> = { '.txt': 'text', '.jsonl': 'jsonl', '.bin': 'tokens', '.npy': 'tokens' };
const allKinds: readonly CorpusKind[] = ['text', 'jsonl', 'tokens'];
const longestLine = 2 ** 26;

/**
 * Checks every file, so that a wrong path, size or kind is found at the start and not after hours. Reads the beginnings
 * of files, and nothing of standard input. `operation` is the function that the corpus was given to.
 */
export async function openCorpus(corpus: Corpus, operation = 'dump'): Promise<Source[]> {
  if (corpus === process.stdin) return [{ kind: 'standard input' }];
  if (isAsyncIterable(corpus)) {
    if (corpus instanceof Readable && !corpus.readableObjectMode) {
      throw new TypeError(
        'dump: corpus is a stream of bytes or of pieces of text, which are no documents: give the path of a file',
      );
    }
    return [{ kind: 'iterable', documents: corpus }];
  }
  const files = Array.isArray(corpus) ? Array.from(corpus) : [corpus]; // a hole is undefined
  if (files.length === 0) throw new RangeError('dump: corpus must name one file at least, but is an empty list');
  const checked = files.map((file, i) => checkedFile(operation, file, i));
  const sources = await Promise.all(checked.map(openFile));
  if (sources.filter(({ path }) => path === undefined).length > 1) {
    throw new RangeError("dump: corpus names standard input ('-') twice, but it can be read only once");
  }
  return sources;
}

const isAsyncIterable = (corpus: Corpus | CorpusFile): corpus is AsyncIterable<string | number[]> =>
  typeof corpus === 'object' && corpus !== null && Symbol.asyncIterator in corpus;

/**
 * A file of a corpus with its kind, checked as far as that is possible without looking at the file.
 * @throws TypeError or RangeError for what is none.
 */
export function checkedFile(operation: string, file: CorpusFile, i: number): CorpusFileOptions {
  const name = `corpus[${i}]`;
  if (file === '-') return { path: file, kind: 'text' };
  if (typeof file !== 'string') {
    if (typeof file !== 'object' || file === null) {
      throw new TypeError(
        `dump: corpus must be file paths, { path, kind } or an AsyncIterable of text or tokens, but has ${describe(file)}`,
      );
    }
    if (isAsyncIterable(file)) {
      const cure =
        (file as unknown) === process.stdin ? "'-' is standard input" : 'documents are given alone, in no list';
      throw new TypeError(`${wrong('dump', name, 'a path or { path, kind }', describeItem(file))}: ${cure}`);
    }
    checkOptions(operation, file, fileNames, name);
  }
  const given: Partial<CorpusFileOptions> =
    typeof file === 'string' ? { path: file, ...kindOf(file) } : (file as CorpusFileOptions);
  const { path, kind, dtype, asIs } = given;
  if (typeof path !== 'string' || path === '') {
    throw new TypeError(wrong('dump', typeof file === 'string' ? name : `${name}.path`, 'a path', describe(path)));
  }
  const { kind: inner = 'text' } = kindOf(path.slice(0, path.length - extname(path).length));
  const format = kind === undefined ? formatByName(path, inner) : undefined;
  if (format !== undefined) {
    throw new RangeError(`dump: ${path}: ${format}; if it is no such file, give it as { path, kind }`);
  }
  if (kind === undefined || !allKinds.includes(kind)) {
    throw new RangeError(
      `dump: ${path}: the kind of file is not clear from its name (.txt, .jsonl, .bin or .npy); ` +
        "give it as { path, kind: 'text', 'jsonl' or 'tokens' }",
    );
  }
  if (dtype !== undefined && (kind !== 'tokens' || !tokenDTypes.includes(dtype))) {
    const expected = kind === 'tokens' ? tokenDTypes.join(', ') : `left out for ${kind}`;
    throw new RangeError(wrong('dump', `${name}.dtype`, expected, describe(dtype)));
  }
  if (asIs !== undefined && typeof asIs !== 'boolean') {
    throw new TypeError(wrong('dump', `${name}.asIs`, 'true or false', describe(asIs)));
  }
  return { path, kind, ...(dtype !== undefined && { dtype }), ...(asIs !== undefined && { asIs }) };
}

const kindOf = (path: string): { kind?: CorpusKind } => {
  const kind = kinds[extname(path).toLowerCase()];
  return kind === undefined ? {} : { kind };
};

async function openFile({ path, kind, ...hints }: CorpusFileOptions): Promise<Source> {
  if (path === '-') {
    const input = kind === 'text' ? ({ kind: 'standard input' } as const) : { kind, name: standardInput };
    return { ...input, ...wide(hints.dtype), hints };
  }
  const { bytes, head } = await beginningOf(path);
  const found = { path, name: basename(path), bytes, hints };
  if (kind === 'tokens') {
    const layout = looked(path, () => tokenLayout(head, hints, bytes));
    return { kind, ...found, ...wide(layout.dtype), layout };
  }
  if (!hints.asIs) looked(path, () => checkText(kind, head));
  return { kind, ...found };
}

const standardInput = 'standard input';

const wide = (dtype: TokenDType | undefined): Pick<SourceDescription, 'dtype'> =>
  dtype === undefined || dtype === 'uint16' ? {} : { dtype };

/** @throws Error that says why a file, by its beginning, is not text or JSON lines. */
function checkText(kind: Exclude<CorpusKind, 'tokens'>, head: Head): void {
  const problem = kind === 'jsonl' ? jsonLinesProblem(head) : textProblem(head);
  if (problem !== undefined) throw new Error(problem);
}

/** The size and the first bytes of a file. */
async function beginningOf(path: string): Promise<{ bytes: number; head: Head }> {
  try {
    if (isBlobUrl(path))
      throw new Error('it is an address, and a corpus lies on a disk, or comes on standard input (-)');
    const { size, isFile } = await stat(path).then((s) => ({ size: s.size, isFile: s.isFile() }));
    if (!isFile) throw new Error('it is not a file (a stream can be given on standard input, -)');
    await using handle = await open(path); // a file may exist and not be readable
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.min(Math.max(1, size), headBytes)), 0, null, 0);
    return { bytes: size, head: { bytes: buffer.subarray(0, bytesRead), isWhole: bytesRead === size } };
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? 'there is no such file' : message;
    throw new Error(`dump: corpus file ${path}: ${why}`, { cause });
  }
}

export const describeSource = ({ kind, name, bytes, dtype }: Source): SourceDescription => ({
  kind,
  ...(name !== undefined && { name }),
  ...(bytes !== undefined && { bytes }),
  ...(dtype !== undefined && { dtype }),
});

/** Bytes of all sources; undefined when the size of one is not known. */
export function corpusBytes(sources: readonly Source[]): number | undefined {
  return sources.every(({ bytes }) => bytes !== undefined)
    ? sources.reduce((sum, source) => sum + (source.bytes as number), 0)
    : undefined;
}

/** The tokens of all documents, in order. */
export async function* readCorpus(sources: readonly Source[], options: ReadOptions): AsyncGenerator<TokenChunk> {
  const read = { text: readText, jsonl: readJsonLines, tokens: readTokenSource, 'standard input': readText };
  for (const source of sources) {
    if (source.kind === 'iterable') yield* readItems(source.documents as AsyncIterable<unknown>, options);
    else yield* read[source.kind](source, options);
  }
}

const readTokenSource = (source: Source, options: ReadOptions): AsyncGenerator<TokenChunk> =>
  readTokens(chunksOf(source, options), { ...source, origin: nameOf(source) }, options);

const nameOf = (source: Source): string => source.path ?? standardInput;

async function* readText(source: Source, options: ReadOptions): AsyncGenerator<TokenChunk> {
  const origin = nameOf(source);
  const encode = checkedEncode(origin, options);
  const cutter = new TextCutter(origin);
  let isOpen = false;
  for await (const text of decoded(source, options)) {
    for (const chunk of cutter.add(text)) {
      const tokens = encode(chunk.text);
      yield { tokens: chunk.ended ? tokens.concat(encode(endOfText)) : tokens, ends: chunk.ended };
      isOpen = !chunk.ended;
    }
  }
  for (const chunk of cutter.end()) {
    yield { tokens: encode(chunk.text), ends: false };
    isOpen = true;
  }
  if (isOpen) yield { tokens: [], ends: true };
}

async function* readJsonLines(source: Source, options: ReadOptions): AsyncGenerator<TokenChunk> {
  let line = 0;
  for await (const text of linesOf(source, options)) {
    line++;
    if (text.trim() === '') continue;
    const origin = `${nameOf(source)}, line ${line}`;
    yield* encodeDocument(textField(origin, text), origin, options);
  }
}

function textField(origin: string, line: string): string {
  let value: unknown;
  try {
    value = parseJson(line);
  } catch (cause) {
    throw new Error(`${origin}: is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  const text = (value as { text?: unknown } | null)?.text;
  if (typeof text === 'string') return text;
  throw new Error(`${origin}: must be an object with a string named "text", but that is ${typeof text}`);
}

async function* linesOf(source: Source, options: ReadOptions): AsyncGenerator<string> {
  let held: string[] = [];
  let length = 0;
  for await (const chunk of decoded(source, options)) {
    const [first, ...rest] = chunk.split('\n') as [string, ...string[]];
    held.push(first);
    length += first.length;
    if (length > longestLine) throw new Error(`${nameOf(source)}: a line is longer than ${longestLine} characters`);
    if (rest.length === 0) continue;
    yield held.join('');
    yield* rest.slice(0, -1);
    held = [rest.at(-1) as string];
    length = held[0]?.length ?? 0;
  }
  yield held.join('');
}

async function* readItems(documents: AsyncIterable<unknown>, options: ReadOptions): AsyncGenerator<TokenChunk> {
  let item = 0;
  for await (const [document] of checkedItems(documents)) {
    const origin = `corpus, item ${item++}`;
    if (typeof document === 'string') yield* encodeDocument(document, origin, options);
    else yield { tokens: checkTokens(document, origin, options.nVocab), ends: true };
  }
}

/**
 * The items, of an iterable that must keep to the protocol: what it returns is the caller's. Each one comes in an array,
 * since `yield` would await a promise, which is no document.
 */
async function* checkedItems(documents: AsyncIterable<unknown>): AsyncGenerator<[unknown]> {
  const returned = (method: string, expected: string, value: unknown) =>
    new TypeError(`corpus: ${method} of the iterable must return ${expected}, but returned ${describeItem(value)}`);
  const made: unknown = documents[Symbol.asyncIterator]();
  const iterator = made as AsyncIterator<unknown>;
  if (typeof iterator?.next !== 'function') throw returned('[Symbol.asyncIterator]()', 'an iterator', made);
  let isOpen = false;
  try {
    for (;;) {
      isOpen = false;
      const result = await iterator.next();
      if (typeof result !== 'object' || result === null) throw returned('next()', '{ value, done }', result);
      if (result.done) return;
      isOpen = true;
      yield [result.value];
    }
  } finally {
    if (isOpen) await iterator.return?.();
  }
}

function checkTokens(document: unknown, origin: string, nVocab: number): readonly number[] {
  if (!Array.isArray(document)) {
    throw new TypeError(`${origin}: must be a string or an array of tokens, but is ${describeItem(document)}`);
  }
  const invalid = document.findIndex((token) => !(Number.isInteger(token) && token >= 0 && token < nVocab));
  if (invalid < 0) return document;
  throw new RangeError(
    `${origin}, token ${invalid}: must be an integer from 0 to ${nVocab - 1}, but is ${describe(document[invalid])}`,
  );
}

// Generators have no constructor with a name.
const describeItem = (item: unknown): string =>
  item !== null && typeof item === 'object'
    ? `a ${item.constructor?.name || Object.prototype.toString.call(item).slice('[object '.length, -1)}`
    : describe(item);

function* encodeDocument(text: string, origin: string, options: ReadOptions): Generator<TokenChunk> {
  const encode = checkedEncode(origin, options);
  const cutter = new TextCutter(origin);
  for (const chunks of [cutter.add(text), cutter.end()]) {
    for (const chunk of chunks) {
      const tokens = encode(chunk.text);
      yield { tokens: chunk.ended ? tokens.concat(encode(endOfText)) : tokens, ends: false };
    }
  }
  yield { tokens: [], ends: true };
}

function encoded(origin: string, encode: ReadOptions['encode'], text: string): number[] {
  let tokens: unknown;
  try {
    tokens = encode(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : `encode of the tokenizer threw ${describeItem(cause)}`;
    throw new Error(`${origin}: ${why}`, { cause });
  }
  if (ArrayBuffer.isView(tokens) && !(tokens instanceof DataView)) return Array.from(tokens as Int32Array);
  if (Array.isArray(tokens)) return tokens;
  if (tokens instanceof Promise) tokens.catch(() => {}); // nobody waits for it
  throw new TypeError(
    `${origin}: encode of the tokenizer must return an array of tokens, but returned ${describeItem(tokens)}`,
  );
}

// Checks the tokens: small models have fewer than the tokenizer.
function checkedEncode(origin: string, { encode, nVocab }: ReadOptions): (text: string) => number[] {
  return (text) => {
    const tokens = encoded(origin, encode, text);
    for (const token of tokens) {
      if (Number.isInteger(token) && token >= 0 && token < nVocab) continue;
      if (!(Number.isInteger(token) && token >= 0)) {
        const what = 'encode of the tokenizer must return integers of 0 or more';
        throw new RangeError(`${origin}: ${what}, but returned ${describe(token)}`);
      }
      throw new RangeError(`${origin}: the text has token ${token}, but the model's tokens end at ${nVocab - 1}`);
    }
    return tokens;
  };
}

/** The text of a source, decoded as UTF-8; a byte order mark at the start is dropped. */
async function* decoded(source: Source, options: ReadOptions): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let offset = 0;
  let before: Buffer = Buffer.alloc(0); // bytes that the decoder may still hold: a character has at most four
  for await (const chunk of chunksOf(source, options)) {
    if (!source.hints?.asIs) {
      if (offset === 0) checkInput(source, chunk);
      const nul = chunk.indexOf(0);
      if (nul >= 0) throw new Error(`${nameOf(source)}: ${nulProblem(offset + nul)}`);
    }
    try {
      yield decoder.decode(chunk, { stream: true });
    } catch (cause) {
      throw invalidText(source, Buffer.concat([before, chunk]), offset - before.length, cause);
    }
    offset += chunk.length;
    before = chunk.subarray(-3);
  }
  try {
    yield decoder.decode();
  } catch (cause) {
    throw new Error(`${nameOf(source)}, byte ${offset}: not valid UTF-8: the text ends inside a character`, { cause });
  }
}

// Decodes byte by byte to find the offset of the invalid byte.
function invalidText(source: Source, bytes: Buffer, offset: number, cause: unknown): Error {
  const start = bytes.findIndex((byte) => (byte & 0xc0) !== 0x80);
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let at = Math.max(start, 0);
  try {
    for (; at < bytes.length; at++) decoder.decode(bytes.subarray(at, at + 1), { stream: true });
  } catch {
    const byte = (bytes[at] as number).toString(16).padStart(2, '0');
    return new Error(`${nameOf(source)}, byte ${offset + at}: not valid UTF-8 (0x${byte})`, { cause });
  }
  return new Error(`${nameOf(source)}, near byte ${offset}: not valid UTF-8`, { cause });
}

/** Files were looked at when they were opened. */
function checkInput({ path, kind }: Source, chunk: Buffer): void {
  if (path !== undefined) return;
  looked(standardInput, () => checkText(kind === 'jsonl' ? kind : 'text', headOf(chunk)));
}

/** The bytes of a source. On standard input, the first chunk shows what is in it. */
const chunksOf = (source: Source, options: ReadOptions): AsyncIterable<Buffer> =>
  source.path === undefined ? withHead(streamOf(source, options)) : streamOf(source, options);

async function* streamOf(source: Source, { onBytes, signal }: ReadOptions): AsyncGenerator<Buffer> {
  signal?.throwIfAborted(); // once it is read, standard input keeps the process alive
  const stream: Readable = source.path === undefined ? process.stdin : createReadStream(source.path);
  const stop = () => stream.destroy();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      onBytes?.(chunk.length);
      yield chunk;
    }
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    const { code, message } = cause as NodeJS.ErrnoException;
    throw code === undefined ? cause : new Error(`dump: cannot read ${nameOf(source)}: ${message}`, { cause });
  } finally {
    signal?.removeEventListener('abort', stop);
    stream.destroy();
  }
}
