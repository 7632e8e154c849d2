// GPT-2's pretokenizer (Radford et al. 2019): it splits a text into pre-tokens by
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// and no token spans two of them. The scan is written by hand, code unit by code unit: it takes a few nanoseconds per
// character, and time in proportion to the length of a span, where a regular expression engine overflows its stack.
import { letter, number } from './unicode_16.js';

/** Kinds of characters. */
export const space = 1;
export const letters = 2;
export const numbers = 3;
export const sign = 4;

// tiktoken's \s is Unicode's White_Space: with U+0085, and without U+FEFF, which JavaScript's has.
const isSpace = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const isLetter = new RegExp(letter, 'v');
const isNumber = new RegExp(number, 'v');

const kinds = new Uint8Array(0x110000); // 0: not known yet
/** The kinds of code units that are characters; 0 for halves of pairs, and for what was not looked up yet. */
export const unitKinds = new Uint8Array(0x10000);

function classify(point: number): number {
  const character = String.fromCodePoint(point);
  if (isSpace.test(character)) return space;
  if (isLetter.test(character)) return letters;
  return isNumber.test(character) ? numbers : sign;
}

/** The kind of a code point; half a surrogate pair is a sign. */
export function kindOf(point: number): number {
  const known = kinds[point] as number;
  if (known !== 0) return known;
  const kind = classify(point);
  kinds[point] = kind;
  if (point < firstAstral && !isHighSurrogate(point) && !isLowSurrogate(point)) unitKinds[point] = kind;
  return kind;
}

export const isHighSurrogate = (unit: number): boolean => (unit & 0xfc00) === 0xd800;
export const isLowSurrogate = (unit: number): boolean => (unit & 0xfc00) === 0xdc00;

const firstAstral = 0x10000;

/** The code point at `at` in UTF-16. */
function pointAt(units: Uint16Array, at: number, end: number): number {
  const unit = units[at] as number;
  if (!isHighSurrogate(unit) || at + 1 === end) return unit;
  const low = units[at + 1] as number;
  return isLowSurrogate(low) ? ((unit - 0xd800) << 10) + (low - 0xdc00) + firstAstral : unit;
}

export const apostrophe = 0x27;
const [d, e, l, m, r, s, t, v] = Array.from('delmrstv', (char) => char.charCodeAt(0));

/** The number of units of 's, 't, 're, 've, 'm, 'll or 'd at `at`; 0 for anything else. */
function contraction(units: Uint16Array, at: number, end: number): number {
  if (at + 1 >= end) return 0;
  const first = units[at + 1];
  if (first === s || first === t || first === m || first === d) return 2;
  if (at + 2 >= end) return 0;
  const second = units[at + 2];
  return (first === l && second === l) || ((first === r || first === v) && second === e) ? 3 : 0;
}

/** The end of the span of one kind that begins at `at`. */
function spanEnd(units: Uint16Array, at: number, end: number, kind: number): number {
  while (at < end) {
    const known = unitKinds[units[at] as number] as number;
    if (known === kind) at++;
    else if (known !== 0) break;
    else {
      const point = pointAt(units, at, end);
      if (kindOf(point) !== kind) break;
      at += point < firstAstral ? 1 : 2;
    }
  }
  return at;
}

/** The end of the pre-token that begins at `at`, in the UTF-16 of a text that ends at `end`. */
export function pretokenEnd(units: Uint16Array, at: number, end: number): number {
  const unit = units[at] as number;
  if (unit === apostrophe) {
    const length = contraction(units, at, end);
    if (length > 0) return at + length;
  }
  const first = unit === 0x20 && at + 1 < end ? at + 1 : at;
  const kind = unitKinds[units[first] as number] || kindOf(pointAt(units, first, end));
  if (kind !== space) return spanEnd(units, first, end, kind);
  // The last of several characters of white space may belong to the pre-token behind them.
  const last = spanEnd(units, at, end, space);
  return last === end || last === at + 1 ? last : last - 1;
}
