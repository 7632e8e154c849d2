// Cuts the bytes of a source into sections that can be tokenised one by one, in any order and on any thread, without
// changing a token. Where a file is cut depends on what lies around the cut alone. So reading may begin at any place
// that an index names, and the sections after it are those of a reading from the start.
import { isHighSurrogate } from '../../files/tokenizer/pretokenizer.js';
import type { ByteReader } from './byte_reader.js';
import { endOfText, isSureCut } from './text_chunks.js';

/** The bytes of a section, about: text of this length is tokenised in some ten milliseconds. */
export const sectionBytes = 2 ** 20;

/** Some bytes of a source, at the start of memory of their own. */
export interface Section {
  /** The offset of the first byte in the source. */
  readonly offset: number;
  readonly bytes: Buffer<ArrayBuffer>;
  /** The number of lines before the section; counted for lines of JSON only. */
  readonly lines: number;
  /** Whether the source ends with the section, which may be empty then. */
  readonly isLast: boolean;
}

/** Finds where the bytes of one kind of source can be cut. */
export interface Cutter {
  /**
   * The first index from `from` on, above 0, at which `bytes` can be cut; -1 when more bytes are needed to tell.
   * `isWhole` says that no more bytes follow.
   */
  cutFrom(bytes: Buffer, from: number, isWhole: boolean): number;
  /** Whether the lines before each section are counted. */
  readonly countsLines?: boolean;
}

export interface SectionOptions {
  /** The offset of the first byte of `reader` in the source. */
  readonly offset: number;
  /** The number of lines before it. */
  readonly lines?: number;
  /** Sections end at the first cut at or after a multiple of this many bytes, counted from `origin`. */
  readonly size?: number;
  readonly origin?: number;
  /** The source does not end where `reader` does, which is a place that can be cut. */
  readonly goesOn?: boolean;
  /** The bytes that are there, as far as it is known: no more memory is taken. */
  readonly expected?: number | undefined;
  /** Memory for a section, of so many bytes or more. */
  readonly allocate?: ((bytes: number) => ArrayBuffer) | undefined;
}

export async function* sectionsOf(
  reader: ByteReader,
  cutter: Cutter,
  { offset, lines = 0, size = sectionBytes, origin = 0, goesOn = false, expected, allocate }: SectionOptions,
): AsyncGenerator<Section> {
  const held = new HeldBytes(reader, allocate);
  let [at, line] = [offset, lines];
  let searched = 0; // up to this index of `held`, there is no cut
  const nominal = () => origin + size * (Math.floor((at - origin) / size) + 1) - at;
  const left = () => (expected === undefined ? Number.POSITIVE_INFINITY : Math.max(0, offset + expected - at));
  const capacity = () => Math.min(nominal() + readBehind, left() + 1); // one more shows that there is no more
  const take = (length: number, isLast: boolean): Section => {
    const section = { offset: at, lines: line, isLast };
    at += length;
    const bytes = held.take(length, isLast ? 0 : capacity());
    if (cutter.countsLines) line += newlinesIn(bytes);
    searched = 0;
    return { ...section, bytes };
  };
  for (let isWhole = false; ; ) {
    const from = Math.max(searched, nominal());
    const cut = held.length > from ? cutter.cutFrom(held.all, from, isWhole) : -1;
    if (cut >= 0 && !(isWhole && cut >= held.length)) {
      yield take(cut, false);
      continue;
    }
    if (isWhole) break;
    const behind = held.length - nominal();
    if (behind > 0) searched = Math.max(from, held.length - lookBack);
    const upTo = behind > 0 ? held.length + Math.max(readBehind, behind) : nominal() + readBehind;
    isWhole = !(await held.readUpTo(upTo, capacity()));
  }
  yield take(held.length, !goesOn);
}

/** The bytes that are read behind the size of a section, among which there is a cut nearly always. */
const readBehind = 2 ** 12;

/** The bytes before an index that may decide whether it is a cut. */
const lookBack = 2 * endOfText.length;

/**
 * The first cut at or after a multiple of the size of sections, `nominal`, in a file of which `read` gives so many bytes
 * from an offset on, or what is left of it. Undefined when that is the end of the file. More is read where the first
 * bytes, `readFirst` of them, have no cut.
 */
export async function firstCut(
  read: (from: number, length: number) => Promise<Buffer>,
  { cutter, origin }: { readonly cutter: Cutter; readonly origin: number },
  nominal: number,
  readFirst = 2 ** 14,
): Promise<number | undefined> {
  const begin = Math.max(origin, nominal - lookBack * tokenWidths);
  for (let length = readFirst; ; length *= 4) {
    const bytes = await read(begin, length);
    const isWhole = bytes.length < length;
    if (isWhole && bytes.length <= nominal - begin) return undefined;
    const cut = cutter.cutFrom(bytes, nominal - begin, isWhole);
    if (cut >= 0 && cut < bytes.length) return begin + cut;
    if (isWhole) return undefined;
  }
}

/** Where reading begins before a cut, tokens of any width are whole. */
const tokenWidths = 8;

