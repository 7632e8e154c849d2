// Reads checkpoints of PyTorch, written by torch.save, without Python. A file is read in three steps: its pickle,
// which describes the value; the storages, one at a time; and the value with its tensors, all contiguous.
import { type FileSource, openSource } from '../blob/file_source.js';
import {
  bytesPerElement,
  type HostTensor,
  type StateDict,
  type StateValue,
  type StoredTensor,
  type TypedArray,
  viewAs,
} from '../host_tensor.js';
import { allocate } from '../memory.js';
import { rememberOrigin } from '../origin.js';
import { shown } from '../text.js';
import { openTorchArchive, type TorchArchive } from './torch_archive.js';
import { TensorView, TorchNames } from './torch_names.js';

export { UnsafePickleError } from './pickle.js';
export { saveTorch } from './torch_save.js';

/**
 * Reads a file of torch.save whose value is a dictionary, such as a module's state_dict(): a path, an address
 * (`az://…`, `https://…`), an open blob, or bytes. It never runs code: a file that names anything but tensors and plain
 * data is refused with an UnsafePickleError. loadTorchValue describes how values are converted.
 */
export async function loadTorch(from: FileSource): Promise<StateDict> {
  return load('loadTorch', from, (name, value) => {
    if (value instanceof Map) return;
    const is = value instanceof TensorView ? 'a single tensor' : Array.isArray(value) ? 'a list' : 'a single value';
    throw new Error(`${name}: the file must hold a dictionary, but holds ${is} (loadTorchValue reads that)`);
  }) as Promise<StateDict>;
}

/**
 * Reads a file of torch.save, whatever its value is. Tensors and parameters become contiguous HostTensors, dictionaries
 * StateDicts (keys as text), lists, tuples and sets arrays, ints numbers where they are exact and else bigints, bytes
 * HostTensors of uint8 [length], dtypes and devices their names.
 */
export async function loadTorchValue(from: FileSource): Promise<StateValue> {
  return load('loadTorchValue', from, () => {});
}

/** A tensor in a file of its own. */
export interface TorchTensor extends StoredTensor {
  close(): Promise<void>;
}

/**
 * Opens a file of torch.save whose value is one tensor: its dtype and shape are known at once, and it is read on
 * demand.
 */
