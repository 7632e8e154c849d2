// Writes ONNX models: the fields of onnx.proto (onnx.ai/onnx/repo-docs/IR.html) that a graph of float32 needs, in
// protocol buffers' encoding.

const float32 = 1;
const int64 = 7;

type Field = Uint8Array[];

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let left = BigInt.asUintN(64, BigInt(value)); // negative numbers take ten bytes
  for (; left > 127n; left >>= 7n) bytes.push(Number(left & 127n) | 128);
  bytes.push(Number(left));
  return Uint8Array.from(bytes);
}

const key = (field: number, wire: number): Uint8Array => varint(field * 8 + wire);
const number = (field: number, value: number): Field => [key(field, 0), varint(value)];
const bytes = (field: number, value: Uint8Array): Field => [key(field, 2), varint(value.length), value];
const text = (field: number, value: string): Field => bytes(field, Buffer.from(value));
function message(field: number, parts: Field): Field {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return [key(field, 2), varint(length), ...parts];
}

function attribute(name: string, value: string | number | readonly number[]): Field {
  if (typeof value === 'string') return [...text(1, name), ...text(4, value), ...number(20, 3)];
  if (typeof value !== 'number') return [...text(1, name), ...value.flatMap((n) => number(8, n)), ...number(20, 7)];
  if (Number.isInteger(value)) return [...text(1, name), ...number(3, value), ...number(20, 2)];
  return [...text(1, name), key(2, 5), new Uint8Array(Float32Array.of(value).buffer), ...number(20, 1)];
}

function typed(name: string, type: number, shape: readonly number[]): Field {
  const dims = shape.flatMap((size) => message(1, number(1, size)));
  return [...text(1, name), ...message(2, message(1, [...number(1, type), ...message(2, dims)]))];
}

/** A graph under construction. Values are known by their names. */
export class OnnxGraph {
  readonly #parts: Field = [];
  #names = 0;

  /** Weights, which are part of the model. */
  weights(values: Float32Array | BigInt64Array, shape: readonly number[]): string {
    const name = `w${this.#names++}`;
    const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const type = values instanceof Float32Array ? float32 : int64;
    const dims = shape.flatMap((size) => number(1, size));
    this.#parts.push(...message(5, [...dims, ...number(2, type), ...text(8, name), ...bytes(9, raw)]));
    return name;
  }

  input(name: string, kind: 'float32' | 'int64', shape: readonly number[]): string {
    this.#parts.push(...message(11, typed(name, kind === 'float32' ? float32 : int64, shape)));
    return name;
  }

  output(name: string, shape: readonly number[]): void {
    this.#parts.push(...message(12, typed(name, float32, shape)));
  }

  /** The outputs of an operation; one, unless more are asked for. */
  add(
    operation: string,
    inputs: readonly string[],
    attributes: Record<string, string | number | number[]> = {},
  ): string {
    return this.addMany(1, operation, inputs, attributes)[0] as string;
  }

  addMany(
    outputs: number,
    operation: string,
    inputs: readonly string[],
    attributes: Record<string, string | number | number[]> = {},
  ): string[] {
    const names = Array.from({ length: outputs }, () => `v${this.#names++}`);
    this.#parts.push(
      ...message(1, [
        ...inputs.flatMap((name) => text(1, name)),
        ...names.flatMap((name) => text(2, name)),
        ...text(4, operation),
        ...Object.entries(attributes).flatMap(([name, value]) => message(5, attribute(name, value))),
      ]),
    );
    return names;
  }

  /** The model's file. */
  model(operatorSet: number): Buffer {
    const graph = message(7, [...this.#parts, ...text(2, 'graph')]);
    return Buffer.concat([...number(1, 10), ...graph, ...message(8, [...text(1, ''), ...number(2, operatorSet)])]);
  }
}
