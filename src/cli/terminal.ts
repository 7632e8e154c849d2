// Lines for a terminal. Parts of them may come from files or servers, so control characters are replaced.
import { type NonFiniteTotal, nonFiniteLines } from '../dump/format/non_finite.js';

const plain = (line: string): string => line.replace(/\p{Cc}/gu, '?');

export const print = (line: string): void => console.log(plain(line));

/** Prints a line on standard error. */
export const warn = (line: string): void => console.error(plain(`sonde: ${line}`));

/** Prints on standard error, for each location of a dump with so many shards, how many values are not finite. */
export function warnOfNonFinite(totals: Readonly<Record<string, NonFiniteTotal>>, shards: number): void {
  for (const line of nonFiniteLines(totals, shards)) warn(line);
}
