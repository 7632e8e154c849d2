// The names that a file of torch.save may use, what each stands for here, and the checks of a file's storages and
// tensors. Every other name is refused. Arguments: torch/_utils.py and torch/serialization.py of PyTorch 2.
import { bytesPerElement, elementCount, type HostDType, maxRank } from '../host_tensor.js';
import { shown } from '../text.js';
import { Callable, type PickleHost, UnsafePickleError } from './pickle.js';

/** A block of memory in the file that tensors are views of. */
export class Storage {
  /** The views that the file has of it. */
  readonly views = new Map<string, TensorView>();

  constructor(
    readonly key: string,
    readonly dtype: HostDType,
    /** The length in elements. */
    readonly length: number,
  ) {}

  get bytes(): number {
    return this.length * bytesPerElement(this.dtype);
  }
}

/** A tensor as a file describes it. The elements lie within the storage. */
export class TensorView {
  constructor(
    readonly storage: Storage,
    /** The position of the first element, in elements. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
    readonly count: number,
  ) {}

  /** True when the elements lie next to each other in row-major order. */
  get contiguous(): boolean {
    let expected = 1;
    for (let d = this.shape.length - 1; d >= 0; d--) {
      const size = this.shape[d] as number;
      if (size !== 1 && this.strides[d] !== expected) return this.count === 0;
      expected *= size;
    }
    return true;
  }
}

/** A class that the file names without calling it. */
class Named {
  constructor(readonly storageDType?: HostDType) {}
}

const storageTypes = new Map<string, HostDType>([
  ['torch.DoubleStorage', 'float64'],
  ['torch.FloatStorage', 'float32'],
  ['torch.HalfStorage', 'float16'],
  ['torch.BFloat16Storage', 'bfloat16'],
  ['torch.LongStorage', 'int64'],
  ['torch.IntStorage', 'int32'],
  ['torch.ShortStorage', 'int16'],
  ['torch.CharStorage', 'int8'],
  ['torch.ByteStorage', 'uint8'],
  ['torch.BoolStorage', 'bool'],
  ['torch.storage.UntypedStorage', 'uint8'],
]);

export const storageTypeOf = (dtype: HostDType): string | undefined =>
  [...storageTypes].find(([, type]) => type === dtype)?.[0];

// Dtypes become text in results, as Python prints them.
const dtypeNames = new Set(
  ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool', 'double', 'float']
    .concat(['half', 'long', 'int', 'short'])
    .map((dtype) => `torch.${dtype}`),
);

// Classes that a defaultdict names for its missing values.
const factories = new Set(['list', 'dict', 'int', 'float', 'str', 'bool', 'tuple'].map((name) => `builtins.${name}`));

/** Only views that overlap or interleave need more bytes than the file has; so many more are allowed. */
const spareBytes = 2 ** 26;

/** The names of one file. It gathers the file's storages while the pickle is read. */
export class TorchNames implements PickleHost {
  readonly storages = new Map<string, Storage>();
  #copied = 0;

  /** `size` is the file's, in bytes. */
  constructor(
    readonly name: string,
    readonly size: number,
  ) {}

  resolve(module: string, name: string): unknown {
    const full = `${module === '__builtin__' ? 'builtins' : module}.${name}`;
    const dtype = storageTypes.get(full);
    if (dtype) return new Named(dtype);
    if (dtypeNames.has(full)) return full;
    if (factories.has(full)) return new Named();
    const call = this.#calls.get(full);
    if (call) return new Callable(full, call);
    throw new UnsafePickleError(
      `${this.name}: the file wants to call ${shown(full)}, which is not on the list; nothing was called`,
    );
  }

  persistent(id: unknown): Storage {
    if (!Array.isArray(id) || id[0] !== 'storage') this.#fail('a persistent id is no storage');
    const [, type, key, , length, view] = id as unknown[];
    const dtype = type instanceof Named ? type.storageDType : undefined;
    if (!dtype) this.#fail(`storage ${shown(key)} has no known type`);
    if (typeof key !== 'string' && typeof key !== 'number') this.#fail('a storage has no key');
    if (view !== undefined && view !== null) this.#fail(`storage ${shown(key)} is a view of another: not supported`);
    return this.#storage(String(key), dtype, length);
  }

  #storage(key: string, dtype: HostDType, length: unknown): Storage {
    const count = elementCount([length]);
    const known = this.storages.get(key);
    if (known && known.dtype === dtype && known.length === length) return known;
    if (known) this.#fail(`storage ${shown(key)} is described twice, and differently`);
    const bytes = (count ?? Number.POSITIVE_INFINITY) * bytesPerElement(dtype);
    if (count === undefined || bytes > this.size) {
      this.#fail(`storage ${shown(key)} of ${shown(length)} elements (${dtype}) is larger than the file`);
    }
    const storage = new Storage(key, dtype, count);
    this.storages.set(key, storage);
    return storage;
  }

