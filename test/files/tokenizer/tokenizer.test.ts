// Oracle: token numbers that tiktoken gave, the reference's prompts, and byte pair encoding by its definition: the
// pre-tokens found one character at a time, the lowest pair merged over and over.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { suite, throws } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('tokenizer');
const { encode, decode, decodeBatch, decodeBytes, nVocab } = gpt2Tokenizer();
const assets = join(dirname(fileURLToPath(import.meta.url)), '../../../../assets/demo');

const { default: ranks } = createRequire(import.meta.url)('gpt-tokenizer/bpeRanks/r50k_base') as {
  default: (string | number[])[];
};
const tokenOf = new Map(ranks.map((token, rank) => [Buffer.from(token as string).toString('latin1'), rank]));

type Kind = 'space' | 'letter' | 'number' | 'other';

function kindOf(char: string): Kind {
  if (/\p{White_Space}/u.test(char)) return 'space';
  if (/\p{L}/u.test(char)) return 'letter';
  return /\p{N}/u.test(char) ? 'number' : 'other';
}

// The pre-tokens of a text: a contraction; else a span of one kind, with a space before it; of white space, all but the
// last character, which may belong to the next pre-token.
function pretokensOf(text: string): string[] {
  const chars = [...text];
  const kinds = chars.map(kindOf);
  const spanEnd = (i: number) => {
    let end = i + 1;
    while (end < chars.length && kinds[end] === kinds[i]) end++;
    return end;
  };
  const endOf = (i: number): number => {
    const contraction = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].find(
      (c) => chars.slice(i, i + c.length).join('') === c,
    );
    if (contraction) return i + contraction.length;
    if (kinds[i] !== 'space') return spanEnd(i);
    if (chars[i] === ' ' && i + 1 < chars.length && kinds[i + 1] !== 'space') return spanEnd(i + 1);
    const end = spanEnd(i);
    return end === chars.length || end === i + 1 ? end : end - 1;
  };
  const pretokens: string[] = [];
  for (let i = 0; i < chars.length; ) {
    const end = endOf(i);
    pretokens.push(chars.slice(i, end).join(''));
    i = end;
  }
  return pretokens;
}

function mergedByDefinition(pretoken: string): number[] {
  const parts = Array.from(Buffer.from(pretoken).toString('latin1'));
  for (;;) {
    let best = { rank: Infinity, at: -1 };
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = tokenOf.get(`${parts[i]}${parts[i + 1]}`);
      if (rank !== undefined && rank < best.rank) best = { rank, at: i };
    }
    if (best.at < 0) return parts.map((part) => tokenOf.get(part) as number);
    parts.splice(best.at, 2, `${parts[best.at]}${parts[best.at + 1]}`);
  }
}

const byDefinition = (text: string): number[] =>
  text
    .split('<|endoftext|>')
    .flatMap((part, i) => [...(i > 0 ? [50_256] : []), ...pretokensOf(part).flatMap(mergedByDefinition)]);

const fragments = [
  ..."aeZ09 \n\t.,'!?<|>é漢ß٣½Ⅷ\u0301😀\u00a0\u0085\ufeff\u2028\u3000\u200b\u1680\u180e\x1c\0\ud800\udc00",
  ...[
    "'s",
    "'ll",
    "'RE",
    '  ',
    '   ',
    '\r\n',
    ' the',
    'ing',
    'Hello',
    '<|endoftext|>',
    '<|endof',
    '🇩🇪',
    '👩‍👩‍👧',
    '한국어',
    '12345',
    '----',
    '\ud83d',
  ],
];
const randomText = (r: Random, length: number) => Array.from({ length }, () => r.pick(fragments)).join('');

test('letters and numbers are those of Unicode 16, as in tiktoken', () => {
  const { encode } = gpt2Tokenizer();
  const apart = (char: string) => encode(`${char}'s`).at(-1) === 338; // after a letter or number, 's is a pre-token
  for (const char of ['\u{31350}', '\u{105c0}', '\u{11bf0}', '\u{1c89}', 'a', '7']) assert.ok(apart(char), char);
  for (const char of ['\u{323b0}', '\u{88f}', '\u{11de0}', '\u{e0000}', '!']) assert.not.ok(apart(char), char);
});

test('known texts have the tokens that tiktoken gives', () => {
  assert.is(nVocab, 50_257);
  assert.equal(encode('hello<|endoftext|>world'), [31373, 50256, 6894]);
  assert.equal(encode('<|endoftext|><|endoftext|>'), [50256, 50256]);
  assert.equal(encode(''), []);
  assert.equal(encode('hello world'), [31373, 995]);
  assert.equal(decode([47249]), '\ufffd');
  const { prompts } = JSON.parse(readFileSync(join(assets, 'expected.json'), 'utf8'));
  for (const [prompt, tokens] of Object.entries(prompts)) {
    assert.equal(encode(prompt), tokens);
    assert.is(decode(tokens as number[]), prompt);
  }
});

