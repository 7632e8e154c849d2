// Tokenises a section. Nothing else than the section decides the result, so it may be done on any thread.
import { isUtf8 } from 'node:buffer';
import { TokenList } from '../../files/tokenizer/token_list.js';
import { nulProblem } from './content.js';
import { appendTokens, type Encoding, encodedChunks } from './encoding.js';
import { parseJson } from './json_start.js';
import { longestLine, type Section } from './sections.js';
import { endOfText } from './text_chunks.js';
import { showWidth, type TokenDType, tokenBytes } from './token_layout.js';

/** How the bytes of a source become tokens. */
export type SectionKind =
  | { readonly kind: 'text'; readonly asIs: boolean }
  | { readonly kind: 'jsonl'; readonly asIs: boolean }
  | { readonly kind: 'tokens'; readonly dtype: TokenDType };

export interface SectionRequest extends Section {
  /** The name of the source in messages. */
  readonly origin: string;
  readonly source: SectionKind;
  /** Characters of the first line's text that are left out: a reading of it began there. */
  readonly character?: number | undefined;
}

/** Where a chunk of tokens begins: reading may begin there, too. */
export interface ChunkStart {
  /** The byte offset in the source; of a line of JSON, that of the line. */
  readonly offset: number;
  /** The index in the text of a line of JSON, in UTF-16; left out where it is 0. */
  readonly character?: number;
  /** The number of lines before it; for lines of JSON only. */
  readonly lines?: number;
}

/** The tokens of a section, in chunks: in each, tokens of one document. All arrays lie in the same memory. */
export interface SectionTokens {
  readonly tokens: Uint16Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
  /** The index after the last token of each chunk. */
  readonly ends: Int32Array<ArrayBuffer>;
  /** 1 where a document ends with the chunk. */
  readonly documentEnds: Uint8Array<ArrayBuffer>;
  /** Where each chunk begins: bytes from the section's start, and what `ChunkStart` says. */
  readonly offsets: Int32Array<ArrayBuffer>;
  /** Where each chunk ends, in bytes from the section's start; of a line of JSON, where the line does. */
  readonly untils: Int32Array<ArrayBuffer>;
  readonly characters: Int32Array<ArrayBuffer> | undefined;
  readonly lines: Int32Array<ArrayBuffer> | undefined;
  /** Why the section ends before its last byte. */
  readonly problem: Error | undefined;
}

/** Tokenises a section up to its end, or to what is wrong in it. The result lies in `memory` where that is large enough. */
export function sectionTokens(section: SectionRequest, encoding: Encoding, memory?: ArrayBuffer): SectionTokens {
  const { source } = section;
  const list = new ChunkList(source.kind === 'jsonl', encoding.nVocab);
  try {
    if (source.kind === 'text') addText(section, source.asIs, encoding, list);
    else if (source.kind === 'jsonl') addLines(section, source.asIs, encoding, list);
    else addTokens(section, source.dtype, encoding, list);
  } catch (error) {
    return list.done(error instanceof Error ? error : new Error(String(error)), memory);
  }
  return list.done(undefined, memory);
}

const mark = Buffer.from(endOfText);
const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

/** Where text begins in a section: a byte order mark at the start of a file is none of it. */
const startOf = ({ bytes, offset }: Section): number =>
  offset === 0 && bytes.subarray(0, 3).equals(byteOrderMark) ? 3 : 0;

function addText(section: SectionRequest, asIs: boolean, encoding: Encoding, list: ChunkList): void {
  const { bytes, origin } = section;
  const { valid, problem } = validPart(section, asIs);
  let markTokens: Int32Array | undefined;
  for (let from = startOf(section); from < valid; ) {
    const marked = bytes.indexOf(mark, from);
    const ended = marked >= 0 && marked + mark.length <= valid;
    const to = ended ? marked : valid;
    // The mark belongs to the last chunk: where it begins, reading need not be able to begin.
    let at = from;
    const text = bytes.toString('utf8', from, to);
    for (const { at: begin, end } of encodedChunks(origin, text, encoding, list.tokens)) {
      if (problem && !ended && end === text.length) break; // what follows its last characters is not known
      const until = end < text.length ? at + Buffer.byteLength(text.slice(begin, end)) : to;
      list.add(at, { ends: false, until });
      at = until;
    }
    const end = ended ? to + mark.length : to;
    if (ended) {
      markTokens ??= tokensOf(origin, endOfText, encoding);
      list.tokens.append(markTokens);
      if (to === from) list.add(from, { ends: true, until: end });
      else list.endDocument(end);
    }
    from = end;
  }
  if (problem) throw problem;
}

