// Numbers are compared element by element in double precision, and a failure names the worst element: a comparison of
// norms alone would let one wrong row pass.

type Numbers = ArrayLike<number>;

export interface Tolerance {
  /** Allowed difference as a part of the expected value's magnitude. */
  rtol?: number;
  /** Allowed difference in absolute terms; it adds to rtol's. */
  atol?: number;
  /** Names what is compared, for the message. */
  label?: string;
}

/** Demands |actual - expected| <= atol + rtol |expected| of each element; both are 0 when left out. NaN equals NaN, an
 *  infinity equals the same infinity, and the lengths must be the same. */
export function close(
  actual: Numbers,
  expected: Numbers,
  { rtol = 0, atol = 0, label = 'values' }: Tolerance = {},
): void {
  checkLengths(actual, expected, label);
  let wrong = 0;
  let worst = { index: -1, excess: 0 };
  for (let i = 0; i < expected.length; i++) {
    const excess = excessOf(actual[i] as number, expected[i] as number, rtol, atol);
    if (excess === 0) continue;
    wrong++;
    if (excess > worst.excess) worst = { index: i, excess };
  }
  if (wrong === 0) return;
  const { index } = worst;
  const [a, e] = [actual[index] as number, expected[index] as number];
  throw new Error(
    `close: ${label}: ${wrong} of ${expected.length} elements differ, the worst at index ${index}: ` +
      `${a}, but expected ${e} (off by ${Math.abs(a - e)}, allowed ${atol + rtol * Math.abs(e)})`,
  );
}

/** norm(actual - expected) / norm(expected), in double precision; 0 when both are 0. Positions where both are the same
 *  infinity are left out; a NaN makes the result NaN, which no bound accepts. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  checkLengths(actual, expected, 'relativeError');
  let difference = 0;
  let total = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] as number;
    const e = expected[i] as number;
    if (a === e && !Number.isFinite(e)) continue;
    difference += (a - e) ** 2;
    total += e ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / total);
}

// How wrong a value is: 0 within the tolerance; else the difference over the allowed one, or the difference itself
// where none is allowed.
function excessOf(actual: number, expected: number, rtol: number, atol: number): number {
  if (actual === expected || (Number.isNaN(actual) && Number.isNaN(expected))) return 0;
  if (!Number.isFinite(actual) || !Number.isFinite(expected)) return Infinity;
  const difference = Math.abs(actual - expected);
  const allowed = atol + rtol * Math.abs(expected);
  if (difference <= allowed) return 0;
  return rtol === 0 && atol === 0 ? difference : difference / allowed;
}

function checkLengths(actual: Numbers, expected: Numbers, label: string): void {
  for (const [name, list] of Object.entries({ actual, expected })) {
    if (typeof list?.length !== 'number')
      throw new Error(`close: ${label}: ${name} is no array of numbers (no await?)`);
  }
  if (actual.length === expected.length) return;
  throw new Error(`close: ${label}: expected ${expected.length} elements, but got ${actual.length}`);
}
