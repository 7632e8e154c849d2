// Writes files for torch.load(weights_only=True) of PyTorch 2: a zip archive whose entries are stored, with a pickle
// of protocol 2 that names nothing but torch's own tensors. Layout: torch/serialization.py, _save().
import { parse } from 'node:path';
import { Readable } from 'node:stream';
import yazl from 'yazl';
import { checkString } from '../../checks/arguments.js';
import { writeFileAtomically } from '../atomic_write.js';
import { type HostTensor, isHostTensor, mismatch, type StateValue } from '../host_tensor.js';
import { shown } from '../text.js';
import { writingFor } from '../write_failure.js';
import { largestPickle, unpickle } from './pickle.js';
import { mostEntries } from './torch_archive.js';
import { storageTypeOf, TorchNames } from './torch_names.js';

/**
 * Writes a file of torch.save. Objects become dictionaries, arrays lists, whole numbers ints and other numbers floats.
 * Tensors whose data is the same array share their storage. The file appears whole or not at all; the same value gives
 * the same bytes.
 * @throws TypeError or RangeError when something in the value is no data, or more than what `loadTorch` reads.
 */
export async function saveTorch(path: string, value: StateValue): Promise<void> {
  checkString('saveTorch', 'path', path, 'the path of a file');
  const writer = new PickleWriter();
  writer.write(value, 'value', 0);
  const pickle = writer.finish();
  checkReadable(pickle, writer.storages.length);
  const zip = new yazl.ZipFile();
  const folder = archiveName(path);
  // Errors of the archive end the stream, and with it the writing.
  const output = zip.outputStream as Readable;
  zip.on('error', (error: Error) => output.destroy(error));
  const entry = { compress: false, mtime: new Date(1980, 0, 1), forceDosTimestamp: true };
  const add = (name: string, bytes: Buffer) => zip.addBuffer(bytes, `${folder}/${name}`, entry);
  add('data.pkl', pickle);
  add('byteorder', Buffer.from('little'));
  for (const [i, { data }] of writer.storages.entries()) {
    const options = { ...entry, size: data.byteLength };
    zip.addReadStreamLazy(`${folder}/data/${i}`, options, (done) => done(null, Readable.from(slices(data))));
  }
  add('version', Buffer.from('3\n'));
  zip.end();
  await writingFor('saveTorch', writeFileAtomically(path, output as AsyncIterable<Buffer>));
}

/** A value that `loadTorch` would refuse as too large is not written: the pickle is read as `loadTorch` reads it. */
function checkReadable(pickle: Buffer, storages: number): void {
  if (storages + 3 > mostEntries) throw tooMuch(`it has ${storages} tensors, and an archive ${mostEntries} entries`);
  try {
    unpickle(pickle, 0, new TorchNames('its description', Number.MAX_SAFE_INTEGER));
  } catch (cause) {
    throw tooMuch((cause as Error).message, cause);
  }
}

const tooMuch = (why: string, cause?: unknown): RangeError =>
  new RangeError(`saveTorch: the value could not be read again: ${why}: save it in several files`, { cause });

// torch takes the file's name without its ending.
function archiveName(path: string): string {
  const { name } = parse(path);
  return /^\w[\w.-]*$/.test(name) ? name : 'archive';
}

const slice = 2 ** 20;

function* slices({ buffer, byteOffset, byteLength }: ArrayBufferView): Generator<Buffer> {
  for (let at = 0; at < byteLength; at += slice) {
    yield Buffer.from(buffer as ArrayBuffer, byteOffset + at, Math.min(slice, byteLength - at));
  }
}

const deepest = 200;

/** Opcodes: Lib/pickletools.py of CPython. `where` is the location in the value, for messages. */
class PickleWriter {
  /** The storages in the order of their numbers in the archive. */
  readonly storages: Pick<HostTensor, 'dtype' | 'data'>[] = [];
  /** The numbers of storages by their data and dtype. */
  readonly #numbers = new Map<object, Map<string, number>>();
  readonly #parts: Buffer[] = [Buffer.from([0x80, 2])];
  #bytes = 0;