function tokensOf(origin: string, text: string, encoding: Encoding): Int32Array {
  const list = new TokenList();
  appendTokens(origin, text, encoding, list);
  return list.from(0);
}

function addLines(section: SectionRequest, asIs: boolean, encoding: Encoding, list: ChunkList): void {
  const { bytes, origin } = section;
  const { valid, problem } = validPart(section, asIs);
  let { lines, character = 0 } = section;
  for (let from = startOf(section); from < valid; lines++, character = 0) {
    const newline = bytes.indexOf(0x0a, from);
    const isWhole = newline >= 0 && newline < valid;
    if (!isWhole && problem) break;
    const to = isWhole ? newline : valid;
    const line = bytes.toString('utf8', from, to);
    if (line.length > longestLine) throw new Error(`${origin}: a line is longer than ${longestLine} characters`);
    if (line.trim() !== '') {
      const name = `${origin}, line ${lines + 1}`;
      const text = textField(name, line).slice(character);
      for (const chunk of encodedChunks(name, text, encoding, list.tokens)) {
        list.add(from, { ends: false, until: to, character: character + chunk.at, lines });
      }
      list.add(from, { ends: true, until: to, character, lines });
    }
    from = to + 1;
  }
  if (problem) throw problem;
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

/** The bytes of a section up to the first that is no text, and why that is none. */
function validPart(section: SectionRequest, asIs: boolean): { valid: number; problem?: Error } {
  const { bytes, origin, offset } = section;
  const nul = asIs ? -1 : bytes.indexOf(0);
  const upTo = nul < 0 ? bytes.length : nul;
  if (isUtf8(bytes.subarray(0, upTo))) {
    return nul < 0 ? { valid: upTo } : { valid: nul, problem: new Error(`${origin}: ${nulProblem(offset + nul)}`) };
  }
  const at = firstInvalid(bytes.subarray(0, upTo));
  const valid = startOfCharacter(bytes, at);
  const where = `${origin}, byte ${offset + at}`;
  if (at < upTo) {
    const byte = (bytes[at] as number).toString(16).padStart(2, '0');
    return { valid, problem: new Error(`${where}: not valid UTF-8 (0x${byte})`) };
  }
  if (nul >= 0) return { valid, problem: new Error(`${origin}: ${nulProblem(offset + nul)}`) };
  return { valid, problem: new Error(`${where}: not valid UTF-8: the text ends inside a character`) };
}

/** Decodes byte by byte to find the index of the first invalid byte, which is the length of text that ends too early. */
function firstInvalid(bytes: Buffer): number {
  let [good, bad] = [0, bytes.length];
  while (bad - good > 64) {
    const middle = (good + bad) >> 1;
    if (decodes(bytes.subarray(0, middle))) good = middle;
    else bad = middle;
  }
  const decoder = new TextDecoder('utf-8', { fatal: true });
  decoder.decode(bytes.subarray(0, good), { stream: true });
  for (let at = good; at < bytes.length; at++) {
    try {
      decoder.decode(bytes.subarray(at, at + 1), { stream: true });
    } catch {
      return at;
    }
  }
  return bytes.length;
}

function decodes(bytes: Buffer): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true });
    return true;
  } catch {
    return false;
  }
}

/** The start of the character before an index that is not whole. */
function startOfCharacter(bytes: Buffer, before: number): number {
  let at = Math.max(0, before - 1);
  while (at > 0 && ((bytes[at] as number) & 0xc0) === 0x80) at--;
  return at;
}

// ---- tokens

type Tokens = Uint16Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array | Float64Array;

/** Tokens of a chunk: few enough that not much is read in vain when reading begins at one. */
const tokensPerChunk = 4096;

