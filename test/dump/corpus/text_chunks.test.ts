// Oracle: tokenising whole documents at once.
import * as assert from 'uvu/assert';
import { endOfText, lastCut, longestUncut, TextCutter } from '../../../src/dump/corpus/text_chunks.js';
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

test('chunks of any size give the tokens of the whole, documents and all', () => {
  const rng = random(12);
  for (let round = 0; round < 12; round++) {
    const documents = Array.from({ length: rng.integer(1, 6) }, () => randomText(rng, rng.integer(0, 60_000)));
    const text = documents.join(endOfText);
    const tokens: number[] = [];
    let ended = 0;
    const take = (chunks: Iterable<{ text: string; ended: boolean }>) => {
      for (const chunk of chunks) {
        assert.ok(chunk.text.length <= 70_000);
        tokens.push(...encode(chunk.text), ...(chunk.ended ? [50256] : []));
        if (chunk.ended) ended++;
      }
    };
    const cutter = new TextCutter('a text');
    for (let at = 0; at < text.length; ) {
      const size = rng.pick([1, 2, 13, 1000, 65_536]);
      take(cutter.add(text.slice(at, at + size)));
      at += size;
    }
    take(cutter.end());
    assert.equal(
      tokens,
      documents.flatMap((document, i) => [...(i > 0 ? [50256] : []), ...encode(document)]),
    );
    assert.is(ended, documents.length - 1);
  }
});

test('text without end is refused, with its origin', () => {
  const cutter = new TextCutter('file.txt');
  const chunk = 'x'.repeat(65_536);
  const feed = (): void => {
    for (let size = 0; size < 2 * longestUncut; size += chunk.length) assert.equal([...cutter.add(chunk)], []);
  };
  throws(feed, Error, /file\.txt: more than 1048576 characters.*"xxxx/);
  const atOnce = new TextCutter('line 5');
  const text = `a ${'x'.repeat(2 * longestUncut)} b`;
  throws(() => [...atOnce.add(text), ...atOnce.end()], Error, /line 5: more than/);
});

test.run();
