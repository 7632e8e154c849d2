// A text file of lines that are appended one by one, such as a journal. Each line has a checksum of itself and of the
// file's first line: one that is torn, garbled or of another file does not count, wherever it is.
import { createHash } from 'node:crypto';

const checksumLength = 16;

/** `CHECKSUM {"file":…}` */
export function checkedLine(first: string, json: string): string {
  const digest = createHash('sha256').update(`${first}\n${json}`).digest('hex');
  return `${digest.slice(0, checksumLength)} ${json}`;
}

export interface CheckedLine {
  /** Its number in the file, from 1. */
  readonly number: number;
  readonly json: string;
  /** The byte offsets of the line, and behind it. */
  readonly start: number;
  readonly end: number;
}

/** The lines of a file that are whole and belong to its first line. */
export function* checkedLinesIn(bytes: Buffer, first: string): Generator<CheckedLine> {
  for (let at = 0, number = 1; at < bytes.length; number++) {
    const end = bytes.indexOf('\n', at);
    if (end < 0) return;
    const line = bytes.toString('utf8', at, end);
    const start = at;
    at = end + 1;
    const json = line.slice(checksumLength + 1);
    if (json !== '' && line === checkedLine(first, json)) yield { number, json, start, end: at };
  }
}
