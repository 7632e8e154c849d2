// Where the tokens lie in a file, and in which form: files of numpy.save and of llm.c say so in a header, all others are
// tokens from the first byte on. What is no such file is refused by name.
import { type Head, isNumpy, tokenProblem } from './content.js';

/** The form of a token in a file, little-endian. */
export type TokenDType = 'uint16' | 'int32' | 'uint32' | 'int64';

export const tokenDTypes: readonly TokenDType[] = ['uint16', 'int32', 'uint32', 'int64'];

export const tokenBytes: Readonly<Record<TokenDType, number>> = { uint16: 2, int32: 4, uint32: 4, int64: 8 };

export interface TokenLayout {
  /** The byte offset of the first token. */
  readonly offset: number;
  readonly dtype: TokenDType;
  /** The number of tokens, if a header says it. */
  readonly count?: number;
}

/** What the user says of a file. */
export interface TokenHints {
  readonly dtype?: TokenDType | undefined;
  /** The file has no header, and nothing is to be guessed. */
  readonly asIs?: boolean | undefined;
}

/**
 * The layout of a file by its first bytes; `size` is the number of all its bytes, if that is known.
 * @throws Error that says what the file is instead, or how its header and its size disagree.
 */
export function tokenLayout(head: Head, { dtype, asIs }: TokenHints, size?: number): TokenLayout {
  const raw: TokenLayout = { offset: 0, dtype: dtype ?? 'uint16' };
  const layout = asIs ? raw : (numpyLayout(head) ?? llmcLayout(head) ?? raw);
  if (layout !== raw && dtype !== undefined && dtype !== layout.dtype) {
    throw new Error(`was given as tokens of ${dtype}, but its header says ${layout.dtype}`);
  }
  const problem = layout === raw && !asIs ? tokenProblem(head) : undefined;
  if (problem !== undefined) throw new Error(problem);
  if (size !== undefined) checkSize(layout, size);
  if (layout === raw && dtype === undefined && !asIs) checkWidth(head.bytes);
  return layout;
}

/** Calls `look`, and names the file in its error. */
export function looked<T>(name: string, look: () => T): T {
  try {
    return look();
  } catch (cause) {
    throw new Error(`dump: ${name}: ${(cause as Error).message}`, { cause });
  }
}

const widthNames: Readonly<Record<number, string>> = { 2: 'two', 4: 'four', 8: 'eight' };

/** `two bytes`, `four bytes` */
export const showWidth = (dtype: TokenDType): string => `${widthNames[tokenBytes[dtype]]} bytes`;

function checkSize({ offset, dtype, count }: TokenLayout, size: number): void {
  const width = tokenBytes[dtype];
  if (count !== undefined && offset + count * width !== size) {
    throw new Error(`holds ${size} bytes, but its header says ${offset + count * width} (${count} tokens)`);
  }
  if ((size - offset) % width === 0) return;
  const number = width === 2 ? 'an even number' : `a multiple of ${width}`;
  throw new Error(`holds ${size} bytes, but tokens of ${showWidth(dtype)} each make ${number}`);
}

// ---- headers

const numpyDTypes: Readonly<Record<string, TokenDType>> = {
  '<u2': 'uint16',
  '<i4': 'int32',
  '<u4': 'uint32',
  '<i8': 'int64',
  '<u8': 'int64', // a token that int64 cannot hold is no model's
};

// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
function numpyLayout({ bytes }: Head): TokenLayout | undefined {
  if (!isNumpy(bytes)) return undefined;
  const wrong = (what: string) => new Error(`is a NumPy array, but ${what}`);
  const [major = 0, minor = 0] = bytes.subarray(6, 8);
  if (major < 1 || major > 3 || minor !== 0) throw wrong(`of version ${major}.${minor}, which is not known`);
  const start = major === 1 ? 10 : 12;
  if (bytes.length < start) throw wrong('its header is cut short');
  const offset = start + (major === 1 ? bytes.readUInt16LE(8) : bytes.readUInt32LE(8));
  if (bytes.length < offset) throw wrong('its header is cut short, or too long');
  const { descr, isFortran, shape } = numpyHeader(bytes.toString('utf8', start, offset), wrong);
  const dtype = Object.hasOwn(numpyDTypes, descr) ? numpyDTypes[descr] : undefined;
  if (dtype === undefined) {
    throw wrong(`of dtype '${descr}': tokens are <u2, <i4, <u4 or <i8, as array.astype('uint16') gives`);
  }
  if (shape.length !== 1 && shape.length !== 2) {
    throw wrong(`of ${shape.length} dimensions: tokens have one, or two in the order of rows`);
  }
  if (isFortran && shape.length === 2 && !shape.includes(1)) {
    throw wrong('in the order of columns (fortran_order): save numpy.ascontiguousarray(array)');
  }
  return { offset, dtype, count: shape.reduce((product, n) => product * n, 1) };
}

