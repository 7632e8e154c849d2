// Oracle: the tokens of whole documents, and the sections of a reading from the start.
import * as assert from 'uvu/assert';
import { chunkReader } from '../../../src/dump/corpus/byte_reader.js';
import { encodingOf } from '../../../src/dump/corpus/encoding.js';
import { type SectionKind, sectionTokens } from '../../../src/dump/corpus/section_tokens.js';
import {
  type Cutter,
  firstCut,
  lineCutter,
  type Section,
  type SectionOptions,
  sectionsOf,
  textCutter,
  tokenCutter,
} from '../../../src/dump/corpus/sections.js';
import { endOfText } from '../../../src/dump/corpus/text_chunks.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('sections');
const encoding = encodingOf({ encode: gpt2Tokenizer().encode, nVocab: 50_257 });

async function* inPieces(bytes: Buffer, rng: Random): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const size = rng.pick([1, 2, 7, 50, 400, 5000]);
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

async function listed(bytes: Buffer, cutter: Cutter, rng: Random, options: SectionOptions): Promise<Section[]> {
  const sections: Section[] = [];
  for await (const section of sectionsOf(chunkReader(inPieces(bytes, rng)), cutter, options)) sections.push(section);
  return sections;
}

interface Piece {
  readonly tokens: number[];
  readonly ends: boolean;
  readonly offset: number;
  readonly character: number;
  readonly lines: number;
}

function piecesOf(section: Section, source: SectionKind, character?: number): Piece[] {
  const result = sectionTokens({ ...section, origin: 'a', source, character }, encoding);
  if (result.problem) throw result.problem;
  return Array.from(result.ends, (end, i) => ({
    tokens: [...result.tokens.subarray(i === 0 ? 0 : result.ends[i - 1], end)],
    ends: result.documentEnds[i] === 1,
    offset: section.offset + (result.offsets[i] as number),
    until: section.offset + (result.untils[i] as number),
    character: result.characters?.[i] ?? 0,
    lines: result.lines?.[i] ?? 0,
  }));
}

const alphabet = [
  ..."  \n\t'stmvLS09.,!-_<|>",
  ...['é', 'ж', '漢', 'の', '😀', '\u00a0', '\ufeff', ' the', "'ll", ' word', '<|endoftext', 'text|>', endOfText],
];

function randomText(rng: Random, length: number): string {
  let text = '';
  while (text.length < length) text += rng.pick(alphabet);
  return text;
}

const offsets = (sections: readonly Section[]): number[] => sections.map(({ offset }) => offset);

/** Sections and their tokens must not depend on where reading begins, nor on how the bytes come. */
async function checkSections(bytes: Buffer, cutter: Cutter, source: SectionKind, rng: Random): Promise<Piece[]> {
  const size = rng.pick([8, 64, 256, 1000]);
  const sections = await listed(bytes, cutter, rng, { offset: 0, size });
  assert.equal(Buffer.concat(sections.map((section) => section.bytes)), bytes);
  assert.equal(offsets(await listed(bytes, cutter, rng, { offset: 0, size })), offsets(sections));
  assert.equal(
    sections.map(({ isLast }) => isLast),
    sections.map((_, i) => i === sections.length - 1),
  );
  const read = async (from: number, length: number) => bytes.subarray(from, from + length);
  for (let i = 0; i < 5; i++) {
    const nominal = size * rng.integer(1, 2 + Math.floor(bytes.length / size));
    const expected = offsets(sections).find((offset) => offset >= nominal && offset < bytes.length);
    assert.is(await firstCut(read, { cutter, origin: 0 }, nominal, rng.pick([30, 300, 5000])), expected);
  }
  const pieces = sections.flatMap((section) => piecesOf(section, source));
  const places = [...pieces.keys()].filter((i) => (pieces[i] as Piece).tokens.length > 0); // where shards may begin
  for (let round = 0; round < 5 && places.length > 0; round++) {
    const from = rng.pick(places);
    const begin = pieces[from] as Piece;
    const options = { offset: begin.offset, lines: begin.lines, size };
    const rest = await listed(bytes.subarray(begin.offset), cutter, rng, options);
    assert.equal(
      offsets(rest.slice(1)),
      offsets(sections).filter((offset) => offset > begin.offset),
    );
    const again = rest.flatMap((section, i) => piecesOf(section, source, i === 0 ? begin.character : undefined));
    assert.equal(
      again.filter(({ tokens }) => tokens.length > 0),
      pieces.slice(from).filter(({ tokens }) => tokens.length > 0),
      JSON.stringify({ size, from }),
    );
    // A reading that ends at a place has the tokens before it.
    const until = rng.pick(places.filter((i) => i >= from));
    const { offset } = pieces[until] as Piece;
    const between = await listed(bytes.subarray(begin.offset, offset), cutter, rng, { ...options, goesOn: true });
    const before = between.flatMap((section, i) => piecesOf(section, source, i === 0 ? begin.character : undefined));
    assert.equal(
      before.flatMap(({ tokens }) => tokens),
      pieces
        .slice(from)
        .filter((piece) => piece.offset < offset)
        .flatMap(({ tokens }) => tokens),
    );
  }
  return pieces;
}

