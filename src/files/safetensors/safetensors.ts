// Reads and writes safetensors files: whole, or tensor by tensor and row by row, for large files.
import { checkFunction, checkObject, checkString, describe } from '../../checks/arguments.js';
import { writeFileAtomically } from '../atomic_write.js';
import { type FileSource, openSource } from '../blob/file_source.js';
import { type ByteSource, sourceSlices } from '../byte_source.js';
import {
  bytesPerElement,
  elementCount,
  type HostTensor,
  mismatch,
  type StoredTensor,
  type TypedArray,
  viewAs,
} from '../host_tensor.js';
import { shown } from '../text.js';
import { writingFor } from '../write_failure.js';
import {
  largestHeader,
  type PlacedTensor,
  type PlannedTensor,
  parseSafetensorsHeader,
  safetensorsHeader,
} from './safetensors_header.js';

export { type PlacedTensor, type PlannedTensor, safetensorsHeader } from './safetensors_header.js';

/** A tensor whose elements are made when it is written. */
export interface TensorToCome extends PlannedTensor {
  read(): Promise<TypedArray>;
}

/** Reads all tensors of a file, by name. */
export async function loadSafetensors(from: FileSource): Promise<Record<string, HostTensor>> {
  await using file = await open('loadSafetensors', from);
  const tensors: Record<string, HostTensor> = Object.create(null);
  for (const name of file.tensors.keys()) tensors[name] = await file.read(name);
  return tensors;
}

/** Reads and checks the header of a file; tensors are read on demand until the file is closed. */
export async function openSafetensors(from: FileSource): Promise<SafetensorsFile> {
  return open('openSafetensors', from);
}

async function open(reader: string, from: FileSource): Promise<SafetensorsFile> {
  const source = await openSource(reader, from);
  try {
    const { name, size } = source;
    if (size < 8) throw new Error(`${name}: is no safetensors file: it has ${size} bytes`);
    const length = Buffer.from((await source.read(0, 8)).buffer).readBigUInt64LE();
    if (length > largestHeader || 8n + length > size) {
      throw new Error(`${name}: is no safetensors file, or cut short: a header of ${length} bytes in ${size}`);
    }
    const header = await source.read(8, Number(length));
    const { tensors, metadata } = parseSafetensorsHeader(name, header, size);
    return new SafetensorsFile(source, tensors, metadata);
  } catch (error) {
    await source.close();
    throw error;
  }
}

export class SafetensorsFile implements AsyncDisposable {
  readonly #source: ByteSource;

  constructor(
    source: ByteSource,
    /** Dtype, shape and location of each tensor. */
    readonly tensors: ReadonlyMap<string, PlacedTensor>,
    /** Without a prototype, so that no key is special. */
    readonly metadata: Readonly<Record<string, string>>,
  ) {
    this.#source = source;
  }

  /** A tensor by name. @throws RangeError when the file has none of that name. */
  async read(name: string): Promise<HostTensor> {
    const { dtype, shape, byteOffset, bytes } = this.#placed('read', name);
    return { dtype, shape, data: await this.#elements(dtype, byteOffset, bytes) };
  }

  /** A tensor by name, without reading it. */
  stored(name: string): StoredTensor {
    const { dtype, shape } = this.#placed('stored', name);
    return { dtype, shape, read: () => this.read(name), slices: (buffer) => this.#slices(name, buffer) };
  }

  async *#slices(name: string, buffer: ArrayBuffer): AsyncGenerator<TypedArray> {
    const { dtype, byteOffset, bytes } = this.#placed('stored', name);
    for await (const slice of sourceSlices(this.#source, byteOffset, bytes, buffer)) yield this.#view(dtype, slice);
  }

  /** Rows from <= i < to of the first dimension: a tensor [to - from, ...]. */
  async readRows(name: string, from: number, to: number): Promise<HostTensor> {
    const { dtype, shape, byteOffset } = this.#placed('readRows', name);
    const [rows, ...rest] = shape;
    const known = Number.isSafeInteger(from) && Number.isSafeInteger(to);
    if (rows === undefined || !known || from < 0 || from > to || to > rows) {
      const of = `${shown(name)} [${shape.join(', ')}]`;
      const actual = `${describe(from)} and ${describe(to)}`;
      throw new RangeError(`readRows: from and to must be rows of ${of} with from <= to, but are ${actual}`);
    }
    const rowBytes = (elementCount(rest) ?? 0) * bytesPerElement(dtype);
    const data = await this.#elements(dtype, byteOffset + from * rowBytes, (to - from) * rowBytes);
    return { dtype, shape: [to - from, ...rest], data };
  }

  close(): Promise<void> {
    return this.#source.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #placed(operation: string, name: string): PlacedTensor {
    checkString(operation, 'name', name, 'the name of a tensor');
    const placed = this.tensors.get(name);
    if (placed) return placed;
    throw new RangeError(`${this.#source.name}: has no tensor ${shown(name)}`);
  }

  async #elements(dtype: HostTensor['dtype'], byteOffset: number, bytes: number): Promise<TypedArray> {
    return this.#view(dtype, await this.#source.read(byteOffset, bytes));
  }

  #view(dtype: HostTensor['dtype'], bytes: Uint8Array): TypedArray {
    if (dtype === 'bool') for (let i = 0; i < bytes.length; i++) bytes[i] = bytes[i] ? 1 : 0;
    return viewAs(dtype, bytes.buffer, bytes.byteOffset, bytes.length / bytesPerElement(dtype));
  }
}

/**
 * Writes tensors in the order given. A tensor can be given by its dtype, shape and a function that reads it, and is
 * then in memory only while it is written. The file appears whole or not at all; the same tensors give the same bytes.
 */
export async function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, HostTensor | TensorToCome>>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  checkString('saveSafetensors', 'path', path, 'the path of a file');
  checkObject('saveSafetensors', 'tensors', tensors, 'tensors by name');
  if (metadata !== undefined) checkObject('saveSafetensors', 'metadata', metadata, 'an object of texts');
  const entries = Object.entries(tensors);
  for (const [name, tensor] of entries) {
    if (typeof tensor !== 'object' || tensor === null || !Array.isArray(tensor.shape)) {
      throw new TypeError(`saveSafetensors: tensor ${shown(name)} must be a tensor, but is ${describe(tensor)}`);
    }
    if ('data' in tensor) check(name, tensor);
    else checkFunction('saveSafetensors', `read of tensor ${shown(name)}`, tensor.read);
  }
  const { header } = safetensorsHeader(entries, metadata);
  await writingFor('saveSafetensors', writeFileAtomically(path, chunks(header, entries)));
}

async function* chunks(header: Uint8Array, entries: [string, HostTensor | TensorToCome][]): AsyncGenerator<Uint8Array> {
  yield header;
  for (const [name, tensor] of entries) {
    const data = 'data' in tensor ? tensor.data : await tensor.read();
    check(name, { dtype: tensor.dtype, shape: tensor.shape, data });
    yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
}

function check(name: string, tensor: HostTensor): void {
  const wrong = mismatch(tensor);
  if (wrong) throw new TypeError(`saveSafetensors: tensor ${shown(name)}: ${wrong}`);
}
