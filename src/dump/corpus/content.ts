// What the beginning of a file looks like, whatever it was given as. Files that are not what they were given as are
// refused by name, as their bytes would pass for text or tokens, and make a dump of nonsense.
import { extname } from 'node:path';
import { isCutJson, isJsonLines, jsonStart } from './json_start.js';

/** The bytes that are looked at. */
export const headBytes = 2 ** 16;

/** The bytes of a stream that are waited for: it may be slow. */
const leastHead = 2 ** 12;

/**
 * The same chunks, of which the first one has `leastHead` bytes or all. It is what `headOf` takes.
 */
export async function* withHead(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const held: Buffer[] = [];
  let missing = leastHead;
  for await (const chunk of chunks) {
    if (missing > 0) {
      held.push(chunk);
      missing -= chunk.length;
      if (missing <= 0) yield Buffer.concat(held.splice(0));
    } else yield chunk;
  }
  if (held.length > 0) yield Buffer.concat(held);
}

/** The head of a stream by its first chunk. */
export const headOf = (first: Buffer): Head => ({
  bytes: first.subarray(0, headBytes),
  isWhole: first.length < leastHead,
});

/** The beginning of a file or a stream. */
export interface Head {
  readonly bytes: Buffer;
  /** Whether nothing follows. */
  readonly isWhole: boolean;
}

const asIsAdvice = 'asIs: true (--as-is)';

// ---- formats with a mark at their beginning

interface Format {
  readonly what: string;
  readonly test: (head: Buffer) => boolean;
  readonly cure: string;
  /** The endings of names, where they say as much. */
  readonly endings?: readonly string[];
}

const startsWith =
  (...bytes: (number | string)[]) =>
  (head: Buffer): boolean => {
    const mark = Buffer.concat(bytes.map((b) => (typeof b === 'number' ? Buffer.from([b]) : Buffer.from(b, 'latin1'))));
    return head.subarray(0, mark.length).equals(mark);
  };

/** A mark of letters alone may begin a text: in the format, a control character follows. */
const lettersThenBinary = (letters: string) => (head: Buffer) =>
  startsWith(letters)(head) &&
  (head[letters.length] ?? 0x20) < 0x20 &&
  ![9, 10, 13].includes(head[letters.length] ?? 9);

const isGzip = (head: Buffer): boolean => startsWith(0x1f, 0x8b, 8)(head) && (head[3] ?? 0xff) < 0x20;
const isZip = startsWith('PK', 3, 4);

/** The name of the first file in a zip archive. */
const zipped = (head: Buffer): string =>
  head.length < 30 ? '' : head.subarray(30, 30 + head.readUInt16LE(26)).toString('latin1');

