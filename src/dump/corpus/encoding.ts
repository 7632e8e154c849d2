// Encodes text as tokens, and checks them: small models have fewer than the tokenizer, and a tokenizer may be the
// user's own.
import { describe } from '../../engine/check.js';
import type { TokenList } from '../../files/tokenizer/token_list.js';
import { appendGpt2Tokens, gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { endOfText, isOneChunk, textChunks } from './text_chunks.js';

/** What tokens are made with. */
export interface Encoding {
  readonly encode: (text: string) => number[];
  readonly nVocab: number;
  /** The token that ends a document. A tokenizer that is not known has none, nor has one that splits the mark. */
  readonly mark: number | undefined;
}

/** The mark is looked up where it is needed: for files of tokens. */
export function encodingOf({ encode, nVocab }: Omit<Encoding, 'mark'>): Encoding {
  let found: { readonly mark: number | undefined } | undefined;
  return {
    encode,
    nVocab,
    get mark() {
      found ??= { mark: markOf(encode) };
      return found.mark;
    },
  };
}

function markOf(encode: Encoding['encode']): number | undefined {
  try {
    const tokens = encode(endOfText);
    return tokens.length === 1 ? tokens[0] : undefined;
  } catch {
    return undefined;
  }
}

/** Generators have no constructor with a name. */
export const describeItem = (item: unknown): string =>
  item !== null && typeof item === 'object'
    ? `a ${item.constructor?.name || Object.prototype.toString.call(item).slice('[object '.length, -1)}`
    : describe(item);

function encoded(origin: string, encode: Encoding['encode'], text: string): number[] {
  let tokens: unknown;
  try {
    tokens = encode(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : `encode of the tokenizer threw ${describeItem(cause)}`;
    throw new Error(`${origin}: ${why}`, { cause });
  }
  if (ArrayBuffer.isView(tokens) && !(tokens instanceof DataView)) return Array.from(tokens as Int32Array);
  if (Array.isArray(tokens)) return tokens;
  if (tokens instanceof Promise) tokens.catch(() => {}); // nobody waits for it
  throw new TypeError(
    `${origin}: encode of the tokenizer must return an array of tokens, but returned ${describeItem(tokens)}`,
  );
}

/**
 * Appends the tokens of a text.
 * @throws Error that begins with `origin` when the text has a token that the model lacks.
 */
export function appendTokens(
  origin: string,
  text: string,
  { encode, nVocab }: Omit<Encoding, 'mark'>,
  list: TokenList,
): void {
  if (encode === gpt2Tokenizer().encode) {
    const from = list.length;
    appendGpt2Tokens(text, list);
    if (nVocab < gpt2Tokenizer().nVocab) checkTokens(origin, list.from(from), nVocab);
  } else {
    const tokens = encoded(origin, encode, text);
    checkTokens(origin, tokens, nVocab);
    list.append(tokens);
  }
}

function checkTokens(origin: string, tokens: ArrayLike<number>, nVocab: number): void {
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] as number;
    if (token >>> 0 === token && token < nVocab) continue;
    if (!(Number.isInteger(token) && token >= 0)) {
      const what = 'encode of the tokenizer must return integers of 0 or more';
      throw new RangeError(`${origin}: ${what}, but returned ${describe(token)}`);
    }
    throw new RangeError(`${origin}: the text has token ${token}, but the model's tokens end at ${nVocab - 1}`);
  }
}

/** A piece of a text whose tokens have been appended. */
export interface EncodedChunk {
  /** The index in the text, in UTF-16, at which the chunk begins. */
  readonly at: number;
  /** The index at which it ends. */
  readonly end: number;
}

/** Appends the tokens of a text, an `<|endoftext|>` in it included, in chunks that the event loop can bear. */
export function encodedChunks(
  origin: string,
  text: string,
  encoding: Omit<Encoding, 'mark'>,
  list: TokenList,
): Iterable<EncodedChunk> {
  if (!isOneChunk(text)) return chunksOfLong(origin, text, encoding, list);
  appendTokens(origin, text, encoding, list); // most documents are short, and generators take their time
  return [{ at: 0, end: text.length }];
}

function* chunksOfLong(
  origin: string,
  text: string,
  encoding: Omit<Encoding, 'mark'>,
  list: TokenList,
): Generator<EncodedChunk> {
  let at = 0;
  for (const chunk of textChunks(origin, text)) {
    appendTokens(origin, chunk.text, encoding, list);
    if (chunk.ended) appendTokens(origin, endOfText, encoding, list);
    const end = at + chunk.text.length + (chunk.ended ? endOfText.length : 0);
    yield { at, end };
    at = end;
  }
}
