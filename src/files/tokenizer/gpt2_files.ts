// Compares the tables in the files of Hugging Face's tokenizers (vocab.json, merges.txt, tokenizer.json) with GPT-2's.
// Each function returns the first difference it finds, in words that follow the file's name; undefined when there is
// none.
import { shown } from '../text.js';
import { endOfTextToken, gpt2Tokenizer } from './tokenizer.js';

export interface Gpt2Table {
  /** Each token as files spell it, by its number, without <|endoftext|>. */
  readonly texts: readonly string[];
  readonly tokens: ReadonlyMap<string, number>;
  /** Of each token that results from a merge, the two that are merged, with a space between. */
  readonly merges: readonly string[];
}

const endOfText = '<|endoftext|>';
const bytes = 256;

let known: Gpt2Table | undefined;

/** GPT-2's table as its files have it. The first call takes half a second. */
export function gpt2Table(): Gpt2Table {
  if (known) return known;
  const spelt = spellings();
  const texts = Array.from({ length: endOfTextToken }, (_, token) =>
    Array.from(gpt2Tokenizer().decodeBytes([token]), (byte) => spelt[byte]).join(''),
  );
  const tokens = new Map(texts.map((text, token) => [text, token]));
  const merges = texts.slice(bytes).map((text, i) => mergedFrom(text, bytes + i, tokens));
  known = { texts, tokens, merges };
  return known;
}

/**
 * A printable character for each byte, as GPT-2's files have them (bytes_to_unicode() of its encoder.py): printable
 * bytes of Latin-1 are themselves, the others are U+0100 and following.
 */
function spellings(): string[] {
  const isPrintable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 0;
  return Array.from({ length: bytes }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : 256 + others++));
}

/** The two parts that are left of a token when only the merges before its own are made. */
function mergedFrom(text: string, token: number, tokens: ReadonlyMap<string, number>): string {
  const parts = [...text];
  while (parts.length > 2) {
    let lowest = token;
    let at = 0;
    for (let i = 0; i + 1 < parts.length; i++) {
      const merged = tokens.get((parts[i] as string) + (parts[i + 1] as string)) ?? token;
      if (merged < lowest) [lowest, at] = [merged, i];
    }
    parts.splice(at, 2, (parts[at] as string) + (parts[at + 1] as string));
  }
  return parts.join(' ');
}

const isObject = (x: unknown): x is Record<string, unknown> => typeof x === 'object' && x !== null && !Array.isArray(x);

/** Of a vocabulary: an object of tokens by their text. */
export function vocabularyDifference(vocabulary: unknown): string | undefined {
  if (!isObject(vocabulary)) return 'holds no object of tokens';
  const { texts } = gpt2Table();
  const count = Object.keys(vocabulary).length;
  for (const [token, text] of [...texts, endOfText].entries()) {
    const there = Object.hasOwn(vocabulary, text) ? vocabulary[text] : undefined;
    if (there === token) continue;
    const has = there === undefined ? `has no ${shown(text)}` : `has ${shown(text)} as ${shown(there)}`;
    return `${has}, which is GPT-2's token ${token} (it has ${count} tokens)`;
  }
  return count === texts.length + 1 ? undefined : `has ${count} tokens, and GPT-2 ${texts.length + 1}`;
}

const isPair = (x: unknown): x is [string, string] =>
  Array.isArray(x) && x.length === 2 && x.every((text) => typeof text === 'string');

/** Of a list of merges in their order, each `first second` or a pair of texts. */
export function mergesDifference(merges: unknown): string | undefined {
  if (!Array.isArray(merges)) return 'holds no list of merges';
  const expected = gpt2Table().merges;
  for (const [i, merge] of merges.entries()) {
    const text = isPair(merge) ? merge.join(' ') : merge;
    if (text !== expected[i]) return `has the merge ${shown(text)} where GPT-2 has ${shown(expected[i] ?? 'none')}`;
  }
  return merges.length === expected.length ? undefined : `has ${merges.length} merges, and GPT-2 ${expected.length}`;
}

/** Of the lines of merges.txt, of which the first may be `#version: 0.2`. */
export function mergesFileDifference(text: string): string | undefined {
  const lines = text.split(/\r?\n/);
  if (lines[0]?.startsWith('#version')) lines.shift();
  while (lines.at(-1) === '') lines.pop();
  return mergesDifference(lines);
}

/** Of a tokenizer.json: its model, and what it does before and after. Added tokens are not looked at. */
export function tokenizerDifference(tokenizer: unknown): string | undefined {
  if (!isObject(tokenizer) || !isObject(tokenizer.model)) return 'holds no tokenizer with a model';
  const { model, normalizer = null, pre_tokenizer: before, post_processor: after = null } = tokenizer;
  const { type = 'BPE', vocab, merges, ...settings } = model;
  if (type !== 'BPE') return `has a model of the type ${shown(type)}, and GPT-2 BPE`;
  const odd = Object.keys(settings).find((name) => name !== 'unk_token' && settings[name]); // bytes are never unknown
  if (odd !== undefined) return `has ${shown(odd)} in its model, which GPT-2 has not`;
  if (normalizer !== null) return 'has a normalizer, which GPT-2 has not';
  const isByteLevel = (x: unknown): x is Record<string, unknown> => isObject(x) && x.type === 'ByteLevel';
  if (!isByteLevel(before) || before.use_regex === false) return 'does not split a text as GPT-2 does';
  if (before.add_prefix_space === true) return 'has add_prefix_space, which GPT-2 has not';
  if (after !== null && !isByteLevel(after)) return 'has a post_processor, which GPT-2 has not';
  return withoutAdded(vocab, tokenizer.added_tokens, vocabularyDifference) ?? mergesDifference(merges);
}

/** The same of a vocabulary in which added tokens may stand, too, or from which <|endoftext|> may be missing. */
function withoutAdded(
  vocabulary: unknown,
  added: unknown,
  difference: (vocabulary: unknown) => string | undefined,
): string | undefined {
  if (!isObject(vocabulary)) return difference(vocabulary);
  const own = Object.assign(Object.create(null), vocabulary) as Record<string, unknown>;
  for (const [text, token] of addedTokens(added)) {
    if (token > endOfTextToken) delete own[text];
    else if (text === endOfText) own[text] ??= token;
  }
  return difference(own);
}

/** The `added_tokens` of tokenizer.json, or an added_tokens.json, as pairs of text and token. */
export function addedTokens(added: unknown): [text: string, token: number][] {
  const pairs: [unknown, unknown][] = Array.isArray(added)
    ? added.filter(isObject).map(({ content, id }) => [content, id])
    : Object.entries(isObject(added) ? added : {});
  return pairs.filter(
    (pair): pair is [string, number] =>
      typeof pair[0] === 'string' && pair[0] !== '' && Number.isSafeInteger(pair[1]) && (pair[1] as number) >= 0,
  );
}
