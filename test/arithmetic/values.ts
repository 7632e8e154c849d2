// What the fixed program computes with: tensors whose bits are the same on every machine, awkward values and layouts among them. No
// value comes from Math.sin and the like, or from a device.
import type { Device } from '../../src/engine/device.js';
import { byteWidth, hostArray } from '../../src/engine/dtype.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { product } from '../support/operations/cases.js';
import type { Float } from './runs.js';

/**
 * plain: of several magnitudes about 1. cancelling: large ones whose neighbours nearly cancel them. equal: few values, zeros of
 * both signs among them. finite: plain ones and awkward ones that are finite. awkward: NaN and infinities as well. rare: awkward
 * ones, but few of them.
 */
export type Kind = 'plain' | 'cancelling' | 'equal' | 'finite' | 'awkward' | 'rare';

/** contiguous; of dimensions in reverse order; a part of a larger tensor; with strides of 0. */
export const layouts = ['contiguous', 'reversed', 'sliced', 'expanded'] as const;
export type Layout = (typeof layouts)[number];

/** Bits of numbers that are finite: zeros, subnormals, the smallest normal ones, the largest, 1 and its neighbours. */
const finite: Record<Float, readonly number[]> = {
  float32: [
    ...[0, 0x80000000, 1, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff],
    ...[0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0x4b800001, 0xc2d00000, 0x42b00000],
  ],
  float16: [0, 0x8000, 1, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x7bff, 0xfbff, 0x3c00, 0xbc00, 0x3c01, 0x3bff],
  bfloat16: [0, 0x8000, 1, 0x8001, 0x007f, 0x807f, 0x0080, 0x8080, 0x7f7f, 0xff7f, 0x3f80, 0xbf80, 0x3f81, 0x3f7f],
};

/** Bits of NaN, of both signs and with payloads, and of the infinities. */
const notFinite: Record<Float, readonly number[]> = {
  float32: [0x7fc00000, 0xffc00000, 0x7fc12345, 0xffedcba9, 0x7f800000, 0xff800000],
  float16: [0x7e00, 0xfe00, 0x7e35, 0xffb9, 0x7c00, 0xfc00],
  bfloat16: [0x7fc0, 0xffc0, 0x7fd5, 0xffe9, 0x7f80, 0xff80],
};

/** Numbers of a dtype as bits. */
type Bits = Uint32Array | Uint16Array;

export class Values {
  #state: number;

  constructor(
    readonly device: Device,
    readonly dtype: Float,
    seed: number,
  ) {
    this.#state = seed;
  }

  integer(low: number, high: number): number {
    return low + (this.#word() % (high - low));
  }

  /** 32 random bits: a counter, mixed (splitmix32). */
  #word(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** A tensor of the program's dtype. */
  floats(shape: readonly number[], kind: Kind = 'plain', layout: Layout = 'contiguous'): Tensor {
    return this.#laidOut(shape, layout, (own) => this.ofBits(this.#bits(product(own), kind), own));
  }

  /** float32, whatever the program's dtype. */
  float32(shape: readonly number[], kind: Kind = 'plain', layout: Layout = 'contiguous'): Tensor {
    if (this.dtype === 'float32') return this.floats(shape, kind, layout);
    return new Values(this.device, 'float32', this.integer(0, 2 ** 31)).floats(shape, kind, layout);
  }

  integers(shape: readonly number[], low: number, high: number, layout: Layout = 'contiguous'): Tensor {
    return this.#laidOut(shape, layout, (own) => {
      const data = Int32Array.from({ length: product(own) }, () => this.integer(low, high));
      return Tensor.from(data, { shape: own, device: this.device });
    });
  }

  bools(shape: readonly number[], layout: Layout = 'contiguous'): Tensor {
    return this.#laidOut(shape, layout, (own) => {
      const data = Uint8Array.from({ length: product(own) }, () => this.#word() & 1);
      return Tensor.from(data, { shape: own, device: this.device });
    });
  }

  /** A tensor of the program's dtype with these bits. */
  ofBits(bits: Bits, shape: readonly number[] = [bits.length]): Tensor {
    const data = bits instanceof Uint32Array ? new Float32Array(bits.buffer) : bits;
    return Tensor.from(data, { shape: [...shape], dtype: this.dtype, device: this.device });
  }

  /** Bit patterns from all over the dtype: every one of 16 bits, and of float32 some 100,000, more of them between -128 and 128. */
  sweep(): Tensor {
    if (this.dtype !== 'float32') return this.ofBits(Uint16Array.from({ length: 2 ** 16 }, (_, i) => i));
    const all = Uint32Array.from({ length: 60_000 }, (_, i) => i * 71_582 + this.integer(0, 71_582));
    const near = Uint32Array.from({ length: 45_000 }, (_, i) => {
      const size = 0x3a000000 + (i >>> 1) * 6_700 + this.integer(0, 6_700);
      return (i % 2 ? size + 0x80000000 : size) >>> 0;
    });
    return this.ofBits(Uint32Array.of(...finite.float32, ...notFinite.float32, ...all, ...near));
  }

  #bits(n: number, kind: Kind): Bits {
    const { dtype } = this;
    const bits = dtype === 'float32' ? new Uint32Array(n) : new Uint16Array(n);
    const numbers = new Float32Array(1);
    const word = new Uint32Array(numbers.buffer);
    const every = kind === 'rare' ? 701 : kind === 'finite' || kind === 'awkward' ? 5 : 0;
    const odd = kind === 'finite' ? finite[dtype] : [...finite[dtype], ...notFinite[dtype]];
    let last = 0;
    for (let i = 0; i < n; i++) {
      if (every && this.integer(0, every) === 0) {
        bits[i] = odd[this.integer(0, odd.length)] as number;
        continue;
      }
      // exact in double precision, whatever the machine
      let x = (this.#word() + this.#word() - 2 ** 32) / 2 ** (31 + (this.#word() & 3));
      if (kind === 'equal') x = Math.round(x * 2);
      if (kind === 'cancelling') {
        x = i % 2 ? -last * (1 + x * 2 ** -9) : x * 2 ** this.integer(0, 12);
        last = x;
      }
      numbers[0] = x;
      bits[i] = narrowed(word[0] as number, dtype);
    }
    return bits;
  }

  #laidOut(shape: readonly number[], layout: Layout, make: (shape: number[]) => Tensor): Tensor {
    const [first, last] = [shape[0], shape.at(-1)];
    if (first === undefined || last === undefined || layout === 'contiguous') return make([...shape]);
    if (layout === 'reversed') return make(shape.toReversed()).permute([...shape.keys()].reverse());
    if (layout === 'expanded') return make([1, ...shape.slice(1)]).expand(...shape);
    return make([...shape.slice(0, -1), last + 3]).slice(-1, 2, 2 + last);
  }
}

/** float32 of the dtype, in bits: what does not fit is cut off, and numbers below 2^-14 are zero in float16. */
function narrowed(word: number, dtype: Float): number {
  if (dtype === 'float32') return word;
  if (dtype === 'bfloat16') return word >>> 16;
  const [sign, exponent] = [(word >>> 31) << 15, (word >>> 23) & 0xff];
  if (exponent < 113) return sign;
  return sign | Math.min(((exponent - 112) << 10) | ((word >>> 13) & 0x3ff), 0x7bff);
}

/** The bytes of a tensor's elements, in row-major order. */
export async function bytesOf(t: Tensor): Promise<Uint8Array> {
  const host = byteWidth(t.dtype) === 2 ? new Uint16Array(t.size) : hostArray(t.dtype, t.size);
  await t.readInto(host);
  return new Uint8Array(host.buffer);
}
