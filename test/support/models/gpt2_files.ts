// The files of GPT-2's tokenizer, as Hugging Face has them.
import { gpt2Table } from '../../../src/files/tokenizer/gpt2_files.js';

export interface TokenizerJson {
  added_tokens: unknown[];
  model: { vocab: Record<string, number>; merges: unknown[] } & Record<string, unknown>;
  [key: string]: unknown;
}

export function gpt2Files(): { vocab: Record<string, number>; merges: string; tokenizer: TokenizerJson } {
  const { texts, merges } = gpt2Table();
  const vocab = Object.fromEntries([...texts, '<|endoftext|>'].map((text, token) => [text, token]));
  const endOfText = { id: 50256, content: '<|endoftext|>', single_word: false, lstrip: false, rstrip: false };
  return {
    vocab,
    merges: `#version: 0.2\n${merges.join('\n')}\n`,
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [{ ...endOfText, normalized: true, special: true }],
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
      post_processor: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false },
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true },
      model: {
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: '',
        end_of_word_suffix: '',
        fuse_unk: false,
        vocab: { ...vocab },
        merges: [...merges],
      },
    },
  };
}
