// The index of a corpus, `index.jsonl`: for each shard, where it begins and what it holds, so that a shard can be made
// without reading what lies before it. It follows from the corpus and a few settings alone. It is written from the start
// to the end, and may end anywhere: what is there is a part of the whole.
//
//   {"format":"sonde corpus index","version":1,…}      what it is the index of
//   CHECKSUM {"shard":0,"source":0,"offset":0,…}       a line for each shard
//   CHECKSUM {"shards":1,"tokens":9,"documents":2}     the end
import { createHash } from 'node:crypto';
import { checkedLine } from '../../files/checked_lines.js';
import type { Block, BlockBegin, FirstBlock } from '../corpus/blocks.js';
import { corpusDigest } from '../corpus/corpus.js';
import { rowsPerShard } from '../format/positions.js';
import { checked, integer, object, oneOf, optional, orNull, type Read } from '../format/schema.js';
import { type DumpSettings, size } from '../format/settings.js';

/** What decides where shards begin. */
export interface IndexHeader {
  readonly format: 'sonde corpus index';
  readonly version: 1;
  /** The SHA-256 of the descriptions of all sources, their number, and the bytes of all of them. */
  readonly corpus: string;
  readonly sources: number;
  readonly bytes: number;
  readonly tokenizer: DumpSettings['tokenizer'];
  readonly vocabulary: number;
  readonly context: number;
  readonly rowsPerShard: number;
  readonly limit: number | null;
}

/** The settings and the corpus that an index is made for. */
export interface IndexSubject extends Pick<DumpSettings, 'tokenizer' | 'context' | 'limit' | 'corpus'> {
  readonly vocabulary: number;
  readonly rowsPerShard: number;
}

export const headerOf = ({
  corpus,
  tokenizer,
  vocabulary,
  context,
  rowsPerShard,
  limit,
}: IndexSubject): IndexHeader => ({
  ...{ format: 'sonde corpus index', version: 1, corpus: corpusDigest(corpus), sources: corpus.length },
  bytes: corpus.reduce((sum, { bytes = 0 }) => sum + bytes, 0),
  ...{ tokenizer, vocabulary, context, rowsPerShard, limit },
});

/** What the index of a dump's corpus is of. */
export const headerOfDump = (settings: DumpSettings): IndexHeader =>
  headerOf({ ...settings, vocabulary: settings.model.vocabulary, rowsPerShard: rowsPerShard(settings) });

/** Where a shard begins, and what it holds. */
export interface IndexEntry {
  readonly shard: number;
  /** The place from which the shard is read: the number of a source, and a byte offset in it. */
  readonly source: number;
  readonly offset: number;
  /** For a line of JSON: the index in its text, in UTF-16, and the number of lines before it. */
  readonly character?: number | undefined;
  readonly lines?: number | undefined;
  /** The number of documents before the place, and the position of the first token there in its document. */
  readonly document: number;
  readonly position: number;
  /** Tokens behind the place that belong to the shard before. */
  readonly skip: number;
  readonly rows: number;
  readonly tokens: number;
  /** The beginning of the SHA-256 of the shard's tokens and documents, and of those in its first and last row. */
  readonly digest: string;
  readonly first: string;
  readonly last: string;
  /**
   * The number of bytes of the corpus from the place (in a line of JSON, as far behind it as `character` says) to where
   * the shard is known to end. 0 in an index of an earlier version.
   */
  readonly bytes?: number | undefined;
  /** The same of a sample of these bytes. */
  readonly sample: string;
}

export interface IndexEnd {
  readonly shards: number;
  readonly tokens: number;
  readonly documents: number;
}

const digestLength = 32;
const shortDigest = 16;

/** A sample shows whether the corpus is still the same: so many pieces of a shard's bytes, of at most so many bytes. */
const samplePieces = 16;
const pieceBytes = 4096;

/** The most files that a piece is read from. */
const filesPerPiece = 2;

/** Bytes at the place that are looked at where it is not known which are the shard's. */
const bytesAtPlace = 2 ** 14;

/** Some of a shard's bytes, counted from its place, and the most files that they are read from. */
export interface SampleRange {
  readonly from: number;
  readonly to: number;
  readonly files: number;
}

/** What a sample looks at: all of a shard's bytes where they are few, and else pieces at equal distances. */
export function sampleRanges(bytes = 0): SampleRange[] {
  if (bytes === 0) return [{ from: 0, to: bytesAtPlace, files: 1 }];
  if (bytes <= samplePieces * pieceBytes) return [{ from: 0, to: bytes, files: samplePieces * filesPerPiece }];
  return Array.from({ length: samplePieces }, (_, i) => {
    const from = Math.floor((i * (bytes - pieceBytes)) / (samplePieces - 1));
    return { from, to: from + pieceBytes, files: filesPerPiece };
  });
}

