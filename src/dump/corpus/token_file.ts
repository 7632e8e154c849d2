// Reads the tokens of a file or of standard input, in bounded memory.
import { headOf } from './content.js';
import type { ReadOptions, TokenChunk } from './corpus.js';
import { endOfText } from './text_chunks.js';
import {
  looked,
  showWidth,
  type TokenDType,
  type TokenHints,
  type TokenLayout,
  tokenBytes,
  tokenLayout,
} from './token_layout.js';

export interface TokenSource {
  /** The name of the source in messages. */
  readonly origin: string;
  /** Undefined for standard input, whose first chunk says it. */
  readonly layout?: TokenLayout;
  readonly hints?: TokenHints;
}

/** The tokens of a file, cut into documents behind each `<|endoftext|>`. */
export async function* readTokens(
  chunks: AsyncIterable<Buffer>,
  { origin, hints = {}, ...source }: TokenSource,
  options: Pick<ReadOptions, 'encode' | 'nVocab'>,
): AsyncGenerator<TokenChunk> {
  const mark = markOf(options);
  let { layout } = source;
  let offset = 0;
  let isOpen = false;
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of chunks) {
    layout ??= looked(origin, () => tokenLayout(headOf(chunk), hints));
    let bytes: Buffer = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    if (offset < layout.offset) {
      const header = Math.min(layout.offset - offset, bytes.length);
      bytes = bytes.subarray(header);
      offset += header;
    }
    const { dtype } = layout;
    const tokens = tokensIn(bytes, dtype);
    checkVocabulary(tokens, options.nVocab, { origin, offset, width: tokenBytes[dtype] });
    let from = 0;
    for (let at = mark === undefined ? -1 : tokens.indexOf(mark); at >= 0; at = tokens.indexOf(mark as number, from)) {
      yield { tokens: tokens.subarray(from, at + 1), ends: true };
      from = at + 1;
    }
    if (tokens.length > 0) isOpen = from < tokens.length;
    if (from < tokens.length) yield { tokens: tokens.subarray(from), ends: false };
    const used = tokenBytes[dtype] * tokens.length;
    rest = bytes.subarray(used);
    offset += used;
  }
  if (layout) checkEnd(origin, layout, { offset, rest: rest.length });
  if (isOpen) yield { tokens: [], ends: true };
}

/** The token that ends a document. A tokenizer that is not known has none, nor has one that splits the mark. */
function markOf({ encode }: Pick<ReadOptions, 'encode'>): number | undefined {
  try {
    const tokens = encode(endOfText);
    return tokens.length === 1 ? tokens[0] : undefined;
  } catch {
    return undefined;
  }
}

function checkEnd(origin: string, layout: TokenLayout, { offset, rest }: { offset: number; rest: number }): void {
  const { dtype, count } = layout;
  if (rest > 0) {
    throw new Error(`${origin}, byte ${offset}: the file ends in the middle of a token of ${showWidth(dtype)}`);
  }
  const found = (offset - layout.offset) / tokenBytes[dtype];
  if (count === undefined || count === found) return;
  throw new Error(`${origin}: holds ${Math.max(0, found)} tokens, but its header says ${count}`);
}

type Tokens = Uint16Array | Int32Array | Uint32Array | Float64Array;

// Copies, since a typed array must begin at a multiple of its width, and the memory of the bytes may be reused.
function tokensIn(bytes: Buffer, dtype: TokenDType): Tokens {
  const width = tokenBytes[dtype];
  const { buffer } = Uint8Array.from(bytes.subarray(0, bytes.length - (bytes.length % width)));
  switch (dtype) {
    case 'uint16':
      return new Uint16Array(buffer);
    case 'int32':
      return new Int32Array(buffer);
    case 'uint32':
      return new Uint32Array(buffer);
    case 'int64':
      return Float64Array.from(new BigInt64Array(buffer), Number);
  }
}

function checkVocabulary(
  tokens: Tokens,
  nVocab: number,
  { origin, offset, width }: { origin: string; offset: number; width: number },
): void {
  if (width === 2 && nVocab > 0xffff) return;
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as number;
    if (token >= 0 && token < nVocab) continue;
    const byte = offset + width * at;
    throw new Error(`${origin}, byte ${byte}: token ${token} is none of the model's, which end at ${nVocab - 1}`);
  }
}
