// Cuts text into pieces that can be tokenised one by one without changing a token, so that a corpus of any size is
// read in bounded memory.
//
// The GPT-2 tokenizer first splits text with
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// and merges bytes only inside such a match. No match holds a letter followed by anything but letters, a digit
// followed by anything but digits, or any visible character followed by white space; and of visible characters only
// `'` can share a match with a letter after it. Nothing looks back, and only white space looks ahead. So the text can
// surely be cut behind a visible character where the kind of character changes, except between a sign and a letter.

import { isHighSurrogate, isLowSurrogate, kindOf, letters, sign, space } from '../../files/tokenizer/pretokenizer.js';

export const endOfText = '<|endoftext|>';

/** Characters of a piece, about: as many as are tokenised without keeping the event loop waiting. */
export const pieceLength = 16_384;
/** Text this long without a place to cut is refused: no language has such words, and memory is to stay bounded. */
export const longestUncut = 2 ** 20;

// White space to some implementations of the pattern only.
const isUnsure = (point: number): boolean => point === 0x85 || point === 0xfeff;

function isSureCut(text: string, at: number): boolean {
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
 * The last place behind `from` where `text` can be cut without changing its tokens, whatever follows it; 0 when there
 * is none. The text must not hold a whole `<|endoftext|>`; one that has begun at its end is not cut.
 */
export function lastCut(text: string, from = 0): number {
  for (let at = text.length - endOfText.length; at > from; at--) if (isSureCut(text, at)) return at;
  return 0;
}

export interface TextPiece {
  readonly text: string;
  /** The piece is followed by an `<|endoftext|>`, which is not part of `text`. */
  readonly ended: boolean;
}

/** Cuts one chunk after another; `end` gives what is left. `place` says in errors where the text comes from. */
export class TextCutter {
  readonly #place: string;
  #held = '';
  #searched = 0; // there is no cut up to here

  constructor(place: string) {
    this.#place = place;
  }

  *add(chunk: string): Generator<TextPiece> {
    this.#held += chunk;
    for (let at = this.#held.indexOf(endOfText); at >= 0; at = this.#held.indexOf(endOfText)) {
      yield* this.#pieces(this.#take(at, endOfText.length), true);
    }
    if (this.#held.length < pieceLength) return;
    const cut = lastCut(this.#held, this.#searched);
    if (cut > 0) return yield* this.#pieces(this.#take(cut), false);
    this.#searched = this.#held.length - endOfText.length;
    if (this.#searched > longestUncut) this.#refuse(this.#held);
  }

  *end(): Generator<TextPiece> {
    if (this.#held !== '') yield* this.#pieces(this.#take(this.#held.length), false);
  }

  #take(length: number, gap = 0): string {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length + gap);
    this.#searched = 0;
    return text;
  }

  // Long text that came at once, a line of JSON or an item, is cut here.
  *#pieces(text: string, ended: boolean): Generator<TextPiece> {
    let from = 0;
    while (text.length - from > 2 * pieceLength) {
      const length = this.#firstPiece(text.slice(from));
      if (length === 0) break;
      yield { text: text.slice(from, from + length), ended: false };
      from += length;
    }
    yield { text: text.slice(from), ended };
  }

  /** The length of a piece to begin with; 0 when the text has no place to cut. */
  #firstPiece(text: string): number {
    for (let length = pieceLength, searched = 0; searched < text.length; length *= 2) {
      const cut = lastCut(text.slice(0, length), searched);
      if (cut > 0) return cut;
      searched = Math.min(length, text.length) - endOfText.length;
      if (searched > longestUncut) this.#refuse(text);
      if (length >= text.length) break;
    }
    return 0;
  }

  #refuse(text: string): never {
    throw new Error(
      `${this.#place}: more than ${longestUncut} characters, starting with ${JSON.stringify(text.slice(0, 20))}, ` +
        'without a place where the tokenizer splits them: this does not look like text',
    );
  }
}