// The length of its JSON header, and the header.
const isSafetensors = (head: Buffer): boolean =>
  head.length >= 10 &&
  head.readUInt32LE(4) === 0 &&
  head.readUInt32LE(0) > 1 &&
  /^\{["} ]/.test(head.toString('latin1', 8, 10));

// Protocol 2 as torch.save once used it, and later ones, which begin with the length of a frame.
const isPickle = (head: Buffer): boolean =>
  startsWith(0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9)(head) ||
  ((startsWith(0x80, 4, 0x95)(head) || startsWith(0x80, 5, 0x95)(head)) &&
    head.length >= 11 &&
    head.readUInt32LE(7) === 0);

export const isNumpy = startsWith(0x93, 'NUMPY');

/** Stands for `-`, with what it is given as. */
const input = 'INPUT';
const decompress = `decompress it first, through a pipe: zcat FILE | sonde dump ${input}`;
const asObjects = 'write its texts as JSON lines, {"text": …} each';
const formats: readonly Format[] = [
  { what: 'compressed with gzip', test: isGzip, cure: decompress, endings: ['.gz', '.tgz'] },
  {
    what: 'compressed with Zstandard',
    test: startsWith(0x28, 0xb5, 0x2f, 0xfd),
    cure: decompress.replace('zcat', 'zstdcat'),
    endings: ['.zst'],
  },
  {
    what: 'compressed with bzip2',
    test: (head) => /^BZh[1-9]1AY&SY/.test(head.toString('latin1', 0, 10)),
    cure: decompress.replace('zcat', 'bzcat'),
    endings: ['.bz2'],
  },
  {
    what: 'compressed with xz',
    test: startsWith(0xfd, '7zXZ', 0),
    cure: decompress.replace('zcat', 'xzcat'),
    endings: ['.xz'],
  },
  {
    what: 'compressed with LZ4',
    test: startsWith(4, 0x22, 0x4d, 0x18),
    cure: decompress.replace('zcat', 'lz4cat'),
    endings: ['.lz4'],
  },
  { what: 'a 7z archive', test: startsWith('7z', 0xbc, 0xaf, 0x27, 0x1c), cure: 'unpack it first', endings: ['.7z'] },
  {
    what: 'an archive of NumPy arrays (.npz)',
    test: (head) => isZip(head) && zipped(head).endsWith('.npy'),
    cure: 'save the array of tokens alone, with numpy.save',
    endings: ['.npz'],
  },
  {
    what: 'a file of torch.save',
    test: (head) => isZip(head) && /(^|\/)(data\.pkl|byteorder|version)$/.test(zipped(head)),
    cure: 'save the tokens with numpy.save(FILE, tokens.numpy())',
    endings: ['.pt', '.pth'],
  },
  { what: 'a zip archive', test: isZip, cure: 'unpack it first', endings: ['.zip'] },
  { what: 'an empty zip archive', test: startsWith('PK', 5, 6), cure: 'give another file' },
  {
    what: 'a pickle of Python or torch',
    test: isPickle,
    cure: 'save the tokens with numpy.save',
    endings: ['.pkl', '.pickle'],
  },
  {
    what: 'a safetensors file',
    test: isSafetensors,
    cure: 'save the tensor of tokens with numpy.save',
    endings: ['.safetensors'],
  },
  { what: 'a Parquet file', test: lettersThenBinary('PAR1'), cure: asObjects, endings: ['.parquet'] },
  { what: 'an Arrow file', test: startsWith('ARROW1', 0), cure: asObjects, endings: ['.arrow', '.feather'] },
  { what: 'an Arrow file', test: lettersThenBinary('FEA1'), cure: asObjects },
  {
    what: 'a stream of Arrow',
    test: (head) => startsWith(0xff, 0xff, 0xff, 0xff)(head) && head.length >= 8 && head.readUInt32LE(4) < 2 ** 24,
    cure: asObjects,
  },
  { what: 'an Avro file', test: startsWith('Obj', 1), cure: asObjects, endings: ['.avro'] },
  {
    what: 'an HDF5 file',
    test: startsWith(0x89, 'HDF\r\n', 0x1a, '\n'),
    cure: 'save the tokens with numpy.save',
    endings: ['.h5', '.hdf5'],
  },
  {
    what: 'an SQLite database',
    test: startsWith('SQLite format 3', 0),
    cure: 'write its texts as JSON lines',
    endings: ['.sqlite', '.db'],
  },
  { what: 'a PDF', test: startsWith('%PDF-'), cure: 'extract its text first', endings: ['.pdf'] },
  { what: 'a GGUF model', test: lettersThenBinary('GGUF'), cure: 'give another file', endings: ['.gguf'] },
  { what: 'the index of a data set of Megatron', test: startsWith('MMIDIDX', 0), cure: 'give the .bin file beside it' },
  {
    what: 'a tar archive',
    test: (head) => head.toString('latin1', 257, 262) === 'ustar',
    cure: 'unpack it first',
    endings: ['.tar'],
  },
];

type Kind = 'text' | 'jsonl' | 'tokens';

const cureFor = ({ cure }: Format, kind: Kind): string => cure.replace(input, kind === 'text' ? '-' : `--${kind} -`);

function formatProblem(head: Head, kind: Kind): string | undefined {
  const format = formats.find(({ test }) => test(head.bytes));
  if (!format) return undefined;
  const canBe = kind === 'tokens' || isUtf8(head); // text is UTF-8 in any case
  const all = canBe ? `; to take it for ${showKind[kind]} all the same: ${asIsAdvice}` : '';
  return `is ${format.what}: ${cureFor(format, kind)}${all}`;
}

const showKind: Readonly<Record<Kind, string>> = { text: 'text', jsonl: 'JSON lines', tokens: 'tokens' };

/** What the name of a file says of a format that is none of a corpus; undefined when it says nothing. */
export function formatByName(path: string, kind: Kind): string | undefined {
  const ending = extname(path).toLowerCase();
  const format = formats.find(({ endings }) => endings?.includes(ending));
  return format && `is ${format.what}, as its name says: ${cureFor(format, kind)}`;
}

// ---- text

const recode = (encoding: string, how: string): string =>
  `is ${encoding} ${how}, and must be UTF-8: iconv -f ${encoding} -t UTF-8`;

const leastZeros = 4;

/** The encoding that a byte order mark names. That of UTF-32 begins like that of UTF-16. */
const markedEncoding = (bytes: Buffer): 'UTF-32' | 'UTF-16' | undefined => {
  if (startsWith(0xff, 0xfe, 0, 0)(bytes) || startsWith(0, 0, 0xfe, 0xff)(bytes)) return 'UTF-32';
  return startsWith(0xff, 0xfe)(bytes) || startsWith(0xfe, 0xff)(bytes) ? 'UTF-16' : undefined;
};

function encodingProblem({ bytes }: Head): string | undefined {
  const marked = markedEncoding(bytes);
  if (marked) return recode(marked, 'by its byte order mark');
  const at = bytes.indexOf(0);
  if (at < 0) return undefined;
  const zeros: [number, number] = [0, 0];
  bytes.forEach((byte, i) => {
    if (byte === 0) zeros[(i % 2) as 0 | 1]++;
  });
  const [few, many] = [Math.min(...zeros), Math.max(...zeros)];
  if (many >= leastZeros && many > bytes.length / 8 && few < many / 8) {
    return recode(zeros[1] === many ? 'UTF-16LE' : 'UTF-16BE', 'as its zeros show');
  }
  return nulProblem(at);
}

/** What is wrong with text that has a NUL at a byte offset. */
export const nulProblem = (at: number): string =>
  `has a NUL at byte ${at}, which no text has: it is binary, or damaged. To read it all the same: ${asIsAdvice}`;

const insist = (json: string): string => `${json}; to dump JSON itself as text: ${asIsAdvice}`;
const asLines = `write a line with {"text": …} for each text, and give it as kind 'jsonl' (--jsonl)`;

const textOf = ({ bytes }: Head): string => new TextDecoder().decode(bytes, { stream: true });

function jsonProblem(head: Head): string | undefined {
  const text = textOf(head);
  if (isJsonLines(text, head.isWhole)) {
    return insist("has a JSON object on each line, and was given as text: give it as kind 'jsonl' (--jsonl)");
  }
  return isDocument(text, head) || isCutJson(text) ? insist(`is JSON, and was given as text: ${asLines}`) : undefined;
}

const isDocument = (text: string, { isWhole }: Head): boolean => {
  const start = jsonStart(text);
  return start === 'whole' || (start === 'begun' && !isWhole);
};

/** Why a file cannot be what it was given as, as far as its beginning shows; undefined when it can. */
export const textProblem = (head: Head): string | undefined =>
  isNumpy(head.bytes)
    ? "is a NumPy array: give it as kind 'tokens' (--tokens)"
    : (formatProblem(head, 'text') ?? encodingProblem(head) ?? jsonProblem(head));

export function jsonLinesProblem(head: Head): string | undefined {
  const problem = isNumpy(head.bytes)
    ? "is a NumPy array: give it as kind 'tokens' (--tokens)"
    : (formatProblem(head, 'jsonl') ?? encodingProblem(head));
  if (problem !== undefined) return problem;
  const text = textOf(head);
  const first = text.split('\n').find((line) => line.trim() !== '') ?? '';
  const isSplit = first.trimStart().startsWith('[') || jsonStart(first) === 'begun';
  return isSplit && !isJsonLines(text, head.isWhole) && isDocument(text, head)
    ? `is one JSON document, and no object on each line: ${asLines}`
    : undefined;
}

// ---- tokens

const leastText = 16; // bytes that chance does not make text of

/** Why bytes are no tokens; undefined when they can be. It does not look for headers. */
export function tokenProblem(head: Head): string | undefined {
  const problem = formatProblem(head, 'tokens');
  if (problem !== undefined || head.bytes.length < leastText) return problem;
  const insists = `if these bytes are tokens: ${asIsAdvice}`;
  const encoding = utf16Of(head.bytes);
  if (encoding !== undefined) {
    const cure = `make UTF-8 of it (iconv -f ${encoding} -t UTF-8), and give it as kind 'text' (--text)`;
    return `is ${encoding} text, and was given as tokens: ${cure}; ${insists}`;
  }
  if (!isUtf8Text(head) && !isLatinText(head.bytes)) return undefined;
  const kind = isJsonLines(textOf(head), head.isWhole) ? "'jsonl' (--jsonl)" : "'text' (--text)";
  return `is text, and was given as tokens: give it as kind ${kind}; ${insists}`;
}

function isUtf8({ bytes, isWhole }: Head): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: !isWhole });
    return true;
  } catch {
    return false;
  }
}