export async function openTorchTensor(from: FileSource): Promise<TorchTensor> {
  const source = await openSource('openTorchTensor', from);
  try {
    const { name, size } = source;
    const archive = await openTorchArchive(source, () => new TorchNames(name, size));
    const { value: view } = archive;
    if (!(view instanceof TensorView)) throw new Error(`${name}: the file must hold one tensor`);
    const read = async () => (await readTensors(name, archive)).get(view) as HostTensor;
    return {
      dtype: view.storage.dtype,
      shape: view.shape,
      read,
      slices: (buffer) => (view.contiguous ? contiguousSlices(archive, view, buffer) : oneSlice(read)),
      close: () => source.close(),
    };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** The view's elements in each slice of the storage. The storage is read to its end, where damage is found. */
async function* contiguousSlices(
  archive: TorchArchive,
  { storage, offset, count }: TensorView,
  buffer: ArrayBuffer,
): AsyncGenerator<TypedArray> {
  let start = 0; // of the slice, in elements of the storage
  for await (const bytes of archive.slices(storage, buffer)) {
    if (storage.dtype === 'bool') toZeroAndOne(bytes);
    const values = viewAs(storage.dtype, buffer, 0, bytes.length / bytesPerElement(storage.dtype)) as Float32Array;
    const part = values.subarray(Math.max(0, offset - start), Math.max(0, offset + count - start));
    start += values.length;
    if (part.length > 0) yield part;
  }
}

async function* oneSlice(read: () => Promise<HostTensor>): AsyncGenerator<TypedArray> {
  yield (await read()).data;
}

async function load(
  reader: string,
  from: FileSource,
  check: (name: string, value: unknown) => void,
): Promise<StateValue> {
  const source = await openSource(reader, from);
  try {
    const { name, size } = source;
    const archive = await openTorchArchive(source, () => new TorchNames(name, size));
    check(name, archive.value);
    const tensors = await readTensors(name, archive);
    for (const { data } of tensors.values()) rememberOrigin(data, source.origin);
    return toStateValue(name, archive.value, tensors);
  } finally {
    await source.close();
  }
}

async function readTensors(name: string, archive: TorchArchive): Promise<Map<TensorView, HostTensor>> {
  const tensors = new Map<TensorView, HostTensor>();
  for (const storage of archive.storages) {
    const bytes = await archive.read(storage);
    if (storage.dtype === 'bool') toZeroAndOne(bytes);
    for (const view of storage.views.values()) {
      tensors.set(view, { dtype: storage.dtype, shape: view.shape, data: elements(name, view, bytes.buffer) });
    }
  }
  return tensors;
}

function toZeroAndOne(bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = bytes[i] ? 1 : 0;
}

function elements(name: string, view: TensorView, buffer: ArrayBuffer): TypedArray {
  const { storage, offset, count } = view;
  const width = bytesPerElement(storage.dtype);
  if (view.contiguous) return viewAs(storage.dtype, buffer, count === 0 ? 0 : offset * width, count);
  const all = viewAs(storage.dtype, buffer, 0, storage.length);
  const packed = viewAs(storage.dtype, allocate(name, count * width).buffer, 0, count);
  pack(view, all as Float32Array, packed as Float32Array);
  return packed;
}

/** Copies the elements of a view, row by row of its last dimension. Both arrays have the storage's dtype. */
function pack({ offset, shape, strides }: TensorView, from: Float32Array, to: Float32Array): void {
  const dims = [...shape.keys()].filter((d) => shape[d] !== 1); // at least two elements each: few, whatever the rank
  const sizes = dims.map((d) => shape[d] as number);
  const steps = dims.map((d) => strides[d] as number);
  const inner = sizes.pop() as number;
  const step = steps.pop() as number;
  const index = sizes.map(() => 0);
  let at = offset;
  for (let out = 0; out < to.length; out += inner) {
    for (let i = 0; i < inner; i++) to[out + i] = from[at + i * step] as number;
    for (let d = sizes.length - 1; d >= 0; d--) {
      at += steps[d] as number;
      if (++(index[d] as number) < (sizes[d] as number)) break;
      at -= (sizes[d] as number) * (steps[d] as number);
      index[d] = 0;
    }
  }
}

interface Converted {
  readonly value: StateValue;
  /** The number of parts of the value when written out without sharing. */
  readonly nodes: number;
  readonly depth: number;
}

const deepest = 200;
const mostNodes = 2 ** 24;

/**
 * An unpickled value as a StateValue. Parts that the file shares stay shared. A value is refused that refers to itself,
 * is nested too deeply, or is too large when written out (a few lists that each hold the one before many times).
 */
function toStateValue(name: string, root: unknown, tensors: ReadonlyMap<TensorView, HostTensor>): StateValue {
  const done = new Map<object, Converted | undefined>();
  const fail = (message: string): never => {
    throw new Error(`${name}: ${message}`);
  };

  const convert = (x: unknown, depth: number): Converted => {
    if (typeof x !== 'object' || x === null) return leaf(plain(x, fail));
    const known = done.get(x);
    if (known) return known;
    if (done.has(x)) return fail('the value contains itself');
    if (depth > deepest) return fail(`the value is nested more than ${deepest} deep`);
    done.set(x, undefined);
    const converted = object(x, depth);
    if (converted.depth > deepest) return fail(`the value is nested more than ${deepest} deep`);
    if (converted.nodes > mostNodes) return fail(`the value has more than ${mostNodes} parts when written out`);
    done.set(x, converted);
    return converted;
  };

  const object = (x: object, depth: number): Converted => {
    if (x instanceof TensorView) return leaf(tensors.get(x) as HostTensor);
    if (x instanceof Uint8Array) return leaf({ dtype: 'uint8', shape: [x.length], data: Uint8Array.from(x) });
    const children: Converted[] = [];
    const child = (y: unknown): StateValue => {
      const converted = convert(y, depth + 1);
      children.push(converted);
      return converted.value;
    };
    const value = container(x, child, fail);
    return {
      value,
      nodes: children.reduce((sum, { nodes }) => sum + nodes, 1),
      depth: children.reduce((most, { depth }) => Math.max(most, depth + 1), 0),
    };
  };

  return convert(root, 0).value;
}

const leaf = (value: StateValue): Converted => ({ value, nodes: 1, depth: 0 });

function plain(x: unknown, fail: (message: string) => never): StateValue {
  if (x === null || ['string', 'number', 'boolean', 'bigint'].includes(typeof x)) return x as StateValue;
  return fail('the value contains something that is no data');
}

function container(x: object, child: (y: unknown) => StateValue, fail: (message: string) => never): StateValue {
  if (Array.isArray(x)) return x.map(child);
  if (x instanceof Set) return [...x].map(child);
  if (!(x instanceof Map)) return fail('the value contains a class or a bare storage, which is no data');
  const dict = Object.create(null) as StateDict;
  for (const [key, value] of x) {
    if (typeof key === 'object') return fail(`a key of a dictionary is ${shown(key)}`);
    const text = String(key);
    if (text in dict) return fail(`a dictionary has two keys that read ${shown(text)}`);
    dict[text] = child(value);
  }
  return dict;
}
