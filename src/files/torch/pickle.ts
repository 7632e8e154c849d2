// An interpreter of Python's pickle format, as far as data needs it (opcodes: Lib/pickletools.py of CPython). No code
// of the file is ever run: the host decides what a name stands for, and calling anything else ends the reading. Time
// and memory are bounded, too: work stays in proportion to the pickle's length, and every count is limited.
import { isUtf8 } from 'node:buffer';
import { shown } from '../text.js';

/** The file asks for a call that is not on the list of what data needs. Nothing was called. */
export class UnsafePickleError extends Error {
  override readonly name = 'UnsafePickleError';
}

/** The bytes end before the pickle does. */
export class PickleEndsEarly extends Error {}

/** A function that a name of the file stands for. `charge` accounts for work that grows with the arguments. */
export class Callable {
  constructor(
    readonly title: string,
    readonly call: (args: readonly unknown[], charge: (work: number) => void) => unknown,
  ) {}
}

export interface PickleHost {
  /** Every message begins with it. */
  readonly name: string;
  /** A Callable, or any value that the name stands for. */
  resolve(module: string, name: string): unknown;
  /** The object with this persistent id. */
  persistent(id: unknown): unknown;
}

export const largestPickle = 2 ** 26;

const limits = { steps: 2 ** 24, containers: 2 ** 21, memo: 2 ** 22, longBytes: 256, digits: 600, line: 4096 };

/**
 * Reads the pickle that begins at `start`. Lists and tuples become arrays, dicts Maps, sets Sets, bytes Uint8Arrays,
 * ints numbers or bigints. Returns the value and where the pickle ends.
 */
export function unpickle(bytes: Uint8Array, start: number, host: PickleHost): { value: unknown; end: number } {
  const machine = new Machine(bytes, start, host);
  return { value: machine.run(), end: machine.at };
}

class Machine {
  at: number;
  stack: unknown[] = [];
  readonly #bytes: Buffer;
  readonly #host: PickleHost;
  readonly #marks: unknown[][] = [];
  readonly #memo = new Map<number, unknown>();
  #steps = 0;
  #work: number;
  #containers = 0;

