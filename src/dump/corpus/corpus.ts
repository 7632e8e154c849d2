// The corpus of a dump: files, standard input or the caller's own documents, streamed as tokens. Memory stays bounded
// for a corpus of any size.
//
// One rule holds for all of them: a document is the part of a text or token file up to and including an <|endoftext|>
// (or the file's end), a line of a .jsonl file, or an item of an iterable. Documents are numbered in that order, empty
// ones included.
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import { Readable } from 'node:stream';
import pLimit from 'p-limit';
import { checkOptions, describe, type OptionNames, wrong } from '../../engine/check.js';
import { isBlobUrl } from '../../files/blob/blob_address.js';
import { TokenList } from '../../files/tokenizer/token_list.js';
import { type ByteReader, chunkReader } from './byte_reader.js';
import { formatByName, type Head, headBytes, headOf, jsonLinesProblem, textProblem, withHead } from './content.js';
import { describeItem, type Encoding, encodedChunks, encodingOf } from './encoding.js';
import { type ByteRange, OpenFiles } from './open_files.js';
import type { ChunkStart, SectionKind, SectionRequest, SectionTokens } from './section_tokens.js';
import {
  type Cutter,
  firstCut,
  lineCutter,
  type SectionOptions,
  sectionBytes,
  sectionsOf,
  textCutter,
  tokenCutter,
} from './sections.js';
import {
  looked,
  type TokenDType,
  type TokenHints,
  type TokenLayout,
  tokenBytes,
  tokenDTypes,
  tokenLayout,
} from './token_layout.js';
import { type TokenisedSection, type TokenizerThreads, tokenised } from './tokenizer_threads.js';

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

/** A place in a corpus where reading can begin. */
export interface CorpusPlace extends ChunkStart {
  /** The index of the source. */
  readonly source: number;
}

/** Some tokens of a document. `ends` is true for the last chunk of a document, which may be empty. */
export interface TokenChunk {
  /** They are there until the next chunk is asked for: their memory is used again. */
  readonly tokens: ArrayLike<number>;
  readonly ends: boolean;
  /** Where the chunk begins, if reading can begin there. */
  readonly start?: CorpusPlace;
  /** The byte of the same source before which the chunk ends, or the line of JSON that it is of. */
  readonly until?: number;
}

/** A part of a corpus. */
export interface CorpusRange {
  readonly from: CorpusPlace;
  /** The first byte that is not read, which is a place where reading can begin; the end of the corpus when left out. */
  readonly until?: Pick<CorpusPlace, 'source' | 'offset'> | undefined;
}

/** The tokenizer of the model, the size of its vocabulary, and a callback for the progress. */
export interface ReadOptions {
  readonly encode: (text: string) => number[];
  readonly nVocab: number;
  readonly onBytes?: (bytes: number) => void;
  readonly signal?: AbortSignal | undefined;
  /** Threads that text is tokenised on; without them, it is on this one. */
  readonly threads?: TokenizerThreads | undefined;
  /** Files that stay open between one reading and the next. */
  readonly files?: OpenFiles | undefined;
  /** The bytes of a file that are tokenised at a time, about. */
  readonly sectionBytes?: number;
}

const kinds: Record<string, CorpusKind> = { '.txt': 'text', '.jsonl': 'jsonl', '.bin': 'tokens', '.npy': 'tokens' };
const allKinds: readonly CorpusKind[] = ['text', 'jsonl', 'tokens'];

/** Files that are looked at at a time. */
const filesAtOnce = 16;

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
  const fewAtOnce = pLimit(filesAtOnce); // the number of files that a process may open is limited
  const sources = await Promise.all(checked.map((file) => fewAtOnce(openFile, file)));
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

export const describeSource = ({ kind, name, bytes, dtype }: SourceDescription): SourceDescription => ({
  kind,
  ...(name !== undefined && { name }),
  ...(bytes !== undefined && { bytes }),
  ...(dtype !== undefined && { dtype }),
});

/** The SHA-256 of the descriptions of all sources, in hexadecimal. */
export function corpusDigest(sources: readonly SourceDescription[]): string {
  const hash = createHash('sha256');
  for (const source of sources) hash.update(`${JSON.stringify(describeSource(source))}\n`);
  return hash.digest('hex');
}

/** Bytes of all sources; undefined when the size of one is not known. */
export function corpusBytes(sources: readonly Source[]): number | undefined {
  return sources.every(({ bytes }) => bytes !== undefined)
    ? sources.reduce((sum, source) => sum + (source.bytes as number), 0)
    : undefined;
}

