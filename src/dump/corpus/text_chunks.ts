// Cuts text into chunks that can be tokenised one by one without changing a token, so that a corpus of any size is read
// in bounded memory.
//
// The GPT-2 tokenizer first splits text with
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// and merges bytes only inside such a match. No match holds a letter followed by anything but letters, a digit followed
// by anything but digits, or any visible character followed by white space. Of the visible characters, only `'` can
// share a match with a letter after it. No alternative looks back, and only white space looks ahead. So it is safe to
// cut the text after a visible character where the kind of character changes, except between a sign and a letter.

import { isHighSurrogate, isLowSurrogate, kindOf, letters, sign, space } from '../../files/tokenizer/pretokenizer.js';

export const endOfText = '<|endoftext|>';

/** Characters of a chunk, about: few enough to be tokenised without blocking the event loop. */
const chunkLength = 16_384;
/** Text of this length that cannot be cut is refused: no language has such words, and memory must stay bounded. */
export const longestUncut = 2 ** 20;

// Only some implementations of the pattern treat these as white space.
const isUnsure = (point: number): boolean => point === 0x85 || point === 0xfeff;

/** Whether `text` can be cut at `at`, which lies between two of its characters, without changing its tokens. */
export function isSureCut(text: string, at: number): boolean {
  const last = text.charCodeAt(at - 1);
  const inPair = isLowSurrogate(last) && at >= 2 && isHighSurrogate(text.charCodeAt(at - 2));
  const before = text.codePointAt(inPair ? at - 2 : at - 1) as number;
  const after = text.codePointAt(at) as number;
  if (before >= 0x10000 && !inPair) return false; // between the halves of a pair
  if (isUnsure(before) || isUnsure(after)) return false;
  const kind = kindOf(before);
  const next = kindOf(after);
  return kind !== space && kind !== next && !(kind === sign && next === letters);
}

/**
 * The last index after `from` where `text` can be cut without changing its tokens, whatever follows the text; 0 when
 * there is none. The text must not hold a whole `<|endoftext|>`. The beginning of one at its end is not cut.
 */
export function lastCut(text: string, from = 0): number {
  for (let at = text.length - endOfText.length; at > from; at--) if (isSureCut(text, at)) return at;
  return 0;
}

export interface TextChunk {
  readonly text: string;
  /** The chunk is followed by an `<|endoftext|>`, which is not part of `text`. */
  readonly ended: boolean;
}

/**
 * Cuts a text behind its marks, and where it is long. Where a chunk ends follows from the text behind its beginning alone:
 * a reading that begins at a chunk finds the same ones from there on. `origin` says in errors where the text comes from.
 */
export function* textChunks(origin: string, text: string): Generator<TextChunk> {
  for (let from = 0; from < text.length; ) {
    const marked = text.indexOf(endOfText, from);
    const ended = marked >= 0;
    const end = ended ? marked : text.length;
    while (end - from > 2 * chunkLength) {
      const length = firstChunk(origin, text.slice(from, end));
      if (length === 0) break;
      yield { text: text.slice(from, from + length), ended: false };
      from += length;
    }
    yield { text: text.slice(from, end), ended };
    from = ended ? end + endOfText.length : end;
  }
}

/** Whether a text, which is not empty, makes one chunk alone that no mark follows. */
export const isOneChunk = (text: string): boolean =>
  text.length > 0 && text.length <= 2 * chunkLength && !text.includes(endOfText);

/** The length of a first chunk; 0 when the text cannot be cut. */
function firstChunk(origin: string, text: string): number {
  for (let length = chunkLength, searched = 0; searched < text.length; length *= 2) {
    const cut = lastCut(text.slice(0, length), searched);
    if (cut > 0) return cut;
    searched = Math.min(length, text.length) - endOfText.length;
    if (searched > longestUncut) refuse(origin, text);
    if (length >= text.length) break;
  }
  return 0;
}

function refuse(origin: string, text: string): never {
  throw new Error(
    `${origin}: more than ${longestUncut} characters, starting with ${JSON.stringify(text.slice(0, 20))}, ` +
      'without a position where the tokenizer splits them: this does not look like text',
  );
}
