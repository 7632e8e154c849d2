// The header of a safetensors file: 8 bytes with its length (little-endian), then JSON that says for each tensor its
// dtype, shape and where its bytes begin and end behind the header (github.com/huggingface/safetensors, "Format"). The
// JSON has a parser of its own: its memory stays in proportion to the text, and it refuses a name that comes twice.
import { isUtf8 } from 'node:buffer';
import { bytesPerElement, elementCount, type HostDType } from '../host_tensor.js';
import { shown } from '../text.js';

export interface PlannedTensor {
  readonly dtype: HostDType;
  readonly shape: readonly number[];
}

export interface PlacedTensor extends PlannedTensor {
  /** The position in the file. */
  readonly byteOffset: number;
  readonly bytes: number;
}

const dtypes = new Map<string, HostDType>([
  ['F64', 'float64'],
  ['F32', 'float32'],
  ['F16', 'float16'],
  ['BF16', 'bfloat16'],
  ['I64', 'int64'],
  ['I32', 'int32'],
  ['I16', 'int16'],
  ['I8', 'int8'],
  ['U16', 'uint16'],
  ['U8', 'uint8'],
  ['BOOL', 'bool'],
]);

const namesOfDTypes = new Map([...dtypes].map(([name, dtype]) => [dtype, name]));

/** The limit of the format's own library. */
export const largestHeader = 100_000_000;

/**
 * The length field and the header, padded with spaces so that data begins at a multiple of 8 bytes, and the location of
 * each tensor in the file: in the order given, without gaps. `bytes` is the size of the whole file.
 */
export function safetensorsHeader(
  tensors: Iterable<readonly [name: string, tensor: PlannedTensor]>,
  metadata?: Readonly<Record<string, string>>,
): { header: Uint8Array; placed: Map<string, PlacedTensor>; bytes: number } {
  const relative = new Map<string, PlacedTensor>();
  const members = metadata && Object.keys(metadata).length > 0 ? [member('__metadata__', checked(metadata))] : [];
  let at = 0;
  let characters = 0; // length of the header
  for (const [name, { dtype, shape }] of tensors) {
    if (name.length > largestHeader) throw tooLong(name.length);
    const bytes = sizeOf(name, dtype, shape);
    if (name === '__metadata__' || relative.has(name)) {
      throw new Error(`safetensors: a tensor cannot have the name ${shown(name)}, it is taken`);
    }
    relative.set(name, { dtype, shape: [...shape], byteOffset: at, bytes });
    if (!Number.isSafeInteger(at + bytes)) {
      throw new RangeError(`safetensors: with tensor ${shown(name)}, the file would be larger than any can be`);
    }
    const text = member(name, { dtype: namesOfDTypes.get(dtype), shape, data_offsets: [at, at + bytes] });
    characters += text.length;
    if (characters > largestHeader) throw tooLong(characters);
    members.push(text);
    at += bytes;
  }
  const header = framed(`{${members.join(',')}}`);
  const placed = new Map([...relative].map(([name, p]) => [name, { ...p, byteOffset: p.byteOffset + header.length }]));
  return { header, placed, bytes: header.length + at };
}

function member(name: string, value: unknown): string {
  if (Buffer.from(name).toString() !== name) throw new TypeError('safetensors: a name has half a surrogate pair');
  return `${JSON.stringify(name)}:${JSON.stringify(value)}`;
}

function checked(metadata: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  let characters = 0;
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== 'string') throw new TypeError(`safetensors: metadata ${shown(key)} must be text`);
    characters += key.length + value.length;
    if (characters > largestHeader) throw tooLong(characters);
  }
  return metadata;
}

function sizeOf(name: string, dtype: HostDType, shape: readonly number[]): number {
  if (!namesOfDTypes.has(dtype)) throw new TypeError(`safetensors: tensor ${shown(name)} has dtype ${shown(dtype)}`);
  const count = elementCount(shape);
  if (count === undefined)
    throw new RangeError(`safetensors: tensor ${shown(name)} has shape [${shape.map(shown).join(', ')}]`);
  return count * bytesPerElement(dtype);
}

const tooLong = (bytes: number): RangeError =>
  new RangeError(`safetensors: the header would have ${bytes} bytes or more; it may have ${largestHeader}`);

function framed(json: string): Uint8Array {
  const text = Buffer.from(json);
  const length = 8 * Math.ceil(text.length / 8);
  if (length > largestHeader) throw tooLong(length);
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  text.copy(header, 8);
  return header;
}

export interface SafetensorsHeader {
  readonly tensors: Map<string, PlacedTensor>;
  readonly metadata: Record<string, string>;
}

/**
 * Reads and checks a header (without the length field) of a file of `fileSize` bytes: known dtypes, sizes that fit the
 * shapes, and tensors that follow one another to the end of the file, without gap or overlap, in any order of names.
 * Messages begin with `name`.
 */