/** The part of the bytes of a text that may be none of it, such as the control characters of a terminal. */
const strayPart = 0.05;

// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern looks for control characters
const strays = /[\u0000-\u0008\u000e-\u001f\u007f\ufffd]/g;

/** What is not valid UTF-8 is decoded as U+FFFD. */
const isUtf8Text = (head: Head): boolean => (textOf(head).match(strays)?.length ?? 0) <= strayPart * head.bytes.length;

const isAscii = (byte: number): boolean => (byte >= 0x20 && byte < 0x7f) || (byte >= 9 && byte <= 13);

/** Latin-1 and its like. Most letters are ASCII in all languages that it serves. */
function isLatinText(bytes: Uint8Array): boolean {
  let [ascii, others] = [0, 0];
  for (const byte of bytes) {
    if (isAscii(byte)) ascii++;
    else if (byte >= 0xa0) others++;
  }
  return ascii + others >= (1 - strayPart) * bytes.length && ascii >= 0.75 * bytes.length;
}

/** The encoding of UTF-16 text whose characters are those of Latin-1; undefined for all other bytes. */
function utf16Of(bytes: Buffer): 'UTF-16' | 'UTF-16LE' | 'UTF-16BE' | undefined {
  const isMarked = markedEncoding(bytes) === 'UTF-16';
  const units = bytes.subarray(isMarked ? 2 : 0);
  const even = units.filter((_, i) => i % 2 === 0);
  const odd = units.filter((_, i) => i % 2 === 1);
  const isText = (zeros: Uint8Array, letters: Uint8Array) => zeros.every((byte) => byte === 0) && isLatinText(letters);
  const found = isText(odd, even) ? 'UTF-16LE' : isText(even, odd) ? 'UTF-16BE' : undefined;
  return found && isMarked ? 'UTF-16' : found;
}