  constructor(bytes: Uint8Array, start: number, host: PickleHost) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#host = host;
    this.#work = 1024 + 4 * bytes.length;
    this.at = start;
  }

  run(): unknown {
    for (;;) {
      const opcode = this.u8();
      if (opcode === stop) return this.pop();
      const operation = operations[opcode];
      if (!operation) this.fail(`pickle opcode 0x${opcode.toString(16)} at byte ${this.at - 1} is not supported`);
      if (++this.#steps > limits.steps) this.fail(`the pickle takes more than ${limits.steps} steps`);
      operation(this);
    }
  }

  fail(message: string): never {
    throw new Error(`${this.#host.name}: ${message}`);
  }

  charge = (work: number): void => {
    this.#work -= work;
    if (this.#work < 0) this.fail('the pickle repeats itself more than its size allows');
  };

  // bytes of the file

  #take(length: number): number {
    const from = this.at;
    if (from + length > this.#bytes.length) throw new PickleEndsEarly(`${this.#host.name}: the pickle ends early`);
    this.at = from + length;
    return from;
  }

  u8 = (): number => this.#bytes[this.#take(1)] as number;
  u16 = (): number => this.#bytes.readUInt16LE(this.#take(2));
  u32 = (): number => this.#bytes.readUInt32LE(this.#take(4));
  i32 = (): number => this.#bytes.readInt32LE(this.#take(4));
  double = (): number => this.#bytes.readDoubleBE(this.#take(8));

  u64 = (): number => {
    const length = this.#bytes.readBigUInt64LE(this.#take(8));
    if (length > largestPickle) this.fail(`the pickle has an element of ${length} bytes`);
    return Number(length);
  };

  bytes(length: number): Buffer {
    const from = this.#take(length);
    return this.#bytes.subarray(from, from + length);
  }

  utf8(length: number): string {
    const bytes = this.bytes(length);
    if (!isUtf8(bytes)) this.fail('the pickle has text that is no UTF-8');
    return bytes.toString('utf8');
  }

  line(): string {
    const end = this.#bytes.indexOf(10, this.at);
    if (end < 0) throw new PickleEndsEarly(`${this.#host.name}: the pickle ends early`);
    if (end - this.at > limits.line) this.fail(`the pickle has a line of ${end - this.at} bytes`);
    const text = this.utf8(end - this.at);
    this.at++;
    return text;
  }

  /** Two's complement, little-endian. */
  long(length: number): number | bigint {
    if (length > limits.longBytes) this.fail(`the pickle has a whole number of ${length} bytes`);
    if (length === 0) return 0;
    const digits = Buffer.from(this.bytes(length)).reverse().toString('hex');
    return this.#whole(BigInt.asIntN(8 * length, BigInt(`0x${digits}`)));
  }

  decimal(text: string): number | bigint {
    if (!/^[+-]?\d+$/.test(text) || text.length > limits.digits) this.fail(`${shown(text)} is no whole number`);
    return this.#whole(BigInt(text.replace('+', '')));
  }

  #whole(value: bigint): number | bigint {
    const near = Number(value);
    return Number.isSafeInteger(near) ? near : value;
  }

  float(text: string): number {
    const special = { inf: Number.POSITIVE_INFINITY, '-inf': Number.NEGATIVE_INFINITY, nan: Number.NaN }[text];
    if (special !== undefined) return special;
    if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) this.fail(`${shown(text)} is no number`);
    return Number(text);
  }

  // the stack and the memo

  push(value: unknown): void {
    this.stack.push(value);
  }

  /** Pushes a new container. */
  put(container: unknown): void {
    this.#count();
    this.stack.push(container);
  }

  #count(): void {
    if (++this.#containers > limits.containers) {
      this.fail(`the pickle has more than ${limits.containers} lists, tuples, sets and dictionaries`);
    }
  }

  pop(): unknown {
    if (this.stack.length === 0) this.fail('the pickle takes from an empty stack');
    return this.stack.pop();
  }

  top(): unknown {
    if (this.stack.length === 0) this.fail('the pickle reads an empty stack');
    return this.stack.at(-1);
  }

  mark(): void {
    this.#count();
    this.#marks.push(this.stack);
    this.stack = [];
  }

  /** Pops the values that were pushed since the last mark. */
  popMark(): unknown[] {
    const items = this.stack;
    const below = this.#marks.pop();
    if (!below) this.fail('the pickle has no mark to go back to');
    this.stack = below;
    return items;
  }

  /** Replaces the last n values by a tuple of them. */
  tuple(n: number): void {
    const items = Array.from({ length: n }, () => this.pop()).reverse();
    this.put(items);
  }

  remember(key: number): void {
    this.#memo.set(key, this.top());
    if (this.#memo.size > limits.memo) this.fail(`the pickle remembers more than ${limits.memo} values`);
  }

  recall(key: number): void {
    if (!this.#memo.has(key)) this.fail(`the pickle recalls value ${key}, which it never remembered`);
    this.stack.push(this.#memo.get(key));
  }

  memoKey(): number {
    const key = this.decimal(this.line());
    if (typeof key !== 'number' || key < 0) this.fail(`the pickle remembers under the key ${key}`);
    return key;
  }

  get memoSize(): number {
    return this.#memo.size;
  }

  // containers

  list(): unknown[] {
    const list = this.top();
    if (!Array.isArray(list)) this.fail('the pickle appends to what is no list');
    return list;
  }

  dict(): Map<unknown, unknown> {
    const dict = this.top();
    if (!(dict instanceof Map)) this.fail('the pickle sets an item of what is no dictionary');
    return dict;
  }

  set(): Set<unknown> {
    const set = this.top();
    if (!(set instanceof Set)) this.fail('the pickle adds to what is no set');
    return set;
  }

  setItems(dict: Map<unknown, unknown>, items: unknown[]): void {
    if (items.length % 2 !== 0) this.fail('the pickle has a key without a value');
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
  }

  // names and calls

  global(module: unknown, name: unknown): void {
    if (typeof module !== 'string' || typeof name !== 'string') this.fail('the pickle has a name that is no text');
    this.push(this.#host.resolve(module, name));
  }

  persistent(): void {
    this.push(this.#host.persistent(this.pop()));
  }

  call(): void {
    const args = this.pop();
    const callee = this.pop();
    if (!(callee instanceof Callable) || !Array.isArray(args)) {
      throw new UnsafePickleError(`${this.#host.name}: the file calls what is no known function; nothing was called`);
    }
    this.charge(args.length);
    this.put(callee.call(args, this.charge));
  }

  /**
   * Sets the state of an object. That of an ordered dictionary (its attributes) is no data; nothing else has one here.
   */
  build(): void {
    this.pop();
    if (this.top() instanceof Map) return;
    throw new UnsafePickleError(
      `${this.#host.name}: the file sets the state of what is no dictionary; nothing was set`,
    );
  }
}

const stop = 0x2e;
const operations: (((m: Machine) => void) | undefined)[] = [];
const on = (opcode: number | string, operation: (m: Machine) => void) => {
  operations[typeof opcode === 'string' ? opcode.charCodeAt(0) : opcode] = operation;
};

on(0x80, (m) => {
  const protocol = m.u8();
  if (protocol > 5) m.fail(`pickle protocol ${protocol} is not supported`);
});
on(0x95, (m) => void m.bytes(8)); // FRAME: a hint on buffering

on('N', (m) => m.push(null));
on(0x88, (m) => m.push(true));
on(0x89, (m) => m.push(false));
on('K', (m) => m.push(m.u8()));
on('M', (m) => m.push(m.u16()));
on('J', (m) => m.push(m.i32()));
on(0x8a, (m) => m.push(m.long(m.u8())));
on(0x8b, (m) => m.push(m.long(m.u32())));
on('I', (m) => {
  const text = m.line();
  m.push(text === '01' ? true : text === '00' ? false : m.decimal(text));
});
on('L', (m) => m.push(m.decimal(m.line().replace(/L$/, ''))));
on('F', (m) => m.push(m.float(m.line())));
on('G', (m) => m.push(m.double()));

on('X', (m) => m.push(m.utf8(m.u32())));
on(0x8c, (m) => m.push(m.utf8(m.u8())));
on(0x8d, (m) => m.push(m.utf8(m.u64())));
on('U', (m) => m.push(m.bytes(m.u8()).toString('latin1'))); // text of Python 2
on('T', (m) => m.push(m.bytes(m.u32()).toString('latin1')));
on('C', (m) => m.push(m.bytes(m.u8())));
on('B', (m) => m.push(m.bytes(m.u32())));
on(0x8e, (m) => m.push(m.bytes(m.u64())));
on(0x96, (m) => m.push(m.bytes(m.u64())));

on('(', (m) => m.mark());
on('0', (m) => void m.pop());
on('1', (m) => void m.popMark());
on('2', (m) => m.push(m.top()));
on('p', (m) => m.remember(m.memoKey()));
on('q', (m) => m.remember(m.u8()));
on('r', (m) => m.remember(m.u32()));
on(0x94, (m) => m.remember(m.memoSize));
on('g', (m) => m.recall(m.memoKey()));
on('h', (m) => m.recall(m.u8()));
on('j', (m) => m.recall(m.u32()));

on(')', (m) => m.put([]));
on('t', (m) => m.put(m.popMark()));
on(0x85, (m) => m.tuple(1));
on(0x86, (m) => m.tuple(2));
on(0x87, (m) => m.tuple(3));
on(']', (m) => m.put([]));
on('l', (m) => m.put(m.popMark()));
on('a', (m) => {
  const item = m.pop();
  m.list().push(item);
});
on('e', (m) => {
  const items = m.popMark();
  const list = m.list();
  for (const item of items) list.push(item);
});

on('}', (m) => m.put(new Map()));
on('d', (m) => {
  const items = m.popMark();
  const dict = new Map();
  m.setItems(dict, items);
  m.put(dict);
});
on('s', (m) => {
  const value = m.pop();
  const key = m.pop();
  m.dict().set(key, value);
});
on('u', (m) => {
  const items = m.popMark();
  m.setItems(m.dict(), items);
});

on(0x8f, (m) => m.put(new Set()));
on(0x90, (m) => {
  const items = m.popMark();
  const set = m.set();
  for (const item of items) set.add(item);
});
on(0x91, (m) => m.put(new Set(m.popMark())));

on('c', (m) => m.global(m.line(), m.line()));
on(0x93, (m) => {
  const name = m.pop();
  m.global(m.pop(), name);
});
on('Q', (m) => m.persistent());
on('R', (m) => m.call());
on(0x81, (m) => m.call()); // NEWOBJ
on('b', (m) => m.build());
