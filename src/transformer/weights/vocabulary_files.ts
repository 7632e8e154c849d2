// The vocabulary of a model in Hugging Face's layout, by the files of its tokenizer: only GPT-2's own is known here.
import { readText } from '../../files/blob/blob.js';
import { isBlobUrl, joined } from '../../files/blob/blob_address.js';
import { shown } from '../../files/text.js';
import {
  addedTokens,
  mergesFileDifference,
  tokenizerDifference,
  vocabularyDifference,
} from '../../files/tokenizer/gpt2_files.js';
import type { ModelVocabulary } from '../../files/tokenizer/model_tokenizer.js';
import { endOfTextToken, gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';

/** Ten times what GPT-2's largest one has, in bytes. */
const largestFile = 2 ** 24;

/** The files of tokenizers of other kinds. */
const otherKinds = ['vocab.txt', 'tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model'];

/** The most rows of an embedding that is padded: 50,257 tokens, up to a multiple of 1024. */
const mostPadded = 51_200;

const classes = ['GPT2Tokenizer', 'GPT2TokenizerFast', 'PreTrainedTokenizerFast', 'TokenizersBackend'];

/**
 * The vocabulary of the model in a folder or at an address, with its config.json and the rows of its embedding. It never
 * fails: a file that cannot be read or understood is a reason why the vocabulary is not known.
 */
export async function vocabularyOf(
  base: string,
  config: Readonly<Record<string, unknown>>,
  rows: number,
): Promise<ModelVocabulary> {
  const files = new Files(base);
  const [tokenizer, vocabulary, merges, added, settings] = await Promise.all([
    files.json('tokenizer.json'),
    files.json('vocab.json'),
    files.text('merges.txt'),
    files.json('added_tokens.json'),
    files.json('tokenizer_config.json'),
  ]);
  files.compare(tokenizer, tokenizerDifference);
  files.compare(vocabulary, vocabularyDifference);
  files.compare(merges, mergesFileDifference);
  files.compare(settings, settingsDifference);
  files.compare({ name: 'config.json', content: config }, settingsDifference);
  const known = files.compared > 0;
  if (!known && files.unreadable.length === 0) await Promise.all(otherKinds.map((name) => files.mustNotHave(name)));
  const texts = new Map<string, number>();
  for (const [{ name }, list] of [
    [tokenizer, (tokenizer.content as { added_tokens?: unknown } | undefined)?.added_tokens],
    [added, added.content],
    [settings, decoderTokens(settings.content)],
  ] as const) {
    for (const [text, token] of addedTokens(list)) {
      if (text !== endOfText) texts.set(text, token);
      else if (token !== endOfTextToken) files.differ(name, `has ${endOfText} as ${token}`);
    }
  }
  const { nVocab } = gpt2Tokenizer();
  if (!known && (rows < nVocab || rows > mostPadded)) {
    files.differ('config.json', `is of ${rows} tokens, GPT-2 has ${nVocab}, and there is no file of its tokenizer`);
  }
  const differs = files.differences[0] ?? (known ? undefined : files.unreadable[0]);
  return { differs, added: texts };
}

const endOfText = '<|endoftext|>';

/** A file's content; undefined when there is no such file, or it could not be read. */
interface Read {
  readonly name: string;
  readonly content?: unknown;
}

class Files {
  /** How many of the files with tables are there. */
  compared = 0;
  readonly differences: string[] = [];
  /** Why files could not be asked for: they may be there or not. */
  readonly unreadable: string[] = [];
  readonly #base: string;

  constructor(base: string) {
    this.#base = base;
  }

  async text(name: string): Promise<Read & { readonly content?: string }> {
    const path = joined(this.#base, name);
    try {
      return { name, content: await readText('Transformer.load', path, largestFile) };
    } catch (error) {
      const message = (error as Error).message.replace(/^Transformer\.load: /, '');
      if (/there is no such/.test(message)) return { name };
      const mayBeMissing = isBlobUrl(path) && !/bytes, more than/.test(message);
      (mayBeMissing ? this.unreadable : this.differences).push(message);
      return { name };
    }
  }

  async json(name: string): Promise<Read> {
    const { content } = await this.text(name);
    if (content === undefined) return { name };
    try {
      return { name, content: JSON.parse(content) };
    } catch (error) {
      this.differ(name, `is not JSON: ${(error as Error).message}`);
      return { name };
    }
  }

  async mustNotHave(name: string): Promise<void> {
    const { content } = await this.text(name);
    if (content !== undefined) this.differ(name, 'is of another tokenizer');
  }

  compare<T>({ name, content }: { name: string; content?: T }, difference: (content: T) => string | undefined): void {
    if (content === undefined) return;
    if (!name.includes('config')) this.compared++;
    const found = difference(content);
    if (found !== undefined) this.differ(name, found);
  }

  differ(name: string, how: string): void {
    const path = joined(this.#base, name);
    this.differences.push(`${isBlobUrl(path) ? path.split('?')[0] : path} ${how}`);
  }
}

/** Of a tokenizer_config.json, or a config.json. */
function settingsDifference(settings: unknown): string | undefined {
  const { tokenizer_class: kind, ...flags } = (settings ?? {}) as Record<string, unknown>;
  if (typeof kind === 'string' && !classes.includes(kind)) return `has the tokenizer_class ${shown(kind)}`;
  const odd = ['add_prefix_space', 'add_bos_token'].find((name) => flags[name] === true);
  return odd && `has ${odd}, which GPT-2 has not`;
}

/** The added_tokens_decoder of a tokenizer_config.json, as a tokenizer.json lists them. */
function decoderTokens(settings: unknown): unknown[] {
  const { added_tokens_decoder: decoder } = (settings ?? {}) as { added_tokens_decoder?: unknown };
  if (typeof decoder !== 'object' || decoder === null) return [];
  return Object.entries(decoder).map(([id, token]) => ({
    content: (token as Partial<Token> | null)?.content,
    id: Number(id),
  }));
}

interface Token {
  readonly content: unknown;
}