function numpyHeader(text: string, wrong: (what: string) => Error) {
  const descr = /'descr':\s*'([^'\\]{1,20})'\s*,?/.exec(text);
  const order = /'fortran_order':\s*(True|False)\s*,?/.exec(text);
  const sizes = /'shape':\s*\(([\d,\s]*)\)\s*,?/.exec(text);
  if (!descr && /'descr':\s*\[/.test(text)) throw wrong('each of its elements has several fields');
  const rest = [descr, order, sizes].reduce((left, found) => left.replace(found?.[0] ?? '', ''), text);
  if (!descr || !order || !sizes || !/^\{\s*\}\s*$/.test(rest)) throw wrong('its header is not one that NumPy writes');
  const shape = (sizes[1] ?? '').split(',').map((n) => n.trim());
  if (shape.at(-1) === '') shape.pop();
  const numbers = shape.map(Number);
  const isSize = numbers.every((n, i) => shape[i] !== '' && Number.isSafeInteger(n));
  if (!isSize || !Number.isSafeInteger(numbers.reduce((product, n) => product * Math.max(1, n), 8))) {
    throw wrong('its shape is none');
  }
  return { descr: descr[1] ?? '', isFortran: order[1] === 'True', shape: numbers };
}

const llmcHeader = 1024;
const llmcOthers: Readonly<Record<number, string>> = {
  20240801: "tokens of Llama 3's in a file of llm.c",
  20240522: 'a file of questions for llm.c',
  20240326: 'a GPT-2 model of llm.c',
  20240327: 'a debug state of llm.c',
  20240803: 'a Llama 3 model of llm.c',
};

// https://github.com/karpathy/llm.c, dev/data/data_common.py: 256 numbers of 32 bits, then tokens.
function llmcLayout({ bytes }: Head): TokenLayout | undefined {
  const magic = bytes.length >= 4 ? bytes.readInt32LE(0) : 0;
  const other = Object.hasOwn(llmcOthers, magic) ? llmcOthers[magic] : undefined;
  if (other !== undefined) throw new Error(`is ${other}, and no tokens of GPT-2's`);
  if (magic !== 20240520) return undefined;
  if (bytes.length < llmcHeader) throw new Error('is a file of llm.c, but its header is cut short');
  const version = bytes.readInt32LE(4);
  if (version !== 1) throw new Error(`is a file of llm.c of version ${version}, and only 1 has GPT-2's tokens`);
  return { offset: llmcHeader, dtype: 'uint16', count: bytes.readUInt32LE(8) };
}

// ---- the width of tokens without a header

const leastPairs = 3;
const surePairs = 16;
/** Above 65,536 tokens, the upper half of a token of four bytes is small but not 0. */
const smallHalf = 3;

/** Every other token is 0, or nearly, where wider tokens are taken for two of two bytes each. */
function checkWidth(bytes: Buffer): void {
  const pairs = bytes.length >> 2;
  const half = (i: number): number => bytes.readUInt16LE(2 * i);
  let [largestEven, largestOdd] = [0, 0];
  for (let i = 0; i < pairs; i++) {
    largestEven = Math.max(largestEven, half(2 * i));
    largestOdd = Math.max(largestOdd, half(2 * i + 1));
  }
  const [small, large] = largestEven < largestOdd ? [largestEven, largestOdd] : [largestOdd, largestEven];
  const isWide = (small === 0 && pairs >= leastPairs) || (small <= smallHalf && pairs >= surePairs);
  if (large <= smallHalf || !isWide) return;
  if (largestEven < largestOdd) {
    throw new Error(
      `has every other token ${zero(small)}: it looks like big-endian or floating-point numbers. ` +
        "Say dtype: 'uint16' (--token-dtype uint16) if it is that",
    );
  }
  const isLong = pairs % 2 === 0 && Array.from({ length: pairs / 2 }, (_, i) => half(4 * i + 2)).every((n) => n === 0);
  const dtype = isLong ? 'int64' : 'int32';
  throw new Error(
    `has every other token ${zero(small)}: it looks like ${dtype} instead of uint16. ` +
      `Say dtype: '${dtype}' (--token-dtype ${dtype}), or dtype: 'uint16' if it is that`,
  );
}

const zero = (small: number): string => (small === 0 ? '0' : `${smallHalf} at most`);
