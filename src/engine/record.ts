// The record of operations from which gradients are computed: what was done, the values that its derivatives need, and
// the walk back. It knows no operation: each notes itself here, beside its forward in ops/.
//
// A gradient belongs to a storage and has its layout: that of a view is the same window of it. Going back over an
// operation takes the gradient of what it wrote, which leaves 0 for what was there before, and adds to the gradients of
// what it read. So views and edits in place need no rules of their own.
import { AsyncLocalStorage } from 'node:async_hooks';
import { checkBoolean, checkOptions, wrong } from './check.js';
import type { Device } from './device.js';
import { type DType, isFloat } from './dtype.js';
import { Operand, type OperandWindow } from './operand.js';
import { isContiguous, overlap, type Shape, sameShape, sameWindow, showShape, sizeOf } from './shape.js';
import type { Storage } from './storage.js';

/** A tensor, as far as gradients are concerned: ops/tensor.ts lies above this file. */
export interface Values extends Operand, OperandWindow {
  readonly dtype: DType;
  readonly isContiguous: boolean;
  readonly ownsAll: boolean;
  make(shape: Shape, dtype?: DType): Values;
  window(shape: Shape, strides: Shape, offset?: number): Values;
  transferTo(shape: Shape, strides?: Shape): Values;
  shared(): Values;
  clone(): Values;
  expand(shape: Shape): Values;
  sum(dims: readonly number[], options: { keepDim: boolean }): Values;
  fill(value: number): Values;
  add_(x: Values | number): Values;
  copyFrom(x: Values): Values;
  release(reason: string): void;
  dispose(): void;
  [Symbol.dispose](): void;
}

/** A tensor whose gradient is wanted, whatever it is used for. */
export class Leaf {
  /** float32, the sum over backward passes. */
  gradient: Values | undefined;
  readonly #window: OperandWindow;

  constructor(window: OperandWindow) {
    this.#window = window;
  }

  /** Takes over what a backward pass gives. */
  add(buffer: Values): void {
    const { shape, strides } = this.#window;
    const given = buffer.transferTo(shape, strides);
    if (this.gradient && this.gradient.ended === undefined) {
      this.gradient.add_(given);
      given.dispose();
    } else {
      this.gradient = given;
    }
  }

  clear(): void {
    this.gradient?.dispose();
    this.gradient = undefined;
  }
}

/** What depends on recorded tensors by way of an operation alone that cannot be differentiated. */
class Cut {
  readonly operation: string;

  constructor(operation: string) {
    this.operation = operation;
  }
}

/** Where the contents of a storage come from. */
export type History = GradientRecord | Leaf | Cut;

/** A value that the way back needs, as it was when it was kept. */
export class KeptValue {
  #tensor: Values | undefined;
  #isLastUse = false;

  constructor(tensor: Values) {
    this.#tensor = tensor.shared();
    const { memory } = tensor.storage;
    memory.kept ??= [];
    memory.kept.push(new WeakRef(this));
    if (memory.kept.length > 2 * memory.heldBefore + 16) {
      memory.kept = memory.kept.filter((other) => other.deref()?.liesIn(memory));
      memory.heldBefore = memory.kept.length;
    }
  }

