// Shows values, counts and sizes as text for messages, reports and terminals: values from files, servers and users have
// any kind and length.

/** A value for a message: short, on one line, and without the contents of a container. */
export const shown = (x: unknown): string => (typeof x === 'string' ? escaped(x, 120) : nameOf(x));

/** The same, with text in quotes, of which at most `most` characters are shown. */
export const quoted = (x: unknown, most = 120): string => (typeof x === 'string' ? `"${escaped(x, most)}"` : nameOf(x));

function nameOf(x: unknown): string {
  if (Array.isArray(x)) return 'a list';
  return typeof x === 'object' && x !== null ? 'an object' : String(x);
}

// JSON leaves the control characters from U+007F on as they are.
const escaped = (text: string, most: number): string =>
  JSON.stringify(text.length > most ? `${text.slice(0, most)}...` : text)
    .slice(1, -1)
    .replace(/[\u007f-\u009f]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`);

/** Text of any length for a message, its control characters as escapes. */
export const withEscapes = (text: string): string =>
  text.replace(/\p{Cc}/gu, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** Text for a terminal: on one line, without characters that control the terminal, and not longer than `most`. */
export function printable(text: string, most = 300): string {
  // control characters; characters that change the direction of writing, have no width or break a line; halves of
  // characters
  const plain = text.slice(0, most).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, '?');
  return text.length > most ? `${plain}…` : plain;
}

/** A number of bytes with three significant digits: `1.23 MB`. */
export function showBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  let value = bytes;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(3)} ${units[unit]}`;
}

/** A count and its noun: `1 shard`, `2 shards`. */
export const counted = (count: number, noun: string): string => `${count} ${count === 1 ? noun : `${noun}s`}`;

/** A whole number with commas: `1,234,567`. */
export const withCommas = (x: number): string => Math.round(x).toLocaleString('en-US');

/** A number with three significant digits at most. */
export const threeDigits = (x: number): string => String(Number(x.toPrecision(3)));