/** Whether reading can begin anywhere in the corpus: it is all in files. */
export const isSeekable = (sources: readonly Source[]): boolean => sources.every(({ path }) => path !== undefined);

/**
 * The tokens of all documents, in order, or of a part of the corpus: the chunks of a section at a time, each of which is
 * used up before the next section is asked for. Many chunks are short, and waiting for each would take longer than
 * tokenising it.
 */
export async function* readCorpus(
  sources: readonly Source[],
  options: ReadOptions,
  range: CorpusRange = { from: { source: 0, offset: 0 } },
): AsyncGenerator<Iterable<TokenChunk>> {
  const open = new OpenDocument(sources, range.from);
  for await (const section of readSections(sources, options, range)) {
    const { documents } = section.request;
    if (documents) yield* readItems(documents, encodingOf(options));
    else yield chunksIn(section, open);
  }
}

/** A section of a corpus with its tokens, or documents that are no bytes. */
export type CorpusSection = TokenisedSection<LocatedSection>;

/** The sections of a corpus, or of a part of it, in order. */
export function readSections(
  sources: readonly Source[],
  options: ReadOptions,
  range: CorpusRange,
): AsyncGenerator<CorpusSection> {
  const threads = options.threads?.canEncodeAs(options.encode) ? options.threads : undefined;
  const allocate = threads && ((bytes: number) => threads.memory(bytes));
  const sections = sectionsIn(sources, { ...options, allocate }, range);
  return tokenised(sections, encodingOf(options), { threads, signal: options.signal });
}

/**
 * The tokens of a section, which is released behind the last of them. `open` has seen the sections before it.
 * @throws Error that says what is wrong in it.
 */
export function* chunksIn(section: CorpusSection, open: OpenDocument): Generator<TokenChunk> {
  const { request, result } = section;
  for (let i = 0; i < result.ends.length; i++) {
    const [begin, end] = [i === 0 ? 0 : (result.ends[i - 1] as number), result.ends[i] as number];
    const ends = result.documentEnds[i] === 1;
    const until = request.offset + (result.untils[i] as number);
    yield { tokens: result.tokens.subarray(begin, end), ends, start: startOf(request, result, i), until };
  }
  if (result.problem) throw result.problem;
  const ends = open.endsBehind(section);
  section.release?.();
  if (ends) yield { tokens: [], ends: true };
}

/** Knows whether a document is open, which ends where its source does. */
export class OpenDocument {
  #isOpen: boolean;

  /** For sections from a place on. Where a source goes on, so does a document, but each line of JSON has its own end. */
  constructor(sources: readonly Source[], { source, offset }: CorpusPlace) {
    this.#isOpen = offset > 0 && sources[source]?.kind !== 'jsonl';
  }

  /** To be called for each section in order. Returns whether a document ends behind its last chunk. */
  endsBehind({ request, result }: CorpusSection): boolean {
    const last = result.documentEnds.at(-1);
    if (last !== undefined) this.#isOpen = last === 0;
    if (!request.isLast) return false;
    const ends = this.#isOpen;
    this.#isOpen = false;
    return ends;
  }
}

function startOf({ index, offset }: LocatedSection, result: SectionTokens, i: number): CorpusPlace {
  const character = result.characters?.[i] ?? 0;
  return {
    source: index,
    offset: offset + (result.offsets[i] as number),
    ...(character > 0 && { character }),
    ...(result.lines && { lines: result.lines[i] as number }),
  };
}

/** A section of a source, or documents that are no bytes. */
export interface LocatedSection extends SectionRequest {
  /** The index of the source. */
  readonly index: number;
  readonly documents?: AsyncIterable<unknown>;
}

/** The options, and the memory that sections of text are read into. */
type SourceOptions = ReadOptions & Pick<SectionOptions, 'allocate'>;

async function* sectionsIn(
  sources: readonly Source[],
  options: SourceOptions,
  { from, until }: CorpusRange,
): AsyncGenerator<LocatedSection> {
  const last = until?.source ?? sources.length - 1;
  for (let index = from.source; index <= last; index++) {
    const source = sources[index] as Source;
    const end = until?.source === index ? until.offset : undefined;
    if (source.documents) yield { ...noSection(), index, documents: source.documents };
    else if (end !== 0)
      yield* sectionsOfSource(source, index, options, { ...(index === from.source ? from : {}), end });
  }
}

