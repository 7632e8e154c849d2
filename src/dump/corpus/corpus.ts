// The corpus of a dump: files, standard input or the caller's own documents, streamed as tokens. Memory stays bounded
// for a corpus of any size.
//
// One rule holds for all of them: a document is the part of a text or token file up to and including an <|endoftext|>
// (or the file's end), a line of a .jsonl file, or an item of an iterable. Documents are numbered in that order, empty
// ones included.
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import type { Readable } from 'node:stream';
import { endOfText, TextCutter } from './text_chunks.js';

export type CorpusKind = 'text' | 'jsonl' | 'tokens';

/**
 * A path whose extension gives the kind (.txt, .jsonl, .bin), a path with its kind, or `-` for text on standard input.
 */
export type CorpusFile = string | { path: string; kind: CorpusKind };

/** Files, or documents: text or tokens each. `process.stdin` stands for text on standard input. */
export type Corpus = CorpusFile | CorpusFile[] | AsyncIterable<string | number[]>;

/** The description of a source in the manifest, which distinguishes one corpus from another. */
export interface SourceDescription {
  readonly kind: CorpusKind | 'standard input' | 'iterable';
  readonly name?: string;
  readonly bytes?: number;
}

export interface Source extends SourceDescription {
  readonly path?: string;
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

const kinds: Record<string, CorpusKind> = { '.txt': 'text', '.jsonl': 'jsonl', '.bin': 'tokens' };
const longestLine = 2 ** 26;

/** Checks every file, so that a wrong path or size is found at the start and not after hours. Reads nothing yet. */
export async function openCorpus(corpus: Corpus): Promise<Source[]> {
  if (corpus === process.stdin) return [{ kind: 'standard input' }];
  if (isAsyncIterable(corpus)) return [{ kind: 'iterable', documents: corpus }];
  const files = Array.isArray(corpus) ? corpus : [corpus];
  if (files.length === 0) throw new RangeError('dump: corpus must name one file at least, but is an empty list');
  const sources = await Promise.all(files.map(openFile));
  if (sources.filter(({ kind }) => kind === 'standard input').length > 1) {
    throw new RangeError("dump: corpus names standard input ('-') twice, but it can be read only once");
  }
  return sources;
}

const isAsyncIterable = (corpus: Corpus): corpus is AsyncIterable<string | number[]> =>
  typeof corpus === 'object' && corpus !== null && Symbol.asyncIterator in corpus;

async function openFile(file: CorpusFile): Promise<Source> {
  if (file === '-') return { kind: 'standard input' };
  const path = typeof file === 'string' ? file : file?.path;
  if (typeof path !== 'string' || path === '') {
    throw new TypeError('dump: corpus must be file paths, { path, kind } or an AsyncIterable of text or tokens');
  }
  const kind = typeof file === 'string' ? kinds[extname(path).toLowerCase()] : file.kind;
  if (kind === undefined || !Object.values(kinds).includes(kind)) {
    throw new RangeError(
      `dump: ${path}: the kind of file is not clear from its name (.txt, .jsonl or .bin); ` +
        "give it as { path, kind: 'text', 'jsonl' or 'tokens' }",
    );
  }
  const bytes = await sizeOfFile(path);
  if (kind === 'tokens' && bytes % 2 !== 0) {
    throw new Error(`dump: ${path}: holds ${bytes} bytes, but tokens of two bytes each make an even number`);
  }
  return { kind, path, name: basename(path), bytes };
}

async function sizeOfFile(path: string): Promise<number> {
  try {
    const { size, isFile } = await stat(path).then((s) => ({ size: s.size, isFile: s.isFile() }));
    if (!isFile) throw new Error('it is not a file (a stream can be given on standard input, -)');
    await (await open(path)).close(); // a file may exist and not be readable
    return size;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? 'there is no such file' : message;
    throw new Error(`dump: corpus file ${path}: ${why}`, { cause });
  }
}

export const describeSource = ({ kind, name, bytes }: Source): SourceDescription => ({
  kind,
  ...(name !== undefined && { name }),
  ...(bytes !== undefined && { bytes }),
});

/** Bytes of all sources; undefined when the size of one is not known. */
export function corpusBytes(sources: readonly Source[]): number | undefined {
  return sources.every(({ bytes }) => bytes !== undefined)
    ? sources.reduce((sum, source) => sum + (source.bytes as number), 0)
    : undefined;
}

/** The tokens of all documents, in order. */
export async function* readCorpus(sources: readonly Source[], options: ReadOptions): AsyncGenerator<TokenChunk> {
  const read = { text: readText, jsonl: readJsonLines, tokens: readTokens, 'standard input': readText };
  for (const source of sources) {
    if (source.kind === 'iterable') yield* readItems(source.documents as AsyncIterable<unknown>, options);
    else yield* read[source.kind](source, options);
  }
}

const nameOf = (source: Source): string => source.path ?? 'standard input';

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
    value = JSON.parse(line);
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

async function* readTokens(source: Source, options: ReadOptions): AsyncGenerator<TokenChunk> {
  const origin = nameOf(source);
  const [mark] = options.encode(endOfText) as [number];
  let offset = 0;
  let isOpen = false;
  let half: Buffer = Buffer.alloc(0);
  for await (const chunk of chunksOf(source, options)) {
    const bytes = half.length > 0 ? Buffer.concat([half, chunk]) : chunk;
    const tokens = littleEndian16(bytes);
    checkVocabulary(tokens, options.nVocab, origin, offset);
    let from = 0;
    for (let at = tokens.indexOf(mark); at >= 0; at = tokens.indexOf(mark, from)) {
      yield { tokens: tokens.subarray(from, at + 1), ends: true };
      from = at + 1;
    }
    if (tokens.length > 0) isOpen = from < tokens.length;
    if (from < tokens.length) yield { tokens: tokens.subarray(from), ends: false };
    half = bytes.subarray(2 * tokens.length);
    offset += 2 * tokens.length;
  }
  if (half.length > 0)
    throw new Error(`${origin}, byte ${offset}: the file ends in the middle of a token of two bytes`);
  if (isOpen) yield { tokens: [], ends: true };
}

// Copies, since a Uint16Array must begin at an even address, and the memory of the bytes may be reused.
function littleEndian16(bytes: Buffer): Uint16Array {
  const tokens = new Uint16Array(bytes.length >> 1);
  new Uint8Array(tokens.buffer).set(bytes.subarray(0, 2 * tokens.length));
  return tokens;
}

function checkVocabulary(tokens: Uint16Array, nVocab: number, origin: string, offset: number): void {
  if (nVocab > 0xffff) return;
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as number;
    if (token < nVocab) continue;
    const byte = offset + 2 * at;
    throw new Error(`${origin}, byte ${byte}: token ${token} is none of the model's, which end at ${nVocab - 1}`);
  }
}