test('random texts have the tokens of the definition, and read back', () => {
  const r = random(1);
  for (let i = 0; i < 6000; i++) {
    const text = randomText(r, r.integer(0, 24));
    const tokens = encode(text);
    assert.equal(tokens, byDefinition(text), JSON.stringify(text));
    assert.is(decode(tokens), Buffer.from(text).toString(), JSON.stringify(text));
  }
});

test('random characters of all of Unicode read back', () => {
  const r = random(2);
  for (let i = 0; i < 2000; i++) {
    const text = Array.from({ length: 12 }, () =>
      String.fromCodePoint(r.integer(0, 2 ** r.integer(4, 21)) % 0x110000),
    ).join('');
    const tokens = encode(text);
    assert.equal(tokens, byDefinition(text), JSON.stringify(text));
    assert.is(decode(tokens), Buffer.from(text).toString());
  }
});

test('long pre-tokens have the tokens of the definition', () => {
  const r = random(3);
  for (const letters of ['a', 'ab', 'etaoin', 'ACGT', '-=', ' ', '漢字', 'éa', '01']) {
    for (const length of [100, 700, 2500]) {
      const text = Array.from({ length }, () => r.pick([...letters])).join('');
      assert.equal(encode(text), byDefinition(text), `${length} of ${letters}`);
    }
  }
});

test('the sample text has the tokens of the definition', () => {
  const text = readFileSync(join(assets, 'stories-sample.txt'), 'utf8');
  const tokens = encode(text);
  assert.equal(tokens, byDefinition(text));
  assert.is(decode(tokens), text);
});

test(
  'a million letters without a space are encoded in reasonable time',
  () => {
    for (const [letters, tokens] of [
      ['a', 250_000],
      [' ', 1_000_000],
      ['漢', undefined],
    ] as const) {
      const text = letters.repeat(1_000_000);
      const encoded = encode(text);
      if (tokens) assert.is(encoded.length, tokens);
      assert.ok(decode(encoded) === text);
    }
  },
  { limit: 20_000 },
);

test('a pre-token too long for its tables is an error that says so, and the next text is encoded', () => {
  throws(() => encode('漢'.repeat(6_000_000)), RangeError, /a word of 18000000 bytes .* 16777216 at most/);
  assert.equal(encode('hello world'), [31373, 995]);
});

test('every token that is a pre-token is encoded as itself', () => {
  for (const [bytes, token] of tokenOf) {
    const text = Buffer.from(bytes, 'latin1').toString();
    if (text.includes('\ufffd') || pretokensOf(text).length !== 1) continue;
    assert.equal(encode(text), [token], JSON.stringify(text));
  }
});

// More pre-tokens than are kept, longer ones than are kept, and the same ones again after they have been forgotten.
test('pre-tokens are found again and forgotten without a change', () => {
  const r = random(4);
  const pretokenAt = (i: number) => ` ${(i * 7919).toString(36)}${i % 500 === 0 ? 'x'.repeat(i % 90) : ''}q`;
  const sample = Array.from({ length: 300 }, () => r.integer(0, 399_999));
  const expected = sample.map((i) => byDefinition(pretokenAt(i)));
  for (let from = 0; from < 400_000; from += 4000) {
    encode(Array.from({ length: 4000 }, (_, i) => pretokenAt(from + i)).join(''));
    if (from % 40_000 === 0)
      assert.equal(
        sample.map((i) => encode(pretokenAt(i))),
        expected,
      );
  }
});

test('characters in parts decode to U+FFFD, and nothing is kept for the next call', () => {
  const emoji = encode('😀');
  assert.ok(emoji.length > 1);
  assert.is(decode(emoji), '😀');
  assert.is(decode(emoji.slice(0, 1)), '\ufffd');
  assert.is(decode([64]), 'a');
  assert.equal(decodeBatch([emoji, [64], emoji.slice(0, 1), []]), ['😀', 'a', '\ufffd', '']);
  assert.equal(Buffer.concat(emoji.map((token) => decodeBytes([token]))).toString(), '😀');
  assert.is(decode(encode('\ufeffa\ufeff')), '\ufeffa\ufeff');
  assert.is(decode(encode('a\ud800b')), 'a\ufffdb');
  assert.is(decode([50_256]), '<|endoftext|>');
  assert.is(decode(Int32Array.of(31373, 995)), 'hello world');
});

test('every token has its bytes', () => {
  for (const [bytes, token] of tokenOf) {
    assert.is(Buffer.from(decodeBytes([token])).toString('latin1'), bytes);
  }
});

test('numbers that are no tokens are refused', () => {
  for (const [token, shown] of [
    [50_257, '50257'],
    [-1, '-1'],
    [1.5, '1\\.5'],
    [NaN, 'NaN'],
    ['7', '7'],
  ] as const) {
    throws(
      () => decode([0, token as number]),
      RangeError,
      new RegExp(`^decode: token 1 must be .* 50256, but is ${shown}$`),
    );
  }
  throws(() => decodeBatch([[0], [99_999]]), RangeError, /token 0 must be/);
  throws(() => encode(7 as unknown as string), TypeError, /encode: text must be a string/);
});

test.run();
