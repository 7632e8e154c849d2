// GPT-2's table as files have it. Oracle: the checksums of the published encoder.json (vocab.json) and vocab.bpe
// (merges.txt).
import { createHash } from 'node:crypto';
import * as assert from 'uvu/assert';
import {
  addedTokens,
  mergesDifference,
  mergesFileDifference,
  tokenizerDifference,
  vocabularyDifference,
} from '../../../src/files/tokenizer/gpt2_files.js';
import { suite } from '../../support/harness.js';
import { gpt2Files } from '../../support/models/gpt2_files.js';

const test = suite("files of GPT-2's tokenizer");
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

test('the vocabulary and the merges are the published ones', () => {
  const { vocab, merges } = gpt2Files();
  const ascii = (text: string) =>
    JSON.stringify(text).replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
  const lines = Object.entries(vocab)
    .sort(([, a], [, b]) => a - b)
    .map(([text, token]) => `${ascii(text)}: ${token}`);
  assert.is(sha256(`{${lines.join(', ')}}`), '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783');
  assert.is(sha256(merges), '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5');
});

test('the files of GPT-2 have no difference, whatever their version', () => {
  const { vocab, merges, tokenizer } = gpt2Files();
  assert.is(vocabularyDifference(vocab), undefined);
  const backwards = Object.fromEntries(Object.entries(vocab).reverse());
  assert.is(vocabularyDifference(backwards), undefined);
  assert.is(mergesFileDifference(merges), undefined);
  assert.is(mergesFileDifference(merges.replace('#version: 0.2\n', '').replaceAll('\n', '\r\n')), undefined);
  assert.is(tokenizerDifference(tokenizer), undefined);
  const newer = {
    ...tokenizer.model,
    type: 'BPE',
    byte_fallback: false,
    ignore_merges: false,
    unk_token: '<|endoftext|>',
  };
  const pairs = (tokenizer.model.merges as string[]).map((merge) => merge.split(' '));
  const { added_tokens: added } = tokenizer;
  const pad = { id: 50257, content: '[PAD]', special: true };
  assert.is(
    tokenizerDifference({
      ...tokenizer,
      added_tokens: [...added, pad],
      model: { ...newer, merges: pairs, vocab: { ...vocab, '[PAD]': 50257 } },
      post_processor: null,
    }),
    undefined,
  );
  assert.equal(addedTokens([...added, pad]), [
    ['<|endoftext|>', 50256],
    ['[PAD]', 50257],
  ]);
  assert.equal(addedTokens({ '[PAD]': 50257, odd: 'x', '': 1 }), [['[PAD]', 50257]]);
});

test('any other table is a difference that says what is there', () => {
  const { vocab, merges, tokenizer } = gpt2Files();
  const { a: _, ...withoutA } = vocab;
  for (const [found, pattern] of [
    [vocabularyDifference({}), /has no ! *, which is GPT-2's token 0 \(it has 0 tokens\)/],
    [vocabularyDifference(withoutA), /has no a, which is GPT-2's token 64 \(it has 50256 tokens\)/],
    [vocabularyDifference({ ...vocab, a: vocab.b as number, b: vocab.a as number }), /has a as 65, which is/],
    [vocabularyDifference({ ...vocab, 'one more': 50257 }), /has 50258 tokens, and GPT-2 50257/],
    [vocabularyDifference({ ...vocab, a: '64' }), /has a as 64/],
    [vocabularyDifference(JSON.parse('{"__proto__": 1}')), /has no !/],
    [vocabularyDifference([]), /holds no object of tokens/],
    [vocabularyDifference(null), /holds no object of tokens/],
    [mergesFileDifference(''), /has 0 merges, and GPT-2 50000/],
    [mergesFileDifference(merges.replace('h e\n', '')), /has the merge i n where GPT-2 has h e/],
    [mergesFileDifference(`${merges}x y\n`), /has the merge x y where GPT-2 has none/],
    // another way to the same token
    [mergesFileDifference(merges.replace('\nĠt he\n', '\nĠth e\n')), /has the merge .*th e where GPT-2 has .*t he/],
    [mergesDifference([[[[]]]]), /has the merge a list where/],
    [mergesDifference({}), /holds no list of merges/],
    [tokenizerDifference(null), /holds no tokenizer with a model/],
    [tokenizerDifference({ ...tokenizer, model: { ...tokenizer.model, type: 'Unigram' } }), /of the type Unigram/],
    [tokenizerDifference({ ...tokenizer, model: { ...tokenizer.model, dropout: 0.1 } }), /has dropout in its model/],
    [tokenizerDifference({ ...tokenizer, normalizer: { type: 'Lowercase' } }), /has a normalizer/],
    [tokenizerDifference({ ...tokenizer, pre_tokenizer: null }), /does not split a text as GPT-2 does/],
    [
      tokenizerDifference({ ...tokenizer, pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } }),
      /has add_prefix_space/,
    ],
    [tokenizerDifference({ ...tokenizer, post_processor: { type: 'TemplateProcessing' } }), /has a post_processor/],
    [tokenizerDifference({ ...tokenizer, model: { ...tokenizer.model, vocab: withoutA } }), /has no a, which is/],
    [tokenizerDifference({ ...tokenizer, model: { ...tokenizer.model, merges: [] } }), /has 0 merges/],
  ] as const) {
    assert.match(found ?? 'no difference', pattern);
  }
});

test.run();
