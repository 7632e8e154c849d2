// The text of tokens, for people.
import { modelTokenizer } from '../../files/tokenizer/model_tokenizer.js';
import type { Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { DumpSettings } from './settings.js';

type Name = DumpSettings['tokenizer'];

/** Any token has a text: manifests and shards may come from anywhere. */
const anyToken = 2 ** 31;
const tokenizers = new Map<Name, Tokenizer>();
const texts = new Map<Name, Map<number, string>>();

function tokenizerOf(name: Name): Tokenizer {
  const known = tokenizers.get(name);
  if (known) return known;
  const made = modelTokenizer(anyToken, name === 'gpt2' ? {} : { differs: 'the manifest of the dump says so' });
  tokenizers.set(name, made);
  return made;
}

/**
 * The text of a token. Many tokens are a fragment of a character, which shows as U+FFFD. A token beyond GPT-2's, or of a
 * tokenizer that is not known, is shown by its number: `<|50300|>`.
 */
export function textOf(token: number, tokenizer: Name = 'gpt2'): string {
  const known = texts.get(tokenizer) ?? new Map<number, string>();
  texts.set(tokenizer, known);
  const text = known.get(token) ?? tokenizerOf(tokenizer).decode([token]);
  known.set(token, text);
  return text;
}

/** The text of consecutive tokens, in which their fragments of characters are whole again. */
export const textOfAll = (tokens: readonly number[], tokenizer: Name): string => tokenizerOf(tokenizer).decode(tokens);