/** Bytes that were read and belong to no section yet. */
class HeldBytes {
  readonly #reader: ByteReader;
  readonly #allocate: (bytes: number) => ArrayBuffer;
  #bytes = none;
  length = 0;

  constructor(reader: ByteReader, allocate = (bytes: number) => Buffer.allocUnsafeSlow(bytes).buffer) {
    this.#reader = reader;
    this.#allocate = allocate;
  }

  get all(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }

  /** Reads more bytes, so many in all at the most. Returns whether there were any. */
  async readUpTo(length: number, capacity: number): Promise<boolean> {
    if (this.#bytes.length <= this.length) this.#moveTo(Math.max(capacity, 2 * this.length), this.all);
    const read = await this.#reader.readInto(this.#bytes.subarray(this.length, length));
    this.length += read;
    return read > 0;
  }

  /** Removes the first bytes with their memory. The others go into some of so many bytes. */
  take(length: number, capacity: number): Buffer<ArrayBuffer> {
    const taken = this.#bytes.subarray(0, length);
    const others = this.#bytes.subarray(length, this.length);
    if (capacity === 0 && others.length === 0) this.#bytes = none;
    else this.#moveTo(Math.max(capacity, 2 * others.length), others);
    this.length = others.length;
    return taken;
  }

  #moveTo(capacity: number, bytes: Buffer): void {
    this.#bytes = Buffer.from(this.#allocate(capacity));
    this.#bytes.set(bytes);
  }
}

const none = Buffer.from(new ArrayBuffer(0));

function newlinesIn(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, at + 1)) count++;
  return count;
}

const newline = 0x0a;

/** The most characters of a line of JSON. */
export const longestLine = 2 ** 26;

/** Lines are cut behind their ends. One that would be refused as too long is cut anywhere: it is refused all the same. */
export const lineCutter: Cutter = {
  cutFrom(bytes, from) {
    const end = bytes.indexOf(newline, Math.max(0, from - 1));
    if (end >= 0) return end + 1;
    return bytes.length - from > 4 * longestLine ? bytes.length : -1;
  },
  countsLines: true,
};

/** Tokens of so many bytes each, counted from the first of `bytes`. */
export const tokenCutter = (width: number): Cutter => ({
  cutFrom(bytes, from) {
    const cut = width * Math.ceil(from / width);
    return cut <= bytes.length ? cut : -1;
  },
});

const mark = Buffer.from(endOfText);

/**
 * Text is cut behind a mark, or where the tokenizer always splits it. Where it cannot be cut for so long that it would
 * be refused (`longestUncut`), it is cut anyway: the tokenizer refuses it then.
 */
export const textCutter: Cutter = {
  cutFrom(bytes, from, isWhole) {
    const marked = bytes.indexOf(mark, Math.max(0, from - mark.length));
    const behindMark = marked < 0 ? Number.POSITIVE_INFINITY : marked + mark.length;
    const end = isWhole ? bytes.length : bytes.length - mark.length + 1; // behind it, a mark may begin
    for (let at = from; at < Math.min(end, behindMark); at += searchedAtOnce) {
      const cut = sureCutIn(bytes, at, Math.min(end, at + searchedAtOnce));
      if (cut < 0) continue;
      const inMark = bytes.subarray(Math.max(0, cut - mark.length + 1), cut + mark.length - 1).indexOf(mark) >= 0;
      if (!inMark) return Math.min(cut, behindMark);
      at = cut - searchedAtOnce + 1;
    }
    if (behindMark <= bytes.length) return behindMark;
    return bytes.length - from > longestSearch ? bytes.length : -1;
  },
};

const searchedAtOnce = 256;
const longestSearch = 2 ** 23;

const isContinuation = (byte: number): boolean => (byte & 0xc0) === 0x80;

/**
 * The first index in [from, to) at which UTF-8 can be cut; -1 when there is none. The characters before and behind it are
 * looked at. Bytes that are no UTF-8 are cut anywhere: the tokenizer refuses them.
 */
function sureCutIn(bytes: Buffer, from: number, to: number): number {
  let begin = Math.max(0, from - 1);
  while (begin > 0 && from - begin < 4 && isContinuation(bytes[begin] as number)) begin--;
  let end = Math.min(bytes.length, to);
  while (end < bytes.length && end - to < 4 && isContinuation(bytes[end] as number)) end++;
  if (end < bytes.length) end += lengthOf(bytes[end] as number);
  const text = bytes.toString('utf8', begin, end);
  let at = begin;
  for (let i = 0; i < text.length; ) {
    if (at >= from && at < to && i > 0 && isSureCut(text, i)) return at;
    at += lengthOf(bytes[at] as number);
    i += isHighSurrogate(text.charCodeAt(i)) ? 2 : 1;
  }
  return -1;
}

/** The bytes of the UTF-8 character that begins with a byte. */
function lengthOf(byte: number): number {
  if (byte < 0xc0) return 1;
  if (byte < 0xe0) return 2;
  return byte < 0xf0 ? 3 : 4;
}
