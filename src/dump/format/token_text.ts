// The text of single tokens, for people.
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';

const texts = new Map<number, string>();

/** Many tokens are a fragment of a character, which shows as U+FFFD. */
export function textOf(token: number): string {
  const known = texts.get(token);
  if (known !== undefined) return known;
  const text = gpt2Tokenizer().decode([token]);
  texts.set(token, text);
  return text;
}