  finish(): Buffer {
    return Buffer.concat([...this.#parts, Buffer.from('.')]);
  }

  write(value: StateValue, where: string, depth: number): void {
    if (depth > deepest) throw new TypeError(`saveTorch: ${where} is nested more than ${deepest} deep`);
    if (value === null) this.#raw('N');
    else if (typeof value === 'boolean') this.#raw(value ? '\x88' : '\x89');
    else if (typeof value === 'number') this.#number(value);
    else if (typeof value === 'bigint') this.#long(value, where);
    else if (typeof value === 'string') this.#text(value, where);
    else if (isHostTensor(value)) this.#tensor(value, where);
    else if (Array.isArray(value)) this.#list(value, where, depth);
    else if (isPlain(value)) this.#dictionary(value, where, depth);
    else throw new TypeError(`saveTorch: ${where} must be a tensor or plain data, but is ${described(value)}`);
  }

  #raw(text: string): void {
    this.#push(Buffer.from(text, 'latin1'));
  }

  #push(...parts: Buffer[]): void {
    for (const part of parts) this.#bytes += part.length;
    if (this.#bytes + 3 > largestPickle) throw tooMuch(`its description takes more than ${largestPickle} bytes`);
    this.#parts.push(...parts);
  }

  #number(value: number): void {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      const bytes = Buffer.alloc(9, 'G');
      bytes.writeDoubleBE(value, 1);
      this.#push(bytes);
      return;
    }
    if (value < -(2 ** 31) || value >= 2 ** 31) {
      this.#long(BigInt(value), String(value));
      return;
    }
    const bytes = Buffer.alloc(5, 'J');
    bytes.writeInt32LE(value, 1);
    this.#push(bytes);
  }

  // Two's complement in as few bytes as hold the value and its sign.
  #long(value: bigint, where: string): void {
    const magnitude = value < 0n ? ~value : value;
    const length = Math.floor(magnitude.toString(2).length / 8) + 1;
    if (length > 255) throw new RangeError(`saveTorch: ${where} has ${length} bytes; whole numbers may have 255`);
    const hex = BigInt.asUintN(8 * length, value)
      .toString(16)
      .padStart(2 * length, '0');
    this.#push(Buffer.from([0x8a, length]), Buffer.from(hex, 'hex').reverse());
  }

  #text(text: string, where: string): void {
    const bytes = Buffer.from(text);
    if (bytes.toString() !== text) throw new TypeError(`saveTorch: ${where} holds text with half a surrogate pair`);
    const head = Buffer.alloc(5, 'X');
    head.writeUInt32LE(bytes.length, 1);
    this.#push(head, bytes);
  }

  #list(list: readonly StateValue[], where: string, depth: number): void {
    this.#raw('](');
    list.forEach((item, i) => {
      this.write(item, `${where}[${i}]`, depth + 1);
    });
    this.#raw('e');
  }

  #dictionary(dictionary: Record<string, StateValue>, where: string, depth: number): void {
    this.#raw('}(');
    for (const [key, value] of Object.entries(dictionary)) {
      this.#text(key, `a key of ${where}`);
      this.write(value, `${where}.${shown(key)}`, depth + 1);
    }
    this.#raw('u');
  }

  // _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)
  #tensor(tensor: HostTensor, where: string): void {
    const wrong = mismatch(tensor);
    if (wrong) throw new TypeError(`saveTorch: ${where}: ${wrong}`);
    this.#raw('ctorch._utils\n_rebuild_tensor_v2\n(');
    this.#storage(tensor, where);
    this.#number(0);
    this.#sizes(tensor.shape);
    this.#sizes(rowMajor(tensor.shape));
    this.#raw('\x89ccollections\nOrderedDict\n)RtR');
  }

  // The persistent id ('storage', type, key, location, number of elements).
  #storage({ dtype, data }: HostTensor, where: string): void {
    const type = storageTypeOf(dtype);
    if (!type) throw new TypeError(`saveTorch: ${where}: torch has no storage of ${dtype}`);
    const numbers = this.#numbers.get(data) ?? new Map<string, number>();
    this.#numbers.set(data, numbers);
    const number = numbers.get(dtype) ?? this.storages.push({ dtype, data }) - 1;
    numbers.set(dtype, number);
    this.#raw('(');
    this.#text('storage', where);
    this.#raw(`c${type.replace(/\.(?=\w+$)/, '\n')}\n`);
    this.#text(String(number), where);
    this.#text('cpu', where);
    this.#number(data.length);
    this.#raw('tQ');
  }

  #sizes(sizes: readonly number[]): void {
    this.#raw('(');
    for (const size of sizes) this.#number(size);
    this.#raw('t');
  }
}

function rowMajor(shape: readonly number[]): number[] {
  let step = 1;
  return shape
    .map((_, i) => {
      const stride = step;
      step *= Math.max(1, shape.at(-1 - i) as number);
      return stride;
    })
    .reverse();
}

function isPlain(x: unknown): x is Record<string, StateValue> {
  if (typeof x !== 'object' || x === null) return false;
  const prototype = Object.getPrototypeOf(x);
  return prototype === null || prototype === Object.prototype;
}

const described = (x: unknown): string =>
  typeof x === 'object' ? ((x as object).constructor?.name ?? 'an object') : `${typeof x}`;
