// What the beginning of a file looks like, whatever it was given as. Files that are not what they were given as are
// refused by name, as their bytes would pass for text or tokens, and make a dump of nonsense.
import { isJsonLines, jsonStart } from './json_start.js';

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

const decompress = 'decompress it first, through a pipe: zcat FILE | sonde dump -';
const formats: readonly (Format & { readonly cure: string })[] = [
  { what: 'compressed with gzip', test: isGzip, cure: decompress },
  {
    what: 'compressed with Zstandard',
    test: startsWith(0x28, 0xb5, 0x2f, 0xfd),
    cure: decompress.replace('zcat', 'zstdcat'),
  },
  {
    what: 'compressed with bzip2',
    test: (head) => /^BZh[1-9]1AY&SY/.test(head.toString('latin1', 0, 10)),
    cure: decompress.replace('zcat', 'bzcat'),
  },
  { what: 'compressed with xz', test: startsWith(0xfd, '7zXZ', 0), cure: decompress.replace('zcat', 'xzcat') },
  { what: 'compressed with LZ4', test: startsWith(4, 0x22, 0x4d, 0x18), cure: decompress.replace('zcat', 'lz4cat') },
  { what: 'a 7z archive', test: startsWith('7z', 0xbc, 0xaf, 0x27, 0x1c), cure: 'unpack it first' },
  {
    what: 'an archive of NumPy arrays (.npz)',
    test: (head) => isZip(head) && zipped(head).endsWith('.npy'),
    cure: 'save the array of tokens alone, with numpy.save',
  },
  {
    what: 'a file of torch.save',
    test: (head) => isZip(head) && /(^|\/)(data\.pkl|byteorder|version)$/.test(zipped(head)),
    cure: 'save the tokens with numpy.save(FILE, tokens.numpy())',
  },
  { what: 'a zip archive', test: isZip, cure: 'unpack it first' },
  { what: 'an empty zip archive', test: startsWith('PK', 5, 6), cure: 'give another file' },
  { what: 'a pickle of Python or torch', test: isPickle, cure: 'save the tokens with numpy.save' },
  { what: 'a safetensors file', test: isSafetensors, cure: 'save the tensor of tokens with numpy.save' },
  { what: 'a Parquet file', test: lettersThenBinary('PAR1'), cure: 'write its texts as JSON lines, {"text": …} each' },
  { what: 'an Arrow file', test: startsWith('ARROW1', 0), cure: 'write its texts as JSON lines, {"text": …} each' },
  { what: 'an Arrow file', test: lettersThenBinary('FEA1'), cure: 'write its texts as JSON lines, {"text": …} each' },
  {
    what: 'a stream of Arrow',
    test: (head) => startsWith(0xff, 0xff, 0xff, 0xff)(head) && head.length >= 8 && head.readUInt32LE(4) < 2 ** 24,
    cure: 'write its texts as JSON lines, {"text": …} each',
  },
  { what: 'an Avro file', test: startsWith('Obj', 1), cure: 'write its texts as JSON lines, {"text": …} each' },
  { what: 'an HDF5 file', test: startsWith(0x89, 'HDF\r\n', 0x1a, '\n'), cure: 'save the tokens with numpy.save' },
  { what: 'an SQLite database', test: startsWith('SQLite format 3', 0), cure: 'write its texts as JSON lines' },
  { what: 'a PDF', test: startsWith('%PDF-'), cure: 'extract its text first' },
  { what: 'a GGUF model', test: lettersThenBinary('GGUF'), cure: 'give another file' },
  { what: 'the index of a data set of Megatron', test: startsWith('MMIDIDX', 0), cure: 'give the .bin file beside it' },
  { what: 'a tar archive', test: (head) => head.toString('latin1', 257, 262) === 'ustar', cure: 'unpack it first' },
];

function formatProblem({ bytes }: Head): string | undefined {
  const format = formats.find(({ test }) => test(bytes));
  return format && `is ${format.what}: ${format.cure}`;
}

// ---- text

const utf16 = (how: string): string => `is UTF-16 ${how}, and must be UTF-8: iconv -f UTF-16 -t UTF-8`;

const leastZeros = 4;

function encodingProblem({ bytes }: Head): string | undefined {
  if (startsWith(0xff, 0xfe)(bytes) || startsWith(0xfe, 0xff)(bytes)) return utf16('by its byte order mark');
  const at = bytes.indexOf(0);
  if (at < 0) return undefined;
  const zeros = [0, 0];
  bytes.forEach((byte, i) => {
    if (byte === 0) zeros[i % 2] = (zeros[i % 2] as number) + 1;
  });
  const [few, many] = zeros.sort((a, b) => a - b) as [number, number];
  if (many >= leastZeros && many > bytes.length / 8 && few < many / 8) return utf16('as its zeros show');
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
  return isDocument(text, head) ? insist(`is JSON, and was given as text: ${asLines}`) : undefined;
}

const isDocument = (text: string, { isWhole }: Head): boolean => {
  const start = jsonStart(text);
  return start === 'whole' || (start === 'begun' && !isWhole);
};

/** Why a file cannot be what it was given as, as far as its beginning shows; undefined when it can. */
export const textProblem = (head: Head): string | undefined =>
  isNumpy(head.bytes)
    ? "is a NumPy array: give it as kind 'tokens' (--tokens)"
    : (formatProblem(head) ?? encodingProblem(head) ?? jsonProblem(head));

export function jsonLinesProblem(head: Head): string | undefined {
  const problem = isNumpy(head.bytes)
    ? "is a NumPy array: give it as kind 'tokens' (--tokens)"
    : (formatProblem(head) ?? encodingProblem(head));
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
  const problem = formatProblem(head);
  if (problem !== undefined || head.bytes.length < leastText || !isText(head)) return problem;
  const text = textOf(head);
  const kind = isJsonLines(text, head.isWhole) ? "'jsonl' (--jsonl)" : "'text' (--text)";
  return `is text, and was given as tokens: give it as kind ${kind}; if these bytes are tokens: ${asIsAdvice}`;
}

function isText({ bytes, isWhole }: Head): boolean {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: !isWhole });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern looks for control characters
    return !/[\u0000-\u0008\u000e-\u001f\u007f]/.test(text);
  } catch {
    return false;
  }
}
