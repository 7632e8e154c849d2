// The text of tokens, for people.
import { modelTokenizer } from '../../files/tokenizer/model_tokenizer.js';
import type { Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { DumpSettings } from './settings.js';

type Name = DumpSettings['tokenizer'];

/** More than any vocabulary has. */
const anyVocabulary = 2 ** 31;

interface Known {
  readonly tokenizer: Tokenizer;
  readonly texts: Map<number, string>;
}

const known = new Map<string, Known>();

function tokenizerOf(name: Name, nVocab: number): Known {
  const key = `${name} ${nVocab}`;
  const found = known.get(key);
  if (found) return found;
  const differs = name === 'gpt2' ? {} : { differs: 'the manifest of the dump says so' };
  const made = { tokenizer: modelTokenizer(nVocab, differs), texts: new Map<number, string>() };
  known.set(key, made);
  return made;
}

/**
 * The text of a token. Many tokens are a fragment of a character, which shows as U+FFFD. A token beyond GPT-2's, or of a
 * tokenizer that is not known, is shown by its number: `<|50300|>`.
 * @throws RangeError for a token that neither GPT-2 nor a vocabulary of `nVocab` tokens has.
 */
export function textOf(token: number, name: Name = 'gpt2', nVocab = anyVocabulary): string {
  const { tokenizer, texts } = tokenizerOf(name, nVocab);
  const text = texts.get(token) ?? tokenizer.decode([token]);
  texts.set(token, text);
  return text;
}

/** The text of consecutive tokens, in which their fragments of characters are whole again. */
export const textOfAll = (tokens: readonly number[], name: Name): string =>
  tokenizerOf(name, anyVocabulary).tokenizer.decode(tokens);