export function parseSafetensorsHeader(name: string, json: Uint8Array, fileSize: number): SafetensorsHeader {
  const fail = (message: string): never => {
    throw new Error(`${name}: ${message}`);
  };
  if (!isUtf8(json)) fail('the header is no UTF-8');
  const text = Buffer.from(json.buffer, json.byteOffset, json.length).toString();
  const header = new HeaderParser(text, fail).parse(8 + json.length);
  let end = 8 + json.length;
  const inOrder = [...header.tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.bytes - b.bytes);
  for (const [tensor, { byteOffset, bytes }] of inOrder) {
    if (byteOffset !== end)
      fail(`tensor ${shown(tensor)} begins at byte ${byteOffset}, but the one before ends at ${end}`);
    end += bytes;
  }
  if (end !== fileSize) fail(`the file has ${fileSize} bytes, but its header announces ${end}`);
  return header;
}

/** JSON, restricted to objects of known members, text, and lists of whole numbers. */
class HeaderParser {
  #at = 0;

  constructor(
    readonly text: string,
    readonly fail: (message: string) => never,
  ) {}

  parse(dataStart: number): SafetensorsHeader {
    const tensors = new Map<string, PlacedTensor>();
    let metadata: Record<string, string> | undefined;
    this.#object((name) => {
      if (name === '__metadata__') {
        if (metadata) this.#wrong('__metadata__ comes twice');
        metadata = this.#strings();
        return;
      }
      if (tensors.has(name)) this.fail(`tensor ${shown(name)} comes twice`);
      tensors.set(name, this.#tensor(name, dataStart));
    });
    this.#space();
    if (this.#at < this.text.length) this.#wrong('nothing more is expected');
    return { tensors, metadata: metadata ?? Object.create(null) };
  }

  #tensor(name: string, dataStart: number): PlacedTensor {
    let dtypeName: string | undefined;
    let shape: number[] | undefined;
    let offsets: number[] | undefined;
    this.#object((key) => {
      if (key === 'dtype' && dtypeName === undefined) dtypeName = this.#string();
      else if (key === 'shape' && !shape) shape = this.#numbers(64);
      else if (key === 'data_offsets' && !offsets) offsets = this.#numbers(2);
      else this.fail(`tensor ${shown(name)}: ${shown(key)} is unknown or comes twice`);
    });
    if (dtypeName === undefined || !shape || !offsets) {
      return this.fail(`tensor ${shown(name)} must have dtype, shape and data_offsets`);
    }
    const dtype =
      dtypes.get(dtypeName) ?? this.fail(`tensor ${shown(name)}: dtype ${shown(dtypeName)} is not supported`);
    const [from, to] = offsets as [number, number];
    const count = elementCount(shape) ?? this.fail(`tensor ${shown(name)}: shape [${shape.join(', ')}] is too large`);
    const bytes = count * bytesPerElement(dtype);
    if (to - from !== bytes) {
      this.fail(
        `tensor ${shown(name)}: [${shape.join(', ')}] of ${dtypeName} has ${bytes} bytes, not ${from} to ${to}`,
      );
    }
    return { dtype, shape, byteOffset: dataStart + from, bytes };
  }

  #strings(): Record<string, string> {
    const strings: Record<string, string> = Object.create(null);
    this.#object((key) => {
      if (key in strings) this.fail(`metadata ${shown(key)} comes twice`);
      strings[key] = this.#string();
    });
    return strings;
  }

  #object(member: (key: string) => void): void {
    this.#expect('{');
    if (this.#accept('}')) return;
    do {
      const key = this.#string();
      this.#expect(':');
      member(key);
    } while (this.#accept(','));
    this.#expect('}');
  }

  /** At most `most` whole numbers; exactly two when that is two. */
  #numbers(most: number): number[] {
    const numbers: number[] = [];
    this.#expect('[');
    if (!this.#accept(']')) {
      do {
        if (numbers.length === most) this.#wrong(`a list has more than ${most} numbers`);
        numbers.push(this.#number());
      } while (this.#accept(','));
      this.#expect(']');
    }
    if (most === 2 && numbers.length !== 2) this.#wrong('data_offsets must be two numbers');
    return numbers;
  }

  #number(): number {
    this.#space();
    const digits = /(?:0|[1-9]\d{0,15})(?![\d.eE])/y;
    digits.lastIndex = this.#at;
    const [found] = digits.exec(this.text) ?? [];
    const value = Number(found);
    if (found === undefined || !Number.isSafeInteger(value)) return this.#wrong('a whole number from 0 on is expected');
    this.#at = digits.lastIndex;
    return value;
  }

  #string(): string {
    this.#expect('"');
    const from = this.#at - 1;
    for (;;) {
      const c = this.text.charCodeAt(this.#at++);
      if (Number.isNaN(c)) this.#wrong('a text does not end');
      if (c === 0x22) break;
      if (c === 0x5c) this.#at++;
    }
    try {
      return JSON.parse(this.text.slice(from, this.#at));
    } catch {
      return this.#wrong('a text has an unknown escape or a control character');
    }
  }

  #expect(char: string): void {
    if (!this.#accept(char)) this.#wrong(`${char} is expected`);
  }

  #accept(char: string): boolean {
    this.#space();
    if (this.text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    while (' \n\r\t'.includes(this.text[this.#at] ?? 'end')) this.#at++;
  }

  #wrong(message: string): never {
    return this.fail(`the header is damaged near character ${this.#at}: ${message}`);
  }
}