  get tensor(): Values {
    if (this.#tensor === undefined) throw new Error('a value that backward needs was given up');
    return this.#tensor;
  }

  /** Whether the way back may overwrite it: nothing else needs its memory, now or later. */
  get isFree(): boolean {
    return this.#isLastUse && !this.tensor.storage.memory.isShared;
  }

  /** The record is gone over for the last time. */
  willBeReleased(): void {
    this.#isLastUse = true;
  }

  /** Whether it is still needed, and no copy has taken its place. */
  liesIn(memory: Values['storage']['memory']): boolean {
    return this.#tensor?.storage.memory === memory;
  }

  /** A copy takes its place where `out`, which is about to be written, would change it. */
  beforeWrite(out: Values): void {
    const own = this.#tensor;
    if (!own || !this.liesIn(out.storage.memory) || !overlap(own, out)) return;
    this.#tensor = own.clone();
    own.dispose();
  }

  release(): void {
    this.#tensor?.dispose();
    this.#tensor = undefined;
  }
}

/** Keeps a value for the way back. `isFree`: whether backward, where it is called now, may overwrite it. */
export type Keep<T> = (tensor: T) => { readonly tensor: T; readonly isFree: boolean };

/**
 * The gradients of an operation's inputs, from those of its outputs, which are float32 and the operation's to overwrite.
 * An output that the loss does not depend on has none. Each gradient that is returned has a shape that broadcasts to its
 * input's; it is a new tensor, or one of the gradients that were given or a view of one. That of an input for which
 * `needs` is false is left out. An operation may give the same tensor for several inputs. Where all inputs are windows of
 * one storage, which are apart and together all of it, their gradients may be the same windows of a new tensor.
 */
export type Backward<T> = (
  ...gradients: readonly (T | undefined)[]
) => readonly (T | undefined)[] | Promise<readonly (T | undefined)[]>;

/** Called where an operation is recorded: keeps what backward needs. `needs`: whose gradients are wanted. */
export type Prepare<T> = (keep: Keep<T>, needs: readonly boolean[]) => Backward<T>;

type GradientHook = (gradient: Values) => Promise<Values>;

interface Node {
  readonly outputs: readonly OperandWindow[];
  readonly inputs: readonly (OperandWindow | undefined)[];
  readonly kept: readonly KeptValue[];
  readonly backward?: Backward<Values>;
  /** In place of backward: sees, and may replace, the gradient of the output. */
  readonly hook?: GradientHook;
}

/** What surrounds the operations of an asynchronous flow. Outside of all passes there is none. */
interface Mode {
  /** What operations on leaves join; without it, nothing is recorded. */
  readonly record?: GradientRecord;
  readonly isBackward: boolean;
  /** What surrounds this one. */
  readonly outer: Mode | undefined;
  /** Set when what it was for has ended: flows that nobody waited for may go on. */
  isOver: boolean;
}

const modes = new AsyncLocalStorage<Mode>();

/** Whether there ever was a leaf or a record. Before, nothing can be recorded; and modes make every await slower. */
let isInUse = false;

/** Calls `run`: operations on leaves join this record meanwhile, across awaits. Without one, nothing is recorded. */
export function recordingIn<T>(record: GradientRecord | undefined, run: () => T): T {
  return isInUse ? inMode({ ...(record && { record }), isBackward: modeOf()?.isBackward ?? false }, run) : run();
}

function inMode<T>(mode: Pick<Mode, 'record' | 'isBackward'>, run: () => T): T {
  const own: Mode = { ...mode, outer: modeOf(), isOver: false };
  const end = () => {
    own.isOver = true;
  };
  let isAsync = false;
  try {
    const result = modes.run(own, run);
    isAsync = result instanceof Promise;
    return isAsync ? ((result as Promise<unknown>).finally(end) as T) : result;
  } finally {
    if (!isAsync) end();
  }
}

function modeOf(): Mode | undefined {
  let mode = modes.getStore();
  while (mode?.isOver) mode = mode.outer;
  return mode;
}

/** The record of the pass under way. */
export const currentRecord = (): GradientRecord | undefined => modeOf()?.record;

/** Makes what backward() returns of the gradients of watched operands; there is none where the loss does not depend. */
type MakeReturned = (gradientOf: (operand: Operand) => Values | undefined) => Map<string, Values>;

/** What passes want backward() to return. */
interface Returned {
  /** Whose gradients they are: names are the same in all passes of one model. */
  readonly owner: object;
  readonly make: MakeReturned;
}

/** What a pass with gradients carries: the operations on its tensors, and what going back over them needs. */
export class GradientRecord {
  #nodes: Node[] = [];
  #held: { dispose(): void }[] = [];
  #mergedInto: GradientRecord | undefined;
  #ended: string | undefined;
  #isBusy = false;
  #returned: Returned[] = [];

  /** @internal */
  constructor() {
    isInUse = true;
  }

  /** @internal Why backward is no longer possible, or undefined while it is. */
  get ended(): string | undefined {
    return this.root.#ended;
  }

