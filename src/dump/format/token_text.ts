// The text of single tokens, for people.
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { DumpSettings } from './settings.js';

const texts = new Map<number, string>();

/**
 * The text of a token. Many tokens are a fragment of a character, which shows as U+FFFD. Where the tokenizer is not
 * known, it is the token's number: `<token 17>`.
 */
export function textOf(token: number, tokenizer: DumpSettings['tokenizer'] = 'gpt2'): string {
  if (tokenizer !== 'gpt2') return `<token ${token}>`;
  const known = texts.get(token);
  if (known !== undefined) return known;
  const text = gpt2Tokenizer().decode([token]);
  texts.set(token, text);
  return text;
}

/** The text of consecutive tokens, in which their fragments of characters are whole again. */
export const textOfAll = (tokens: readonly number[], tokenizer: DumpSettings['tokenizer']): string =>
  tokenizer === 'gpt2' ? gpt2Tokenizer().decode(tokens) : tokens.map((token) => textOf(token, tokenizer)).join('');
