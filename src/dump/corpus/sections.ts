// Cuts the bytes of a source into sections that can be tokenised one by one, in any order and on any thread, without
// changing a token. Where a file is cut depends on what lies around the cut alone. So reading may begin at any place
// that an index names, and the sections after it are those of a reading from the start.
import { isHighSurrogate } from '../../files/tokenizer/pretokenizer.js';
import { endOfText, isSureCut } from './text_chunks.js';

/** The bytes of a section, about: text of this length is tokenised in some milliseconds. */
export const sectionBytes = 2 ** 18;

/** Some bytes of a source, in memory of their own. */
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
  /** The offset of the first byte of `chunks` in the source. */
  readonly offset: number;
  /** The number of lines before it. */
  readonly lines?: number;
  /** Sections end at the first cut at or after a multiple of this many bytes, counted from `origin`. */
  readonly size?: number;
  readonly origin?: number;
  /** The source does not end where `chunks` do: they end at a place that can be cut. */
  readonly goesOn?: boolean;
}

export async function* sectionsOf(
  chunks: AsyncIterable<Buffer>,
  cutter: Cutter,
  { offset, lines = 0, size = sectionBytes, origin = 0, goesOn = false }: SectionOptions,
): AsyncGenerator<Section> {
  const held = new HeldBytes();
  let [at, line] = [offset, lines];
  let searched = 0; // up to this index of `held`, there is no cut
  const nominal = () => origin + size * (Math.floor((at - origin) / size) + 1) - at;
  const take = (length: number, isLast: boolean): Section => {
    const bytes = held.take(length);
    const section = { offset: at, bytes, lines: line, isLast };
    at += length;
    if (cutter.countsLines) line += newlinesIn(bytes);
    searched = 0;
    return section;
  };
  for await (const chunk of chunks) {
    held.add(chunk);
    for (;;) {
      const from = Math.max(searched, nominal());
      if (held.length <= from) break;
      const cut = cutter.cutFrom(held.all, from, false);
      if (cut < 0) {
        searched = Math.max(from, held.length - lookBack);
        break;
      }
      yield take(cut, false);
    }
  }
  for (;;) {
    const from = Math.max(searched, nominal());
    const cut = held.length > from ? cutter.cutFrom(held.all, from, true) : -1;
    if (cut < 0 || cut >= held.length) break;
    yield take(cut, false);
  }
  yield take(held.length, !goesOn);
}

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
  #bytes = Buffer.alloc(0);
  length = 0;

  add(chunk: Buffer): void {
    if (this.length + chunk.length > this.#bytes.length) {
      // what is read at once is often all
      const larger = Buffer.allocUnsafe((this.length > 0 ? 2 : 1) * (this.length + chunk.length));
      larger.set(this.all);
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.length);
    this.length += chunk.length;
  }

  get all(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }

  /** Removes the first bytes, and returns them in memory of their own. */
  take(length: number): Buffer<ArrayBuffer> {
    const bytes = Buffer.allocUnsafeSlow(length); // no part of a pool, so that it can be given to a thread
    bytes.set(this.#bytes.subarray(0, length));
    this.#bytes.copyWithin(0, length, this.length);
    this.length -= length;
    return bytes;
  }
}

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