async function* readItems(documents: AsyncIterable<unknown>, options: ReadOptions): AsyncGenerator<TokenChunk> {
  let item = 0;
  for await (const document of documents) {
    const origin = `corpus, item ${item++}`;
    if (typeof document === 'string') yield* encodeDocument(document, origin, options);
    else yield { tokens: checkTokens(document, origin, options.nVocab), ends: true };
  }
}

function checkTokens(document: unknown, origin: string, nVocab: number): readonly number[] {
  if (!Array.isArray(document)) {
    throw new TypeError(`${origin}: must be a string or an array of tokens, but is ${describeItem(document)}`);
  }
  const invalid = document.findIndex((token) => !(Number.isInteger(token) && token >= 0 && token < nVocab));
  if (invalid < 0) return document;
  throw new RangeError(
    `${origin}, token ${invalid}: must be an integer from 0 to ${nVocab - 1}, but is ${document[invalid]}`,
  );
}

const describeItem = (item: unknown): string =>
  item !== null && typeof item === 'object' ? `a ${item.constructor?.name ?? 'object'}` : String(item);

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

// Checks the tokens: small models have fewer than the tokenizer.
function checkedEncode(origin: string, { encode, nVocab }: ReadOptions): (text: string) => number[] {
  return (text) => {
    const tokens = encode(text);
    for (const token of tokens) {
      if (token < nVocab) continue;
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

async function* chunksOf(source: Source, { onBytes, signal }: ReadOptions): AsyncGenerator<Buffer> {
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