function addTokens(section: SectionRequest, dtype: TokenDType, encoding: Encoding, list: ChunkList): void {
  const { bytes, origin, offset } = section;
  const width = tokenBytes[dtype];
  const tokens = tokensIn(bytes, dtype);
  const invalid = firstOutside(tokens, encoding.nVocab);
  const valid = invalid < 0 ? tokens.length : invalid;
  for (let from = 0; from < valid; ) {
    const marked = encoding.mark === undefined ? -1 : tokens.indexOf(encoding.mark, from);
    const ended = marked >= 0 && marked < valid;
    const end = ended ? marked + 1 : valid;
    for (; from < end; from = Math.min(end, from + tokensPerChunk)) {
      const to = Math.min(end, from + tokensPerChunk);
      list.tokens.append(tokens.subarray(from, to));
      list.add(width * from, { ends: ended && to === end, until: width * to });
    }
  }
  if (invalid >= 0) {
    const what = `token ${tokens[invalid]} is none of the model's, which end at ${encoding.nVocab - 1}`;
    throw new Error(`${origin}, byte ${offset + width * invalid}: ${what}`);
  }
  if (bytes.length % width === 0) return;
  throw new Error(
    `${origin}, byte ${offset + width * tokens.length}: the file ends in the middle of a token of ${showWidth(dtype)}`,
  );
}

function tokensIn(bytes: Buffer<ArrayBuffer>, dtype: TokenDType): Tokens {
  const { buffer } = bytes;
  const count = Math.floor(bytes.length / tokenBytes[dtype]);
  switch (dtype) {
    case 'uint16':
      return new Uint16Array(buffer, 0, count);
    case 'int32':
      return new Int32Array(buffer, 0, count);
    case 'uint32':
      return new Uint32Array(buffer, 0, count);
    case 'int64':
      return Float64Array.from(new BigInt64Array(buffer, 0, count), Number);
  }
}

function firstOutside(tokens: Tokens, nVocab: number): number {
  if (tokens instanceof Uint16Array && nVocab > 0xffff) return -1;
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as number;
    if (!(token >= 0 && token < nVocab)) return at;
  }
  return -1;
}

// ---- results

/** What is known of a chunk besides its tokens and its first byte. */
interface ChunkPlace {
  readonly ends: boolean;
  readonly until: number;
  readonly character?: number;
  readonly lines?: number;
}

/** The tokens of the section that is being tokenised. One is at a time, so that all use the same memory. */
const gathered = new TokenList();

/** Gathers chunks: the tokens of each are appended to `tokens`, and then the chunk is added. */
class ChunkList {
  readonly tokens = gathered;
  readonly #ends: number[] = [];
  readonly #documentEnds: number[] = [];
  readonly #offsets: number[] = [];
  readonly #untils: number[] = [];
  readonly #characters: number[] = [];
  readonly #lines: number[] = [];
  readonly #hasLines: boolean;
  readonly #isWide: boolean;

  constructor(hasLines: boolean, nVocab: number) {
    this.tokens.clear();
    this.#hasLines = hasLines;
    this.#isWide = nVocab > 2 ** 16;
  }

  add(offset: number, { ends, until, character = 0, lines = 0 }: ChunkPlace): void {
    this.#ends.push(this.tokens.length);
    this.#documentEnds.push(ends ? 1 : 0);
    this.#offsets.push(offset);
    this.#untils.push(until);
    this.#characters.push(character);
    this.#lines.push(lines);
  }

  /** Ends the document of the last chunk, and the chunk up to a byte. */
  endDocument(until: number): void {
    this.#untils[this.#untils.length - 1] = until;
    this.#ends[this.#ends.length - 1] = this.tokens.length;
    this.#documentEnds[this.#documentEnds.length - 1] = 1;
  }

  done(problem: Error | undefined, memory: ArrayBuffer | undefined): SectionTokens {
    const chunks = this.#ends.length;
    const count = this.#ends.at(-1) ?? 0; // behind an error, there may be tokens of no chunk
    const bytes = chunks * (this.#hasLines ? 21 : 13) + count * (this.#isWide ? 4 : 2);
    const all = memory && memory.byteLength >= bytes ? memory : new ArrayBuffer(bytes);
    let used = 0;
    const numbers = (values: ArrayLike<number>) => {
      const array = new Int32Array(all, used, values.length);
      array.set(values);
      used += array.byteLength;
      return array;
    };
    const [ends, offsets, untils] = [numbers(this.#ends), numbers(this.#offsets), numbers(this.#untils)];
    const characters = this.#hasLines ? numbers(this.#characters) : undefined;
    const lines = this.#hasLines ? numbers(this.#lines) : undefined;
    const tokens = this.#isWide ? new Int32Array(all, used, count) : new Uint16Array(all, used, count);
    tokens.set(this.tokens.tokens.subarray(0, count));
    const documentEnds = new Uint8Array(all, used + tokens.byteLength, chunks);
    documentEnds.set(this.#documentEnds);
    return { tokens, ends, documentEnds, offsets, untils, characters, lines, problem };
  }
}
