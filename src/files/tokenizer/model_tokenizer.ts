// The tokenizer of a model: GPT-2's, with placeholders for the tokens that the model has beyond GPT-2's; or, for a model
// with a vocabulary of its own, one that takes no text.
import { gpt2Tokenizer, type Tokenizer, tokenizerOf } from './tokenizer.js';

/** What a model's files say about its tokens. */
export interface ModelVocabulary {
  /** Why they are not known to be GPT-2's: a file or an address, and what is different there; undefined if they are. */
  readonly differs?: string | undefined;
  /** The texts of tokens that are added to GPT-2's, as they stand in a text, and the tokens. */
  readonly added?: ReadonlyMap<string, number>;
}

const placeholder = (token: number): Uint8Array => Buffer.from(`<|${token}|>`);

/** The tokenizer of a model whose embedding has `nVocab` rows. */
export function modelTokenizer(nVocab: number, { differs, added = new Map() }: ModelVocabulary = {}): Tokenizer {
  const gpt2 = gpt2Tokenizer();
  if (differs !== undefined) {
    return tokenizerOf({
      name: 'unknown',
      nVocab,
      encode() {
        throw new Error(`encode: the model takes tokens, but no text, as its vocabulary is not GPT-2's: ${differs}`);
      },
      bytesOf: (tokens) => Buffer.concat(tokens.map(placeholder)),
    });
  }
  if (nVocab <= gpt2.nVocab && added.size === 0) return gpt2;
  const tokenizer = tokenizerOf({
    name: 'gpt2',
    nVocab: Math.max(nVocab, gpt2.nVocab),
    encode(text) {
      for (const [name, token] of added) {
        if (!text.includes(name)) continue;
        const held = JSON.stringify(name.slice(0, 60));
        throw new Error(
          `encode: the text holds ${held}, which is the token ${token} that the model adds to GPT-2's; give tokens instead of a text with it`,
        );
      }
      return gpt2.encode(text);
    },
    bytesOf(tokens) {
      if (tokens.every((token) => token < gpt2.nVocab)) return gpt2.decodeBytes(tokens);
      return Buffer.concat(
        tokens.map((token) => (token < gpt2.nVocab ? gpt2.decodeBytes([token]) : placeholder(token))),
      );
    },
  });
  // A corpus can be tokenised on threads, and have an index, where this is GPT-2's own function.
  return added.size === 0 ? { ...tokenizer, encode: gpt2.encode } : tokenizer;
}
