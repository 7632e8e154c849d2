// The text of tokens that come one at a time. Oracle: decode() of all of them, and of those that end with a character.
import * as assert from 'uvu/assert';
import { TextStream } from '../../../src/files/tokenizer/text_stream.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('text stream');
const enc = gpt2Tokenizer();
/** The token of a byte. GPT-2's first 256 tokens have one byte each. */
const tokenOf = Array.from({ length: 256 }, (_, byte) =>
  Array.from({ length: 256 }, (_, token) => token).find((token) => enc.decodeBytes([token])[0] === byte),
) as number[];

/** The text of each token. */
function streamed(tokens: readonly number[]): string[] {
  const stream = new TextStream(enc);
  return tokens.map((token, i) => stream.next(token, { last: i === tokens.length - 1 }));
}

const ofBytes = (...bytes: number[]): string[] => streamed(bytes.map((byte) => tokenOf[byte] as number));

test('a character comes with the token that completes it, and what is left over with the last token', () => {
  assert.is(new Set(tokenOf).size, 256);
  assert.equal(ofBytes(0xe2, 0x82, 0xac, 0x41), ['', '', '€', 'A']);
  assert.equal(ofBytes(0xf0, 0x9f, 0x98, 0x80), ['', '', '', '😀']);
  assert.equal(ofBytes(0x41, 0xe2, 0x82), ['A', '', '\ufffd']);
  assert.equal(ofBytes(0xe2), ['\ufffd']);
  assert.equal(ofBytes(0xe2, 0x41), ['', '\ufffdA']);
  assert.equal(ofBytes(0x80, 0xff, 0x41), ['\ufffd', '\ufffd', 'A']);
  assert.equal(ofBytes(0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf), ['', '', '\ufeff', '', '', '\ufeff'], 'a BOM is text');
  assert.equal(ofBytes(0, 0x1b, 0x0a), ['\0', '\x1b', '\n']);
  assert.equal(streamed([50256, 464]), ['<|endoftext|>', 'The']);
});

test('the texts joined are the text of all tokens; up to a token, they are the same but for a character that waits', () => {
  const rng = random(53);
  const bytes = [0xef, 0xbb, 0xbf, 0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82, 0xac, 0xc3, 0xa9, 0xed, 0xa0, 0xc0, 0xf4, 0x90];
  const characters = ['\ufeff', '😀', 'é€', 'naïve', '漢字', ' a', '\n'].flatMap((text) => enc.encode(text));
  const kinds = [
    () => rng.integer(0, enc.nVocab),
    () => rng.integer(0, 256),
    () => tokenOf[rng.pick(bytes)] as number,
    () => rng.pick(characters),
  ];
  let [waiting, replaced] = [0, 0];
  for (let i = 0; i < 20_000; i++) {
    const some = kinds.slice(0, rng.integer(1, 5));
    const tokens = Array.from({ length: rng.integer(1, 13) }, () => rng.pick(some)());
    const texts = streamed(tokens);
    const whole = enc.decode(tokens);
    if (texts.join('') !== whole) assert.equal(texts.join(''), whole, `tokens ${tokens}`);
    const cut = rng.integer(0, tokens.length);
    const soFar = texts.slice(0, cut).join('');
    const decoded = enc.decode(tokens.slice(0, cut));
    assert.ok(decoded === soFar || decoded === `${soFar}\ufffd`, `tokens ${tokens}, up to ${cut}`);
    waiting += texts.filter((text) => text === '').length;
    if (whole.includes('\ufffd')) replaced++;
  }
  assert.ok(waiting > 5000 && replaced > 5000, `${waiting} wait, ${replaced} with a replacement`);
});

test.run();
