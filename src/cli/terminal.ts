// Lines for a terminal. Parts of them may come from files or servers, so control characters are replaced.
import { once } from 'node:events';
import { type NonFiniteTotal, nonFiniteLines } from '../dump/format/non_finite.js';

const plain = (line: string): string => line.replace(/\p{Cc}/gu, '?');

export const print = (line: string): void => console.log(plain(line));

/** Prints a line on standard error. */
export const warn = (line: string): void => console.error(plain(`sonde: ${line}`));

/**
 * A text of a model for standard output: the same bytes for a pipe or a file; for a terminal, without control characters
 * but line feed and tab. It stays as long as it was.
 */
export const visible = (text: string, isTerminal = process.stdout.isTTY): string =>
  isTerminal ? text.replace(/[^\P{Cc}\n\t]/gu, '?') : text;

/** Writes to standard output, and waits where the reader is slow. @throws the reason of the signal that ends the wait. */
export async function write(text: string, signal: AbortSignal): Promise<void> {
  if (text === '' || process.stdout.write(text)) return;
  try {
    await once(process.stdout, 'drain', { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

/** The rows of a table as lines: the first `left` columns are aligned to the left, the others to the right. */
export function aligned(rows: readonly (readonly string[])[], left = 1): string[] {
  const widths = (rows[0] as readonly string[]).map((_, i) =>
    rows.reduce((most, row) => Math.max(most, (row[i] ?? '').length), 0),
  );
  return rows.map((row) =>
    row
      .map((text, i) => (i < left ? text.padEnd(widths[i] as number) : text.padStart(widths[i] as number)))
      .join('  ')
      .trimEnd(),
  );
}

/** Prints on standard error, for each location of a dump with so many shards, how many values are not finite. */
export function warnOfNonFinite(totals: Readonly<Record<string, NonFiniteTotal>>, shards: number): void {
  for (const line of nonFiniteLines(totals, shards)) warn(line);
}