const noSection = (): SectionRequest => ({
  ...{ offset: 0, bytes: Buffer.from(new ArrayBuffer(0)), lines: 0, isLast: true },
  ...{ origin: '', source: { kind: 'text', asIs: true } },
});

async function* sectionsOfSource(
  source: Source,
  index: number,
  options: SourceOptions,
  { offset = 0, character, lines = 0, end }: Partial<ChunkStart> & { readonly end: number | undefined },
): AsyncGenerator<LocatedSection> {
  const origin = nameOf(source);
  const { reader, layout } = await opened(source, options, { from: offset, to: end });
  try {
    const goesOn = end !== undefined;
    const size = source.path === undefined ? streamSectionBytes : (options.sectionBytes ?? sectionBytes);
    const begin = Math.max(offset, layout?.offset ?? 0);
    const last = end ?? source.bytes;
    const expected = last === undefined ? undefined : Math.max(0, last - begin);
    const allocate = layout ? undefined : options.allocate; // no thread gets tokens, and gives their memory back
    const { cutter, origin: first } = cutting({ kind: source.kind, layout });
    if (source.kind === 'tokens' && !layout) return;
    const kind = sectionKind(source, layout);
    let [skipped, reached] = [character, begin];
    const cut = { offset: begin, origin: first, lines, size, goesOn, expected, allocate };
    for await (const section of sectionsOf(reader, cutter, cut)) {
      reached += section.bytes.length; // not behind the yield: a thread may have the bytes then
      checkSize(source, reached, section.isLast);
      yield { ...section, index, origin, source: kind, character: skipped };
      skipped = undefined;
    }
    if (goesOn) checkSize(source, reached, reached < end);
    else if (layout) checkCount(origin, layout, reached - first);
  } finally {
    await reader.close();
  }
}

function sectionKind({ kind, hints }: Source, layout: TokenLayout | undefined): SectionKind {
  if (layout) return { kind: 'tokens', dtype: layout.dtype };
  return { kind: kind === 'jsonl' ? 'jsonl' : 'text', asIs: hints?.asIs === true };
}

/** Opens a source at a byte, or behind its header. Where standard input is empty, it has no layout of tokens. */
async function opened(
  source: Source,
  options: ReadOptions,
  { from, to }: ByteRange,
): Promise<{ readonly reader: ByteReader; readonly layout?: TokenLayout | undefined }> {
  const { path, kind, layout, hints = {} } = source;
  if (path !== undefined) {
    const begin = Math.max(from, layout?.offset ?? 0);
    options.onBytes?.(begin - from);
    return { reader: fileReader(path, options, { from: begin, to }), layout };
  }
  const [chunks, first] = await withFirst(withHead(counted(standardInputBytes(options), options)));
  if (first) checkInput(source, first);
  const found = first && kind === 'tokens' ? looked(standardInput, () => tokenLayout(headOf(first), hints)) : undefined;
  return { reader: chunkReader(found ? without(chunks, found.offset) : chunks), layout: found };
}

/**
 * @throws Error when a file has another size than it had when it was looked at. `reached` is the number of its bytes that
 *   were read, and `isEnd` says that there are no more.
 */
function checkSize(source: Source, reached: number, isEnd: boolean): void {
  const { bytes = isEnd ? reached : Number.POSITIVE_INFINITY } = source;
  if (isEnd ? reached === bytes : reached <= bytes) return;
  throw new ChangedSize(nameOf(source), bytes, isEnd ? `ends at byte ${reached} now` : `goes on behind byte ${bytes}`);
}

/** The error of a file whose size has changed while it was read. */
export class ChangedSize extends Error {
  /** What the file does now, and what it did at the start. */
  readonly what: string;

  constructor(path: string, bytes: number, now: string) {
    const what = `${now}, but held ${bytes} bytes at the start`;
    super(`dump: ${path}: ${what}: nothing may change it during a dump`);
    this.what = what;
  }
}

/** How the bytes of a source are cut, and the byte from which sections are counted. */
function cutting({ kind, layout }: Pick<Source, 'kind'> & { readonly layout?: TokenLayout | undefined }): {
  readonly cutter: Cutter;
  readonly origin: number;
} {
  if (layout) return { cutter: tokenCutter(tokenBytes[layout.dtype]), origin: layout.offset };
  return { cutter: kind === 'jsonl' ? lineCutter : textCutter, origin: 0 };
}