/** The tokens of each document. */
function documentsOf(pieces: readonly Piece[]): number[][] {
  const documents: number[][] = [[]];
  for (const { tokens, ends } of pieces) {
    documents.at(-1)?.push(...tokens);
    if (ends) documents.push([]);
  }
  return documents;
}

test('text: sections give the tokens of whole documents, from whatever place they are read', async () => {
  const rng = random(31);
  for (let round = 0; round < 40; round++) {
    const text = randomText(rng, rng.integer(0, 3000)).replace(/^\ufeff+/, '');
    const pieces = await checkSections(Buffer.from(text), textCutter, { kind: 'text', asIs: false }, rng);
    const parts = text.split(endOfText);
    const expected = parts.map((part, i) => [...encoding.encode(part), ...(i < parts.length - 1 ? [50_256] : [])]);
    assert.equal(documentsOf(pieces), expected, JSON.stringify(text));
  }
});

test('lines of JSON, long ones included, are read from a place within them', async () => {
  const rng = random(32);
  for (let round = 0; round < 12; round++) {
    const texts = Array.from({ length: rng.integer(1, 20) }, () => randomText(rng, rng.pick([0, 5, 200, 40_000])));
    const lines = texts.flatMap((text) => [JSON.stringify({ text }), ...(rng.next() < 0.2 ? ['', ' '] : [])]);
    const bytes = Buffer.from(lines.join(rng.pick(['\n', '\r\n'])) + rng.pick(['', '\n']));
    const pieces = await checkSections(bytes, lineCutter, { kind: 'jsonl', asIs: false }, rng);
    assert.equal(documentsOf(pieces).slice(0, -1), texts.map(encoding.encode));
    assert.ok(round > 0 || pieces.some(({ character }) => character > 0));
  }
});

test('tokens', async () => {
  const rng = random(33);
  for (let round = 0; round < 10; round++) {
    const tokens = Array.from({ length: rng.integer(0, 9000) }, () =>
      rng.next() < 0.001 ? 50_256 : rng.integer(0, 50_256),
    );
    const bytes = Buffer.from(Uint16Array.from(tokens).buffer);
    const pieces = await checkSections(bytes, tokenCutter(2), { kind: 'tokens', dtype: 'uint16' }, rng);
    assert.equal(
      pieces.flatMap((piece) => piece.tokens),
      tokens,
    );
    for (const piece of pieces) assert.ok(piece.tokens.length <= 4096);
  }
});

test('a document without a cut is one section, and what is broken is named by its byte', async () => {
  const rng = random(34);
  const long = Buffer.from(`${'x'.repeat(5000)} end.`);
  assert.equal(offsets(await listed(long, textCutter, rng, { offset: 0, size: 64 })).slice(0, 2), [0, 5000]);
  const broken = Buffer.concat([
    Buffer.from('One.<|endoftext|>Two é '),
    Buffer.from([0xc3, 0x28]),
    Buffer.from(' more.'),
  ]);
  const section = { offset: 1000, bytes: Buffer.from(Uint8Array.from(broken).buffer), lines: 0, isLast: true };
  const kind: SectionKind = { kind: 'text', asIs: false };
  const { tokens, ends, problem } = sectionTokens({ ...section, origin: 'a.txt', source: kind }, encoding);
  assert.match(problem?.message ?? '', /^a\.txt, byte 1025: not valid UTF-8 \(0x28\)$/);
  assert.equal([...tokens], [...encoding.encode('One.'), 50_256], 'the documents before it are kept');
  assert.is(ends.length, 1);
});

test.run();
