// Oracle: cutting documents into rows with slice().
import * as assert from 'uvu/assert';
import { type Block, blocksOf, positionInDocument } from '../../../src/dump/corpus/blocks.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('blocks');

async function* inChunks(documents: number[][], size: number) {
  for (const document of documents) {
    const starts = Array.from({ length: Math.ceil(document.length / size) }, (_, i) => i * size);
    yield starts.map((at) => ({ tokens: document.slice(at, at + size), ends: false }));
    yield [{ tokens: [], ends: true }];
  }
}

async function collected(blocks: AsyncIterable<Block>): Promise<Block[]> {
  const list: Block[] = [];
  for await (const block of blocks) list.push(block);
  return list;
}

function expectedRows(documents: number[][], context: number): { tokens: number[]; document: number[] }[] {
  return documents.flatMap((tokens, document) =>
    Array.from({ length: Math.ceil(tokens.length / context) }, (_, i) => {
      const own = tokens.slice(i * context, (i + 1) * context);
      const padding = context - own.length;
      return {
        tokens: [...own, ...new Array<number>(padding).fill(0)],
        document: [...own.map(() => document), ...new Array<number>(padding).fill(-1)],
      };
    }),
  );
}

test('rows and blocks are the same however the tokens come', async () => {
  const rng = random(5);
  for (let round = 0; round < 40; round++) {
    const documents = Array.from({ length: rng.integer(1, 8) }, () =>
      Array.from({ length: rng.pick([0, 1, 3, 4, 5, 8, 30]) }, () => rng.integer(0, 50_257)),
    );
    const context = rng.integer(1, 9);
    const rowsPerBlock = rng.integer(1, 6);
    const rows = expectedRows(documents, context);
    const blocks = await collected(blocksOf(inChunks(documents, rng.integer(1, 7)), { context, rowsPerBlock }));
    assert.equal(
      blocks.flatMap(({ tokens }) => [...tokens]),
      rows.flatMap(({ tokens }) => tokens),
    );
    assert.equal(
      blocks.flatMap(({ document }) => [...document]),
      rows.flatMap(({ document }) => document),
    );
    assert.equal(
      blocks.flatMap(({ lengths }) => [...lengths]),
      rows.map(({ document }) => document.filter((d) => d >= 0).length),
    );
    assert.equal(
      blocks.map(({ number }) => number),
      [...blocks.keys()],
    );
    // Also in documents that began in an earlier block.
    const next = new Map<number, number>();
    for (const block of blocks) {
      block.document.forEach((document, flat) => {
        if (document < 0) return;
        const position = next.get(document) ?? 0;
        assert.is(positionInDocument(block, flat), position);
        next.set(document, position + 1);
      });
    }
    for (const block of blocks.slice(0, -1)) assert.is(block.rows, rowsPerBlock);
    for (const { tokenCount, lengths } of blocks)
      assert.is(
        tokenCount,
        lengths.reduce((a, b) => a + b, 0),
      );
  }
});

test('limit takes the first tokens and no more', async () => {
  const documents = [
    [1, 2, 3, 4, 5],
    [6, 7, 8],
  ];
  for (const limit of [1, 2, 5, 6, 8, 100]) {
    const blocks = await collected(blocksOf(inChunks(documents, 2), { context: 2, rowsPerBlock: 2, limit }));
    const tokens = blocks.flatMap(({ tokens, document }) => [...tokens].filter((_, i) => document[i] !== -1));
    assert.equal(tokens, [1, 2, 3, 4, 5, 6, 7, 8].slice(0, limit));
  }
});

test.run();
