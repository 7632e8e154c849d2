// Values that are hardly ever a right argument.
import { inspect } from 'node:util';

export type Call = (value: unknown) => unknown;

export const garbage: readonly unknown[] = [
  ...[undefined, null, true, 5, -1, 0.5, NaN, 1n, 'x', '', Symbol('s')],
  ...[
    {},
    [],
    [undefined],
    [[]],
    Object.create(null),
    () => {},
    new Date(0),
    new Map(),
    new Uint8Array(3),
    new DataView(new ArrayBuffer(8)),
  ],
];

/** Demands that `call` refuses each of them with a message like `pattern`; those in `valid` it may take. */
export async function refusesGarbage(pattern: RegExp, call: Call, valid: readonly unknown[] = []): Promise<void> {
  const wrong: string[] = [];
  for (const value of garbage) {
    const isValid = valid.some((known) => inspect(known) === inspect(value));
    try {
      await call(value);
      if (!isValid) wrong.push(`${inspect(value)} is not refused`);
    } catch (thrown) {
      const { message } = thrown as Error;
      if (!pattern.test(message)) wrong.push(`${inspect(value)} gives: ${message}`);
    }
  }
  if (wrong.length > 0) throw new Error(`${call}: expected ${pattern}, but ${wrong.join('; ')}`);
}

/** Those that are objects without entries, as options may be. */
export const noOptions: readonly unknown[] = garbage.filter(
  (value) =>
    value === undefined ||
    (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length === 0),
);

/** A pattern for a message that begins with a text. */
export const exactly = (text: string): RegExp => new RegExp(`^${text.replace(/[.*+?^$(){}|[\]\\]/g, '\\$&')}`);