  /** @internal The record that this one has become a part of: itself, unless operations joined several. */
  get root(): GradientRecord {
    let root: GradientRecord = this;
    while (root.#mergedInto) root = root.#mergedInto;
    return root;
  }

  /** @internal Wants the gradient of an operand where nothing else has it recorded: what is made of it is recorded. */
  watch(operand: Operand): void {
    const { storage } = operand;
    if (storage.history === undefined || storage.history instanceof Cut) storage.history = this.root;
  }

  /** @internal Frees something together with the record. */
  hold(thing: { dispose(): void }): void {
    if (this.ended === undefined) this.root.#held.push(thing);
    else thing.dispose();
  }

  /** @internal What backward() returns: gradients of `owner` by name, which add up over its passes. */
  willReturn(owner: object, make: MakeReturned): void {
    this.root.#returned.push({ owner, make });
  }

  /** @internal One record from two whose tensors an operation joins. */
  join(other: GradientRecord): GradientRecord {
    // the smaller becomes a part of the larger, which keeps the ways to the root short
    const [a, b] = [this.root, other.root].sort((one, two) => two.#nodes.length - one.#nodes.length) as [
      GradientRecord,
      GradientRecord,
    ];
    if (a === b) return a;
    for (const record of [a, b]) if (record.#isBusy) throw new Error(busy);
    const owners = new Set([...a.#returned, ...b.#returned].map(({ owner }) => owner));
    if (owners.size > 1) {
      throw new Error(
        "backward: gradients of the parameters of two models cannot be returned by name; grad: 'parameters' for one",
      );
    }
    // any order of the two will do: until now, no operation of one had to do with what the other one knows
    for (const node of b.#nodes) a.#nodes.push(node);
    a.#held.push(...b.#held);
    a.#returned.push(...b.#returned);
    b.#mergedInto = a;
    b.#nodes = [];
    b.#held = [];
    return a;
  }

  /** @internal */
  add(
    outputs: readonly OperandWindow[],
    inputs: readonly (OperandWindow | undefined)[],
    prepare: Prepare<Values>,
  ): void {
    const kept: KeptValue[] = [];
    const keep: Keep<Values> = (tensor) => {
      const value = new KeptValue(tensor);
      kept.push(value);
      return value;
    };
    const backward = prepare(
      keep,
      inputs.map((window) => window !== undefined),
    );
    this.#nodes.push({ outputs, inputs, kept, backward });
  }

  /** @internal The gradient of x, which is recorded, is shown to the hook on its way back from here. */
  addHook(x: Values, hook: GradientHook): void {
    this.root.#nodes.push({ outputs: [x.gradientWindow], inputs: [], kept: [], hook });
  }

  /** Gives up what backward needs: its memory is free, and backward() on a tensor of this pass is an error. */
  dispose(): void {
    this.end('it was disposed');
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  end(reason: string): void {
    const root = this.root;
    if (root.#ended !== undefined) return;
    root.#ended = reason;
    for (const node of root.#nodes) release(node);
    for (const thing of root.#held) thing.dispose();
    root.#nodes = [];
    root.#held = [];
    root.#returned = [];
  }

  /**
   * @internal Goes back from outputs and their gradients, which it takes over; calls `finish` with all gradients that
   * are left: those of leaves and watched operands.
   */
  async back<T>(
    from: readonly (readonly [output: OperandWindow, gradient: Values])[],
    retain: boolean,
    finish: (gradients: GradientBuffers) => T,
  ): Promise<T> {
    if (this.#isBusy) {
      for (const [, gradient] of from) gradient.dispose();
      throw new Error(busy);
    }
    this.#isBusy = true;
    const gradients = new GradientBuffers();
    let isDone = false;
    try {
      for (const [window, gradient] of from) {
        gradients.add(window, gradient, true);
        gradient.dispose();
      }
      for (const node of this.#nodes.toReversed()) {
        if (!retain) for (const value of node.kept) value.willBeReleased();
        if (node.hook) await this.#show(node.hook, node.outputs[0] as OperandWindow, gradients);
        else await stepBack(node, gradients);
        if (!retain) release(node);
        if (this.#ended !== undefined) throw new Error(gone(this.#ended));
      }
      const result = finish(gradients);
      isDone = true;
      return result;
    } finally {
      gradients.dispose();
      this.#isBusy = false;
      if (!isDone) this.end('a backward() over it has failed');
      else if (!retain) this.end('backward() has freed it; with retain: true it stays');
    }
  }

  async #show(hook: GradientHook, window: OperandWindow, gradients: GradientBuffers): Promise<void> {
    const own = gradients.at(window);
    if (!own) return;
    const given = own.shared();
    try {
      const result = await hook(given);
      if (result.storage.memory !== given.storage.memory || !sameWindow(result, given)) own.copyFrom(result);
      if (result.storage.memory !== given.storage.memory) result.dispose();
    } finally {
      given.release('the hook it was given to has ended; keep a clone()');
    }
  }

  /** @internal What backward() returns after a walk back. */
  returnedOf(gradients: GradientBuffers): Map<string, Values> {
    const all = new Map<string, Values>();
    for (const { make } of this.#returned) {
      for (const [name, gradient] of make((operand) => gradients.of(operand))) {
        const sum = all.get(name);
        all.set(name, sum ? sum.add_(gradient) : gradient);
        if (sum) gradient.dispose();
      }
    }
    return all;
  }
}

const busy = 'backward: another backward() goes over the same record; wait for it first';
const gone = (why: string): string =>
  `backward: a record that the tensor depends on is gone: ${why}; what is only a value from then on needs detach()`;

const release = (node: Node): void => {
  for (const value of node.kept) value.release();
};

async function stepBack(node: Node, gradients: GradientBuffers): Promise<void> {
  const given = node.outputs.map((window) => gradients.take(window));
  if (given.every((gradient) => gradient === undefined)) return;
  let made: readonly (Values | undefined)[] = [];
  try {
    const result = (node.backward as Backward<Values>)(...given);
    made = result instanceof Promise ? await result : result;
    if (gradients.adopt(node.inputs, made)) return;
    for (const [i, window] of node.inputs.entries()) {
      const gradient = made[i];
      if (!window || !gradient) continue;
      const isLast = made.every((other, j) => j <= i || !node.inputs[j] || other?.storage !== gradient.storage);
      gradients.add(window, gradient, isLast);
    }
  } finally {
    for (const gradient of [...given, ...made]) gradient?.dispose();
  }
}

/** The gradients of a walk back: for each storage a float32 tensor with an element for each of its own. */
class GradientBuffers {
  readonly #buffers = new Map<Storage, Values>();

  /** A view of the gradient of a window, if there is one. */
  at({ storage, shape, strides, offset }: OperandWindow): Values | undefined {
    return this.#buffers.get(storage)?.window(shape, strides, offset);
  }

  /** The gradient of a window, which is 0 from now on. It is the caller's. */
  take(window: OperandWindow): Values | undefined {
    const { storage, shape, strides } = window;
    const buffer = this.#buffers.get(storage);
    if (!buffer) return undefined;
    if (isWhole(window)) {
      this.#buffers.delete(storage);
      return buffer.transferTo(shape, strides);
    }
    const view = this.at(window) as Values;
    const gradient = view.clone();
    view.fill(0);
    return gradient;
  }

  /**
   * Takes over the gradients of all windows of a storage that had none, where they are the same windows of one tensor,
   * apart and together all of it. Otherwise does nothing and returns false.
   */
  adopt(windows: readonly (OperandWindow | undefined)[], made: readonly (Values | undefined)[]): boolean {
    const { storage, elements } = windows[0] ?? {};
    const first = made.find((gradient, i) => gradient?.offset === 0 && windows[i]?.storage === storage);
    if (windows.length < 2 || !storage || !first || first.ownsAll || this.#buffers.has(storage)) return false;
    let shown = 0;
    for (const [i, window] of windows.entries()) {
      const gradient = made[i];
      if (window?.storage !== storage || gradient?.storage !== first.storage) return false;
      if (gradient.dtype !== 'float32' || !sameWindow(window, gradient)) return false;
      shown += sizeOf(window.shape);
    }
    if (shown !== elements || first.storage.bytes !== 4 * elements) return false;
    this.#buffers.set(storage, first.shared().transferTo([elements]));
    return true;
  }

  /** Adds to the gradient of a window. `mayTake`: nobody needs the memory of `gradient` afterwards. */
  add(window: OperandWindow, gradient: Values, mayTake: boolean): void {
    const { storage, shape, strides, elements } = window;
    const repeated = [...shape.keys()].filter((d) => strides[d] === 0 && shape[d] !== 1);
    if (repeated.length > 0) {
      const all = sameShape(gradient.shape, shape) ? gradient : gradient.expand(shape);
      using total = all.sum(repeated, { keepDim: true });
      this.add({ ...window, shape: total.shape }, total, true);
      return;
    }
    if (this.#buffers.has(storage)) {
      this.at(window)?.add_(gradient);
      return;
    }
    const isPlain = gradient.dtype === 'float32' && sameShape(gradient.shape, shape) && gradient.ownsAll;
    if (mayTake && isPlain && isWhole(window) && gradient.isContiguous && isContiguous(shape, strides)) {
      this.#buffers.set(storage, gradient.transferTo([elements]));
      return;
    }
    const buffer = gradient.make([elements], 'float32');
    this.#buffers.set(storage, buffer);
    if (!isWhole(window)) buffer.fill(0);
    this.at(window)?.copyFrom(gradient);
  }

  /** The gradient of an operand, the caller's. */
  of(operand: Operand): Values | undefined {
    return this.take(operand.gradientWindow);
  }

  /** Hands the gradients of leaves over to them. */
  leaves(): void {
    for (const [storage, buffer] of this.#buffers) {
      if (!(storage.history instanceof Leaf) || storage.ended !== undefined) continue;
      this.#buffers.delete(storage);
      storage.history.add(buffer);
    }
  }

  dispose(): void {
    for (const buffer of this.#buffers.values()) buffer.dispose();
    this.#buffers.clear();
  }
}

/** Whether a window shows each element of its storage once. */
const isWhole = ({ shape, strides, offset, elements }: OperandWindow): boolean =>
  offset === 0 &&
  shape.reduce((product, n) => product * n, 1) === elements &&
  shape.every((n, d) => n === 1 || strides[d] !== 0);

/** How an operation is noted that has no gradients, whatever its inputs are. */
export const noGradients =
  <T>(): Backward<T> =>
  () => [];

/** Whether gradients may have to do with one of these operands: if not, an operation on them need not be recorded. */
export const hasHistory = (a: Operand | undefined, b?: Operand, c?: Operand, d?: Operand): boolean =>
  a?.storage.history !== undefined ||
  b?.storage.history !== undefined ||
  c?.storage.history !== undefined ||
  d?.storage.history !== undefined;

/** Whether the gradient of an operand is wanted. */
export function isRecorded(operand: Operand | undefined): boolean {
  const history = operand?.storage.history;
  return history instanceof Leaf || isLive(history);
}

/** What an operation on these operands belongs to. A record that has ended wins: backward() must say so. */
function historyOf(operands: readonly (Operand | undefined)[]): GradientRecord | Cut | undefined {
  const mode = modeOf();
  if (mode && !mode.record) return undefined;
  let record: GradientRecord | undefined;
  let cut: Cut | undefined;
  let isOnLeaf = false;
  for (const operand of operands) {
    const history = operand?.storage.history;
    if (history instanceof Leaf) isOnLeaf = true;
    else if (history instanceof Cut) cut ??= history;
    else if (history?.ended !== undefined) return history;
    else if (history) record = record?.join(history) ?? history.root;
  }
  if (!record && isOnLeaf) record = mode?.record?.root ?? new GradientRecord();
  return record ?? cut;
}

const wantedWindows = (inputs: readonly (Operand | undefined)[]): (OperandWindow | undefined)[] =>
  inputs.map((input) => (isRecorded(input) ? input?.gradientWindow : undefined));

/**
 * Notes an operation that made `outputs`, where hasHistory() of its inputs holds. Outputs that are not of floats have no
 * gradients: backward is called with those of the others.
 */
export function record<T extends Values>(
  operation: string,
  outputs: readonly T[],
  inputs: readonly (Operand | undefined)[],
  prepare: Prepare<T>,
): void {
  const history = historyOf(inputs);
  if (history) note(history, operation, outputs, inputs, prepare);
}

function note<T extends Values>(
  history: GradientRecord | Cut,
  operation: string,
  outputs: readonly T[],
  inputs: readonly (Operand | undefined)[],
  prepare: Prepare<T>,
): void {
  const differentiable = outputs.filter((output) => isFloat(output.dtype));
  if (isLive(history) && differentiable.length > 0) {
    const windows = differentiable.map((output) => output.gradientWindow);
    history.add(windows, wantedWindows(inputs), prepare as unknown as Prepare<Values>);
  }
  for (const { storage, dtype } of outputs) {
    storage.history = isLive(history) && !isFloat(dtype) ? new Cut(operation) : history;
  }
}

const isLive = (history: History | undefined): history is GradientRecord =>
  history instanceof GradientRecord && history.ended === undefined;

/**
 * Notes an operation that is about to write `out`, which the inputs may include; every operation that writes to memory
 * which others may see calls this before it is queued. Values that were kept there are copied first.
 * @throws Error where out is a leaf.
 */
export function recordWrite<T extends Values>(
  operation: string,
  out: T,
  inputs: readonly (Operand | undefined)[],
  prepare: Prepare<T>,
): void {
  const { storage } = out;
  const { history: past } = storage;
  // what is written all over begins anew, unless backward must learn that its past contents end here
  const hasEnded = past !== undefined && !(past instanceof Leaf) && !isLive(past);
  if (hasEnded && isWhole(out.gradientWindow) && !inputs.includes(out)) storage.history = undefined;
  if (storage.history !== undefined || inputs.some((input) => input?.storage.history !== undefined)) {
    const history = historyOf([out, ...inputs]);
    if (history && storage.history instanceof Leaf) {
      const cure = 'detach() gives a view of it that may be changed, as in v.detach().sub_(…)';
      throw new Error(`${operation}: the tensor must not be one whose gradient is wanted (requireGrad); ${cure}`);
    }
    if (isLive(history) && !isFloat(out.dtype)) storage.history = new Cut(operation);
    else if (history) storage.history = history;
    if (isLive(history) && isFloat(out.dtype)) {
      history.add([out.gradientWindow], wantedWindows(inputs), prepare as unknown as Prepare<Values>);
    }
  }
  const { memory } = storage;
  memory.kept = memory.kept?.filter((reference) => {
    const value = reference.deref();
    value?.beforeWrite(out);
    return value?.liesIn(memory);
  });
}

/** Shows the gradient of x to a hook on its way back from here, if x is recorded. */
export function addGradientHook<T extends Values>(x: T, hook: (gradient: T) => Promise<T>): void {
  const history = isRecorded(x) ? historyOf([x]) : undefined;
  if (isLive(history)) history.addHook(x, hook as unknown as GradientHook);
}

/**
 * Notes something that is computed in one step, but whose gradients are to be seen between its steps: going back over it
 * calls `replay` with its inputs first, which returns its outputs anew by steps that are recorded, and goes back over
 * these. What is watched inside is wanted even where no input is recorded: then it belongs to the pass under way.
 */
export function recordReplay<T extends Values, In extends readonly Operand[]>(
  outputs: readonly T[],
  inputs: In,
  replay: (inputs: In) => Promise<readonly T[]>,
): void {
  const found = historyOf(inputs);
  const history = found instanceof GradientRecord ? found : currentRecord()?.root;
  if (!history) return;
  note(history, 'section', outputs, inputs, (keep, needs) => {
    // a matrix is a weight, which is used as it is then
    const isTensor = (input: Operand) => Operand.kindOf(input) === 'a tensor';
    const values = inputs.map((input) => (isTensor(input) ? keep(input as unknown as T) : { tensor: input }));
    return async (...gradients) => {
      const steps = new GradientRecord();
      const own = values.map(({ tensor }, i) => {
        if (tensor.ended) throw new Error(`backward needs ${tensor}, which cannot be used: ${tensor.ended}`);
        const alias = tensor.detach();
        if (needs[i]) steps.watch(alias);
        return alias;
      });
      let made: readonly T[] = [];
      try {
        made = await recordingIn(steps, () => replay(own as unknown as In));
        const given = made.flatMap((output, i) => {
          const gradient = gradients[i];
          return gradient ? [[output.gradientWindow, gradient] as const] : [];
        });
        return await steps.back(given, false, (left) => own.map((alias) => left.of(alias) as T | undefined));
      } finally {
        for (const output of made) output.dispose();
        steps.dispose();
      }
    };
  });
}

/** Demands that an operand is not recorded, as the operation gives something that has no gradient. */
export function checkNotRecorded(operation: string, argument: string, operand: Operand | undefined): void {
  if (!isRecorded(operand) || !historyOf([operand])) return;
  throw new Error(
    `${operation}: ${argument} must not be recorded for gradients, as ${operation} cannot be differentiated; detach() gives a view that is not`,
  );
}

/** Demands a device that gradients can be computed on. */
export function checkRecordable(operation: string, device: Device): void {
  if (device.kind === 'cpu') return;
  throw new Error(`${operation}: gradients are computed on the CPU alone so far, and this is on ${device}`);
}

/** Makes a tensor a leaf. */
export function requireGradient(x: Values): void {
  checkRecordable('requireGrad', x.device);
  if (!isFloat(x.dtype)) throw new TypeError(wrong('requireGrad', 'the tensor', 'of floats', x.dtype));
  const { history } = x.storage;
  if (history instanceof Leaf) return;
  if (!x.ownsAll) {
    throw new Error('requireGrad: the tensor must not be a view of another one; clone() makes one of its own');
  }
  if (history instanceof GradientRecord) {
    throw new Error('requireGrad: the tensor must not be recorded already; detach().clone() makes one that is not');
  }
  isInUse = true;
  x.storage.history = new Leaf(x.gradientWindow);
}

/** The gradient of a leaf, or the part of it that a view of the leaf shows. */
export function gradientOf(x: Values): Values | undefined {
  const gradient = leafOf(x)?.gradient;
  if (gradient === undefined || gradient.ended !== undefined) return undefined;
  return x.ownsAll ? gradient : gradient.window(x.shape, x.strides, x.offset);
}

/** The leaf that a tensor is, or a view of. */
export const leafOf = (x: Operand): Leaf | undefined =>
  x.storage.history instanceof Leaf ? x.storage.history : undefined;

export interface BackwardOptions {
  /** Keep the record, to go backward again from this scalar or another one; false unless given. */
  retain?: boolean;
}

/** Goes back from a scalar: adds to the gradients of leaves, and returns those that the record's pass asked for. */
export async function backward(loss: Values, options: BackwardOptions): Promise<Map<string, Values>> {
  checkOptions('backward', options, { retain: true });
  const { retain = false } = options;
  checkBoolean('backward', 'retain', retain);
  if (loss.ended) throw new Error(`backward: the tensor cannot be used: ${loss.ended}`);
  if (modeOf()?.isBackward) throw new Error('backward: it cannot be called inside a backward pass');
  if (!isFloat(loss.dtype)) throw new TypeError(wrong('backward', 'the tensor', 'of floats', loss.dtype));
  const { shape } = loss;
  if (shape.some((n) => n !== 1)) {
    const expected = 'a scalar, such as sum() gives';
    throw new RangeError(wrong('backward', 'the tensor', expected, showShape(shape)));
  }
  const { history } = loss.storage;
  if (history === undefined || history instanceof Cut) {
    const why =
      history === undefined
        ? 'neither a leaf (requireGrad), nor a pass with grad in which a gradient is wanted before it'
        : `nothing of the kind but by way of ${history.operation}, which cannot be differentiated`;
    throw new Error(`backward: the tensor depends on nothing that is recorded: ${why}`);
  }
  const record = history instanceof Leaf ? new GradientRecord() : history.root;
  if (record.ended !== undefined) throw new Error(gone(record.ended));
  return inMode({ isBackward: true }, () =>
    record.back([[loss.gradientWindow, loss.make(shape, 'float32').fill(1)]], retain, (gradients) => {
      const returned = record.returnedOf(gradients);
      gradients.leaves();
      return returned;
    }),
  );
}
