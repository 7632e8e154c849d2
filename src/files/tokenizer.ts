// GPT-2's byte pair encoding, token for token as OpenAI's tiktoken has it for "gpt2" with allowed_special='all'. The
// table of tokens is gpt-tokenizer's; the rest is here, because that package finds <|endoftext|> only at the start of
// a text, keeps half a character from one decode for the next, splits at other white space than tiktoken, and takes
// quadratic time on long runs without a space.
import { createRequire } from 'node:module';
import { BytePairs } from './byte_pairs.js';
import { letter, number } from './unicode_16.js';

const endOfText = '<|endoftext|>';

// tiktoken's \s is Unicode's White_Space: with U+0085, and without U+FEFF, which JavaScript's has.
const space = String.raw`\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;

// Radford et al. 2019: a text is cut into words, each with the space before it, and merges stay within a word.
const word = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?${letter}+| ?${number}+| ?[^${space}${letter}${number}]+|[${space}]+(?![^${space}])|[${space}]+`,
  'gv',
);

export interface Tokenizer {
  /** Number of tokens, the special one included. */
  readonly nVocab: number;
  /** The tokens of a text. `<|endoftext|>` is one token wherever it stands; half a surrogate pair counts as U+FFFD. */
  encode(text: string): number[];
  /** The text of tokens. Bytes that are no UTF-8 (a part of a character, say) become U+FFFD. */
  decode(tokens: Iterable<number>): string;
  decodeBatch(tokens: Iterable<Iterable<number>>): string[];
  /** The bytes of tokens, which need not be whole characters. */
  decodeBytes(tokens: Iterable<number>): Uint8Array;
}

/** The tokenizer of GPT-2, always the same object. Its table is read (in about 0.1 s) when it is first used. */
export const gpt2Tokenizer = (): Tokenizer => gpt2;

const gpt2: Tokenizer = { nVocab: 50_257, encode, decode, decodeBatch, decodeBytes };

const endOfTextToken = 50_256;

let table: BytePairs | undefined;

function pairs(): BytePairs {
  if (table) return table;
  const load = createRequire(import.meta.url);
  const { default: ranks } = load('gpt-tokenizer/bpeRanks/r50k_base') as { default: (string | number[])[] };
  table = new BytePairs([...ranks.slice(0, endOfTextToken), endOfText], endOfTextToken);
  return table;
}

function encode(text: string): number[] {
  if (typeof text !== 'string') throw new TypeError(`encode: text must be a string, but is ${typeof text}`);
  const tokens: number[] = [];
  let from = 0;
  for (;;) {
    const to = text.indexOf(endOfText, from);
    encodeWords(to < 0 ? text.slice(from) : text.slice(from, to), tokens);
    if (to < 0) return tokens;
    tokens.push(endOfTextToken);
    from = to + endOfText.length;
  }
}

function encodeWords(text: string, tokens: number[]): void {
  const table = pairs();
  for (const [piece] of words(text)) table.encode(piece, tokens);
}

function* words(text: string): Generator<RegExpExecArray> {
  try {
    yield* text.matchAll(word);
  } catch (cause) {
    // The engine of regular expressions keeps a stack of 64 MiB, enough for millions of characters of one kind in a
    // row.
    throw new RangeError('encode: the text has a run of one kind of characters that is too long to search', { cause });
  }
}

function decode(tokens: Iterable<number>): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytesOf('decode', tokens));
}

function decodeBatch(batch: Iterable<Iterable<number>>): string[] {
  return Array.from(batch, decode);
}

function decodeBytes(tokens: Iterable<number>): Uint8Array {
  return bytesOf('decodeBytes', tokens);
}

function bytesOf(operation: string, tokens: Iterable<number>): Uint8Array {
  const table = pairs();
  const list = [...tokens];
  list.forEach((token, i) => {
    if (Number.isInteger(token) && token >= 0 && token < gpt2.nVocab) return;
    throw new RangeError(
      `${operation}: token ${i} must be a whole number from 0 to ${gpt2.nVocab - 1}, but is ${token}`,
    );
  });
  return table.bytesOf(list);
}
