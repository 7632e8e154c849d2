// GPT-2's byte pair encoding, token for token as OpenAI's tiktoken has it for "gpt2" with allowed_special='all'. The
// table of tokens is gpt-tokenizer's. The rest is written here, because that package finds <|endoftext|> only at the
// start of a text, keeps half a character from one decode for the next, splits at other white space than tiktoken, and
// takes quadratic time on long texts without a space.
import { createRequire } from 'node:module';
import { describe, wrong } from '../../checks/arguments.js';
import { BytePairs } from './byte_pairs.js';
import { longestCached, mostTokens, PretokenCache } from './pretoken_cache.js';
import { pretokenEnd } from './pretokenizer.js';
import { TokenList } from './token_list.js';

const endOfText = '<|endoftext|>';

export interface Tokenizer {
  /** 'gpt2' for GPT-2's tokens; 'unknown' for those of another vocabulary, whose texts are not known here. */
  readonly name: 'gpt2' | 'unknown';
  /** Number of tokens, the special one included. */
  readonly nVocab: number;
  /**
   * The tokens of a text. `<|endoftext|>` is one token wherever it stands; half a surrogate pair counts as U+FFFD.
   * @throws Error that gives the reason, where the name is 'unknown'.
   */
  encode(text: string): number[];
  /**
   * The text of tokens. Bytes that are no UTF-8 (a part of a character, say) become U+FFFD. A token whose text is not
   * known, of a model that has others than GPT-2's, becomes a placeholder such as `<|50300|>`, which encode() does not
   * turn back into that token.
   */
  decode(tokens: Iterable<number>): string;
  decodeBatch(tokens: Iterable<Iterable<number>>): string[];
  /** The bytes of tokens, which need not be whole characters. */
  decodeBytes(tokens: Iterable<number>): Uint8Array;
}

/** What distinguishes a tokenizer: the arguments of these functions have been checked. */
interface Vocabulary {
  readonly name: Tokenizer['name'];
  readonly nVocab: number;
  encode(text: string): number[];
  bytesOf(tokens: readonly number[]): Uint8Array;
}

/** The tokenizer of a vocabulary. */
export function tokenizerOf({ name, nVocab, encode, bytesOf }: Vocabulary): Tokenizer {
  const bytes = (operation: string, tokens: Iterable<number>): Uint8Array =>
    bytesOf(checkedTokens(operation, tokens, nVocab));
  const text = (operation: string, tokens: Iterable<number>): string =>
    new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes(operation, tokens));
  return {
    name,
    nVocab,
    encode(text) {
      if (typeof text !== 'string') throw new TypeError(wrong('encode', 'text', 'a string', describe(text)));
      return encode(text);
    },
    decode: (tokens) => text('decode', tokens),
    decodeBatch(rows) {
      if (!isIterable(rows)) throw new TypeError(wrong('decodeBatch', 'tokens', 'a list of lists', describe(rows)));
      return Array.from(rows, (row, i) => text(`decodeBatch: row ${i}`, row));
    },
    decodeBytes: (tokens) => bytes('decodeBytes', tokens),
  };
}

const isIterable = (x: unknown): boolean =>
  typeof x === 'object' && x !== null && typeof (x as Partial<Iterable<unknown>>)[Symbol.iterator] === 'function';

function checkedTokens(operation: string, tokens: Iterable<number>, nVocab: number): number[] {
  if (!isIterable(tokens)) throw new TypeError(wrong(operation, 'tokens', 'a list of tokens', describe(tokens)));
  const list: number[] = [...tokens];
  list.forEach((token: unknown, i) => {
    if (Number.isInteger(token) && (token as number) >= 0 && (token as number) < nVocab) return;
    const actual = typeof token === 'string' ? token : describe(token);
    throw new RangeError(wrong(operation, `token ${i}`, `a whole number from 0 to ${nVocab - 1}`, actual));
  });
  return list;
}

/** The tokenizer of GPT-2, always the same object. Its table is read (in about 0.1 s) when it is first used. */
export const gpt2Tokenizer = (): Tokenizer => gpt2;

const gpt2 = tokenizerOf({ name: 'gpt2', nVocab: 50_257, encode, bytesOf });

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

const encoded = new TokenList();

function encode(text: string): number[] {
  try {
    appendGpt2Tokens(text, encoded);
    return encoded.toArray();
  } finally {
    encoded.clear();
  }
}

/** Appends GPT-2's tokens of a text, as `encode` gives them. */
export function appendGpt2Tokens(text: string, tokens: TokenList): void {
  const units = unitsOf(text);
  let from = 0;
  for (;;) {
    const to = text.indexOf(endOfText, from);
    encodePretokens(units, from, to < 0 ? text.length : to, tokens);
    if (to < 0) return;
    tokens.append([endOfTextToken]);
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

function encodePretokens(units: Uint16Array, from: number, to: number, tokens: TokenList): void {
  const { pairs, cache } = tables();
  for (;;) {
    tokens.reserve(mostTokens);
    const begin = cache.appendKnown(units, from, to, tokens);
    if (begin === to) return;
    from = begin;
    if (tokens.length + mostTokens > tokens.tokens.length) continue; // there was no more room
    from = pretokenEnd(units, begin, to);
    const first = tokens.length;
    pairs.encode(utf8(units, begin, from), tokens);
    if (from - begin <= longestCached) cache.add(units, begin, from, tokens.from(first));
  }
}

// Half a surrogate pair becomes U+FFFD.
const utf8 = (units: Uint16Array, from: number, to: number): Uint8Array =>
  Buffer.from(Buffer.from(units.buffer, 2 * from, 2 * (to - from)).toString('utf16le'));

function bytesOf(tokens: readonly number[]): Uint8Array {
  return tables().pairs.bytesOf(tokens);
}
