// A choice between two sides, element by element.
import { checkDType, checkOperands, describe, wrong } from '../check.js';
import { type DType, floatDType, promote } from '../dtype.js';
import { hasHistory, record } from '../record.js';
import type { Side } from './binary.js';
import { fill } from './fill.js';
import type { Tensor } from './tensor.js';
import { broadcastTogether } from './views.js';

/** A number leaves integers integers where it is an integer of 32 bits; two numbers give float32. */
function resultDType(a: Side, b: Side): DType {
  if (typeof a !== 'number' && typeof b !== 'number') return promote(a.dtype, b.dtype);
  if (typeof a === 'number' && typeof b === 'number') return 'float32';
  const [t, x] = (typeof a === 'number' ? [b, a] : [a, b]) as [Tensor, number];
  if ((x | 0) !== x) return floatDType(t.dtype);
  return t.dtype === 'bool' ? 'int32' : t.dtype;
}

/**
 * a where condition is true, else b: condition bool, a and b tensors or numbers, all three broadcast. The dtype is that
 * of arithmetic between a and b (two bools give bool), float32 of two numbers.
 */
export function where(condition: Tensor, a: Side, b: Side): Tensor {
  const tensors = { condition, ...checkedSide('a', a), ...checkedSide('b', b) };
  const device = checkOperands('where', tensors);
  checkDType('where', 'condition', condition, 'bool');
  const dtype = resultDType(a, b);
  const temporary: Tensor[] = [];
  const side = (x: Side): Tensor => {
    if (typeof x !== 'number' && x.dtype === dtype) return x;
    const converted = typeof x === 'number' ? condition.make([], dtype) : x.to(dtype);
    temporary.push(converted);
    if (typeof x === 'number') fill(converted, x);
    return converted;
  };
  try {
    const [chosen, left, right] = broadcastTogether('where', { condition, a: side(a), b: side(b) }) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const out = condition.make(chosen.shape, dtype);
    device.run('where', out, chosen, left, right);
    if (hasHistory(chosen, left, right)) {
      record('where', [out], [chosen, left, right], (keep, [, ofA, ofB]) => {
        const kept = keep(chosen);
        return (g) => [
          undefined,
          ofA ? where(kept.tensor, g as Tensor, 0) : undefined,
          ofB ? where(kept.tensor, 0, g as Tensor) : undefined,
        ];
      });
    }
    return out;
  } finally {
    for (const t of temporary) t.dispose();
  }
}

/** The side under its name if it is a tensor. */
function checkedSide(argument: 'a' | 'b', x: Side): Record<string, Tensor> {
  if (typeof x === 'number') return {};
  if (typeof x === 'object' && x !== null) return { [argument]: x };
  throw new TypeError(wrong('where', argument, 'a number or a tensor', describe(x)));
}