/** The first multiple of a section's size at or after a byte of a file, counted as its sections are. */
export function nominalStart(source: Source, at: number, size: number): number {
  const { origin } = cutting(source);
  return origin + size * Math.ceil(Math.max(0, at - origin) / size);
}

/**
 * Where the first section begins that begins at a nominal place in a file or after it; undefined when none does. It
 * reads no more than what lies around.
 */
export async function sectionStart(source: Source, nominal: number, files: OpenFiles): Promise<number | undefined> {
  const path = nameOf(source);
  try {
    const read = (from: number, length: number) => files.bytesIn(path, { from, to: from + length });
    return await firstCut(read, cutting(source), nominal);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** Less than for files: a stream may be slow, and what has come is to become shards. */
const streamSectionBytes = 2 ** 14;

/** @throws Error when a file of tokens holds another number of them than its header says. */
function checkCount(origin: string, { dtype, count }: TokenLayout, bytes: number): void {
  const found = Math.floor(bytes / tokenBytes[dtype]);
  if (count === undefined || count === found) return;
  throw new Error(`${origin}: holds ${found} tokens, but its header says ${count}`);
}

/** The same chunks, and the first of them. */
async function withFirst(chunks: AsyncGenerator<Buffer>): Promise<[AsyncIterable<Buffer>, Buffer | undefined]> {
  const { value: first, done } = await chunks.next();
  async function* all(): AsyncGenerator<Buffer> {
    try {
      if (!done) yield first;
      yield* chunks;
    } finally {
      await chunks.return(undefined);
    }
  }
  return [all(), done ? undefined : first];
}

/** The chunks without the first so many bytes. */
async function* without(chunks: AsyncIterable<Buffer>, count: number): AsyncGenerator<Buffer> {
  let left = count;
  for await (const chunk of chunks) {
    if (left < chunk.length) yield left === 0 ? chunk : chunk.subarray(left);
    left -= Math.min(left, chunk.length);
  }
}

const nameOf = (source: Source): string => source.path ?? standardInput;

async function* readItems(documents: AsyncIterable<unknown>, encoding: Encoding): AsyncGenerator<Iterable<TokenChunk>> {
  let item = 0;
  for await (const [document] of checkedItems(documents))
    yield chunksOfItem(document, `corpus, item ${item++}`, encoding);
}

function* chunksOfItem(document: unknown, origin: string, encoding: Encoding): Generator<TokenChunk> {
  if (typeof document === 'string') {
    const list = new TokenList();
    for (const _ of encodedChunks(origin, document, encoding, list)) {
      yield { tokens: list.from(0), ends: false };
      list.clear();
    }
    yield { tokens: [], ends: true };
  } else yield { tokens: checkTokens(document, origin, encoding.nVocab), ends: true };
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

/** Standard input is looked at when it is read. Files were looked at when they were opened. */
function checkInput({ kind, hints }: Source, chunk: Buffer): void {
  if (kind === 'tokens' || hints?.asIs) return;
  looked(standardInput, () => checkText(kind === 'jsonl' ? kind : 'text', headOf(chunk)));
}

async function* counted(chunks: AsyncIterable<Buffer>, { onBytes }: ReadOptions): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    onBytes?.(chunk.length);
    yield chunk;
  }
}

async function* standardInputBytes({ signal }: ReadOptions): AsyncGenerator<Buffer> {
  signal?.throwIfAborted(); // once it is read, standard input keeps the process alive
  const stop = () => process.stdin.destroy();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    yield* process.stdin as AsyncIterable<Buffer>;
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw unreadable(standardInput, cause);
  } finally {
    signal?.removeEventListener('abort', stop);
    process.stdin.destroy();
  }
}

function fileReader(path: string, { signal, files, onBytes }: ReadOptions, range: ByteRange): ByteReader {
  const own = files ? undefined : new OpenFiles();
  const reader = (files ?? (own as OpenFiles)).reader(path, range);
  return {
    async readInto(memory) {
      signal?.throwIfAborted();
      const count = await reader.readInto(memory).catch((cause) => {
        throw signal?.aborted ? signal.reason : unreadable(path, cause);
      });
      signal?.throwIfAborted();
      onBytes?.(count);
      return count;
    },
    async close() {
      await reader.close();
      await own?.close();
    },
  };
}

/** The error of a file that the system does not give. */
export function unreadable(name: string, cause: unknown): unknown {
  const { code, message } = cause as NodeJS.ErrnoException;
  return code === undefined ? cause : new Error(`dump: cannot read ${name}: ${message}`, { cause });
}