  #tensor(args: readonly unknown[], charge: (work: number) => void): TensorView {
    const [storage, offset, size, stride, , , flags] = args;
    if (!(storage instanceof Storage)) this.#fail('a tensor has no storage');
    const where = `a tensor of storage ${shown(storage.key)}`;
    // PyTorch negates a tensor lazily: its storage then has the values before that
    const lazy = flags instanceof Map ? [...flags].find(([, set]) => set !== false) : undefined;
    if (lazy) this.#fail(`${where} is stored with ${shown(lazy[0])}, so its values are others than the storage's`);
    if (!Array.isArray(size) || !Array.isArray(stride) || size.length !== stride.length || size.length > maxRank) {
      this.#fail(`${where} has no shape and strides of one length`);
    }
    charge(8 * size.length);
    if (elementCount([offset]) === undefined) this.#fail(`${where} has the offset ${shown(offset)}`);
    const count = elementCount(size);
    if (count === undefined) this.#fail(`${where} has the shape [${size.map(shown).join(', ')}]`);
    if (stride.some((step) => elementCount([step]) === undefined)) {
      this.#fail(`${where} has the strides [${stride.map(shown).join(', ')}]`);
    }
    const view = new TensorView(storage, offset as number, [...size], [...stride], count);
    this.#checkInside(view, where);
    return this.#shared(view);
  }

  #checkInside({ storage, offset, shape, strides, count }: TensorView, where: string): void {
    const last = shape.reduce((at, n, d) => at + (n - 1) * (strides[d] as number), offset);
    if (count === 0 || last < storage.length) return;
    this.#fail(
      `${where} has shape [${shape.join(', ')}], strides [${strides.join(', ')}] and offset ${offset}, ` +
        `but the storage has ${storage.length} elements`,
    );
  }

  // A view that comes again is the same tensor. Views that must be copied could take far more bytes than the file has:
  // a stride of 0 repeats one element any number of times.
  #shared(view: TensorView): TensorView {
    const { views, dtype } = view.storage;
    const key = `${view.offset}:${view.shape.join()}:${view.strides.join()}`;
    const known = views.get(key);
    if (known) return known;
    if (!view.contiguous) this.#copied += view.count * bytesPerElement(dtype);
    if (this.#copied > this.size + spareBytes) this.#fail('its tensors repeat their storages to many times their size');
    views.set(key, view);
    return view;
  }

  #parameter([tensor]: readonly unknown[]): TensorView {
    if (!(tensor instanceof TensorView)) this.#fail('a parameter is no tensor');
    return tensor;
  }

  #fail(message: string): never {
    throw new Error(`${this.name}: ${message}`);
  }

  readonly #calls = new Map<string, Callable['call']>([
    ['torch._utils._rebuild_tensor', (args, charge) => this.#tensor(args, charge)],
    ['torch._utils._rebuild_tensor_v2', (args, charge) => this.#tensor(args, charge)],
    ['torch._utils._rebuild_parameter', (args) => this.#parameter(args)],
    ['torch._utils._rebuild_parameter_with_state', (args) => this.#parameter(args)],
    ['torch.Size', ([sizes], charge) => this.#items(sizes, charge)],
    ['torch.device', (args) => args.map(shown).join(':')],
    ['collections.OrderedDict', ([items], charge) => this.#dictionary(items, charge)],
    ['collections.defaultdict', ([, items], charge) => this.#dictionary(items, charge)],
    ['builtins.set', ([items], charge) => new Set(this.#items(items, charge))],
    ['builtins.bytearray', (args, charge) => this.#bytes(args, charge)],
    ['_codecs.encode', (args, charge) => this.#bytes(args, charge)],
  ]);

  #items(items: unknown, charge: (work: number) => void): unknown[] {
    if (items === undefined) return [];
    if (!Array.isArray(items)) this.#fail('a collection is made of what is no list');
    charge(items.length);
    return [...items];
  }

  #dictionary(items: unknown, charge: (work: number) => void): Map<unknown, unknown> {
    if (items instanceof Map) {
      charge(items.size);
      return new Map(items);
    }
    const pairs = this.#items(items, charge);
    if (pairs.every((pair) => Array.isArray(pair) && pair.length === 2)) return new Map(pairs as [unknown, unknown][]);
    return this.#fail('a dictionary is made of what are no pairs');
  }

  // Protocol 2 has no bytes: they come as text of as many characters, and an encoding.
  #bytes([content, encoding]: readonly unknown[], charge: (work: number) => void): Uint8Array {
    if (content === undefined) return new Uint8Array();
    if (content instanceof Uint8Array) {
      charge(content.length);
      return content.slice();
    }
    if (typeof content !== 'string' || (encoding !== 'latin1' && encoding !== 'latin-1')) {
      throw new UnsafePickleError(`${this.name}: the file wants to encode with ${shown(encoding)}; nothing was called`);
    }
    charge(content.length);
    return Buffer.from(content, 'latin1');
  }
}
