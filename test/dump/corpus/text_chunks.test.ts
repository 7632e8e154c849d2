// Oracle: tokenising whole documents at once.
import * as assert from 'uvu/assert';
import { endOfText, lastCut, longestUncut, textChunks } from '../../../src/dump/corpus/text_chunks.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { suite, throws } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('text chunks');
const { encode } = gpt2Tokenizer();

// Everything the tokenizer's pattern treats in its own way: contractions, spans of space, digits, signs, letters of
// one and two code units, combining marks, no-break and ideographic spaces, and fragments of the end-of-text mark.
const alphabet = [
  ..."  \n\t\r'sdtmvrelLS'0129.,!?-_<|>",
  ...[
    '\u00a0',
    '\u3000',
    '\u2028',
    '\ufeff',
    '\u200b',
    'é',
    'e\u0301',
    'ß',
    'ж',
    '漢',
    '字',
    'の',
    'ع',
    '١',
    '²',
    '½',
    'Ⅷ',
  ],
  ...['😀', '👩‍👧', '𝒜', '𝟘', '𐐷', '<|endoftext', '|>', "'ll", "'re", "n't", ' the', '  ', '\n\n', 'endoftext'],
];

function randomText(rng: Random, length: number): string {
  let text = '';
  while (text.length < length) text += rng.pick(alphabet);
  return text.split(endOfText).join('');
}

test('a cut changes no token, wherever it is made', () => {
  const rng = random(11);
  let cuts = 0;
  for (let round = 0; round < 400; round++) {
    const text = randomText(rng, rng.integer(20, 160));
    const whole = encode(text);
    for (let end = text.length; end > 0; end--) {
      const cut = lastCut(text.slice(0, end));
      if (cut === 0) continue;
      cuts++;
      assert.equal([...encode(text.slice(0, cut)), ...encode(text.slice(cut))], whole, JSON.stringify([text, cut]));
    }
  }
  assert.ok(cuts > 10_000, `${cuts} cuts`);
});

test('a cut is made near the end of ordinary text', () => {
  const text = 'It was a windy Monday. The wind moved the trees, and Kate was in the forest.';
  assert.ok(text.length - lastCut(text) < 25);
  assert.is(lastCut('a'.repeat(100)), 0);
  assert.is(lastCut(' '.repeat(100)), 0);
});

test('chunks give the tokens of the whole, documents and all', () => {
  const rng = random(12);
  for (let round = 0; round < 12; round++) {
    const documents = Array.from({ length: rng.integer(1, 6) }, () => randomText(rng, rng.integer(0, 60_000)));
    const text = documents.join(endOfText);
    const tokens: number[] = [];
    let ended = 0;
    for (const chunk of textChunks('a text', text)) {
      assert.ok(chunk.text.length <= 33_000);
      tokens.push(...encode(chunk.text), ...(chunk.ended ? [50256] : []));
      if (chunk.ended) ended++;
    }
    assert.equal(
      tokens,
      documents.flatMap((document, i) => [...(i > 0 ? [50256] : []), ...encode(document)]),
    );
    assert.is(ended, documents.length - 1);
  }
});

test('the chunks of a text from one of them on are the same', () => {
  const rng = random(13);
  const word = (length: number) => 'x'.repeat(length); // which cannot be cut
  for (let round = 0; round < 60; round++) {
    const parts = Array.from({ length: rng.integer(1, 5) }, () =>
      rng.pick([word(rng.integer(1, 70_000)), randomText(rng, rng.integer(1, 20_000)), ' b', endOfText]),
    );
    const text = parts.join(rng.pick(['', ' ', '. ']));
    const chunks = [...textChunks('a text', text)];
    let at = 0;
    for (const [i, chunk] of chunks.entries()) {
      assert.equal([...textChunks('a text', text.slice(at))], chunks.slice(i));
      at += chunk.text.length + (chunk.ended ? endOfText.length : 0);
    }
    assert.is(at, text.length);
  }
});

test('text without end is refused, with its origin', () => {
  const origin = { 'file.txt': 'x'.repeat(2 * longestUncut), 'line 5': `a ${'x'.repeat(2 * longestUncut)} b` };
  for (const [name, text] of Object.entries(origin)) {
    throws(() => [...textChunks(name, text)], Error, new RegExp(`^${name}: more than 1048576 characters.*xxxx`));
  }
  assert.is([...textChunks('file.txt', 'x'.repeat(longestUncut))].length, 1);
});

test.run();