const digestOf = (length: number, ...parts: (Int32Array | Uint8Array)[]): string => {
  const hash = createHash('sha256');
  for (const { buffer, byteOffset, byteLength } of parts) hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  return hash.digest('hex').slice(0, length);
};

export const sampleDigest = (pieces: readonly Uint8Array[]): string => digestOf(shortDigest, ...pieces);

/** The tokens and the documents of some rows. */
export type RowTokens = Pick<Block, 'tokens' | 'document'>;

export const rowDigest = ({ tokens, document }: RowTokens): string => digestOf(shortDigest, tokens, document);

export const blockDigest = ({ tokens, document }: RowTokens): string => digestOf(digestLength, tokens, document);

/** The entry of a block of so many bytes, without the sample of its text. */
export function entryOf(block: Block, begin: BlockBegin, bytes: number): Omit<IndexEntry, 'sample'> {
  const { number, tokens, document, rows, tokenCount } = block;
  const context = tokens.length / rows;
  const row = (i: number): RowTokens => ({
    tokens: tokens.subarray(i * context, (i + 1) * context),
    document: document.subarray(i * context, (i + 1) * context),
  });
  const { source, offset, character, lines } = begin.place;
  return {
    ...{ shard: number, source, offset },
    ...(character !== undefined && { character }),
    ...(lines !== undefined && { lines }),
    ...{ document: begin.document, position: begin.position, skip: begin.skip, rows, tokens: tokenCount },
    ...{ digest: blockDigest(block), first: rowDigest(row(0)), last: rowDigest(row(rows - 1)) },
    bytes,
  };
}

/** Where the reading of a shard's block begins. */
export function firstBlockOf(entry: IndexEntry, tokensBefore: number): FirstBlock {
  const { shard, source, offset, character, lines, document, position, skip } = entry;
  const place = {
    source,
    offset,
    ...(character !== undefined && { character }),
    ...(lines !== undefined && { lines }),
  };
  return { number: shard, begin: { place, document, position, skip }, tokensBefore };
}

export const lineOf = (header: IndexHeader, content: IndexEntry | IndexEnd): string =>
  `${checkedLine(firstLine(header), JSON.stringify(content))}\n`;

export const firstLine = (header: IndexHeader): string => JSON.stringify(header);

// ---- reading

const hexadecimal = (length: number): Read<string> =>
  checked(
    `${length} hexadecimal digits`,
    (value) => typeof value === 'string' && value.length === length && /^[0-9a-f]*$/.test(value),
  );

export const readHeader = object<IndexHeader>({
  format: oneOf('sonde corpus index'),
  version: checked('1', (value) => value === 1),
  corpus: hexadecimal(64),
  sources: integer(1),
  bytes: integer(0),
  tokenizer: oneOf('gpt2', 'unknown'),
  vocabulary: size,
  context: size,
  rowsPerShard: size,
  limit: orNull(integer(1)),
});

export const readEntry = object<IndexEntry>({
  shard: integer(0),
  source: integer(0),
  offset: integer(0),
  character: optional(integer(0)),
  lines: optional(integer(0)),
  document: integer(0),
  position: integer(0),
  skip: integer(0, 2 ** 31),
  rows: size,
  tokens: integer(1),
  digest: hexadecimal(digestLength),
  first: hexadecimal(shortDigest),
  last: hexadecimal(shortDigest),
  bytes: optional(integer(0)),
  sample: hexadecimal(shortDigest),
});

export const readEnd = object<IndexEnd>({ shards: integer(1), tokens: integer(1), documents: integer(0) });

/** What an index is of, as `[label, value]` for messages. */
const labelled = (header: IndexHeader): [string, string][] => [
  ['the tokenizer', header.tokenizer],
  ['a vocabulary of', String(header.vocabulary)],
  ['context', String(header.context)],
  ['shards of', `${header.rowsPerShard} rows`],
  ['a limit of', header.limit === null ? 'none' : `${header.limit} tokens`],
  ['a corpus of', `${header.sources} files`],
  ['files of', `${header.bytes} bytes in all`],
  ['files whose names, kinds and sizes have the digest', header.corpus],
];

/** The first difference between two headers, as `[label, there, asked]`. */
export function headerDifference(there: IndexHeader, asked: IndexHeader): [string, string, string] | undefined {
  const wanted = labelled(asked);
  for (const [i, [label, has]] of labelled(there).entries()) {
    const wants = wanted[i]?.[1] as string;
    if (has !== wants) return [label, has, wants];
  }
  return undefined;
}
