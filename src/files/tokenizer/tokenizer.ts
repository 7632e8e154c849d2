// GPT-2's byte pair encoding, token for token as OpenAI's tiktoken has it for "gpt2" with allowed_special='all'. The
// table of tokens is gpt-tokenizer's. The rest is written here, because that package finds <|endoftext|> only at the
// start of a text, keeps half a character from one decode for the next, splits at other white space than tiktoken, and
// takes quadratic time on long texts without a space.
import { createRequire } from 'node:module';
import { BytePairs } from './byte_pairs.js';
import { longestCached, PretokenCache } from './pretoken_cache.js';
import { pretokenEnd } from './pretokenizer.js';

const endOfText = '<|endoftext|>';

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

/** `<|endoftext|>`, which ends a document. */
export const endOfTextToken = 50_256;

interface Tables {
  readonly pairs: BytePairs;
  readonly cache: PretokenCache;
}

let loaded: Tables | undefined;

function tables(): Tables {
  if (loaded) return loaded;
  const load = createRequire(import.meta.url);
  const { default: ranks } = load('gpt-tokenizer/bpeRanks/r50k_base') as { default: (string | number[])[] };
  const pairs = new BytePairs([...ranks.slice(0, endOfTextToken), endOfText], endOfTextToken);
  loaded = { pairs, cache: new PretokenCache() };
  return loaded;
}

function encode(text: string): number[] {
  if (typeof text !== 'string') throw new TypeError(`encode: text must be a string, but is ${typeof text}`);
  const tokens: number[] = [];
  const units = unitsOf(text);
  let from = 0;
  for (;;) {
    const to = text.indexOf(endOfText, from);
    encodePretokens(units, from, to < 0 ? text.length : to, tokens);
    if (to < 0) return tokens;
    tokens.push(endOfTextToken);
    from = to + endOfText.length;
  }
}

const scratch = new Uint16Array(2 ** 16);

// A typed array is read faster than a string, which engines represent in many ways.
function unitsOf(text: string): Uint16Array {
  const units = text.length <= scratch.length ? scratch : new Uint16Array(text.length);
  Buffer.from(units.buffer).write(text, 'utf16le');
  return units;
}

function encodePretokens(units: Uint16Array, from: number, to: number, tokens: number[]): void {
  const { pairs, cache } = tables();
  for (let end = from; from < to; from = end) {
    end = pretokenEnd(units, from, to);
    const isShort = end - from <= longestCached;
    if (isShort && cache.find(units, from, end, tokens)) continue;
    const first = tokens.length;
    pairs.encode(utf8(units, from, end), tokens);
    if (isShort) cache.add(units, from, end, tokens, first);
  }
}

// Half a surrogate pair becomes U+FFFD.
const utf8 = (units: Uint16Array, from: number, to: number): Uint8Array =>
  Buffer.from(Buffer.from(units.buffer, 2 * from, 2 * (to - from)).toString('utf16le'));

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
  const { pairs } = tables();
  const list = [...tokens];
  list.forEach((token, i) => {
    if (Number.isInteger(token) && token >= 0 && token < gpt2.nVocab) return;
    throw new RangeError(
      `${operation}: token ${i} must be a whole number from 0 to ${gpt2.nVocab - 1}, but is ${token}`,
    );
  });
  return pairs.bytesOf(list);
}
