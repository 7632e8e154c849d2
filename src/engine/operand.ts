// What operations take, as far as their checks go: tensors and packed matrices.
import { inspect } from 'node:util';
import type { Device } from './device.js';
import type { Shape } from './shape.js';
import type { Storage } from './storage.js';

/** The part of a storage that an operand shows, in elements; `elements` are those of the whole storage. */
export interface OperandWindow {
  readonly storage: Storage;
  readonly shape: Shape;
  readonly strides: Shape;
  readonly offset: number;
  readonly elements: number;
}

/** The base of what lives on a device and can be used until it is disposed. */
export abstract class Operand {
  abstract readonly device: Device;
  /** @internal Why it can no longer be used, or undefined while it can. */
  abstract readonly ended: string | undefined;
  /** @internal Where its elements lie. */
  abstract readonly storage: Storage;
  /** @internal Where its gradient lies in that of its storage. */
  abstract readonly gradientWindow: OperandWindow;

  /** A view that is not recorded. */
  abstract detach(): Operand;
  readonly #kind: 'a tensor' | 'a packed matrix';

  /** @internal */
  constructor(kind: 'a tensor' | 'a packed matrix') {
    this.#kind = kind;
  }

  /** @internal What a value is; undefined where it is neither, whatever it looks like. */
  static kindOf(value: unknown): 'a tensor' | 'a packed matrix' | undefined {
    return typeof value === 'object' && value !== null && #kind in value ? value.#kind : undefined;
  }

  /** @internal What console.log shows. */
  [inspect.custom](): string {
    return this.toString();
  }
}
