// Text that others wrote, for a terminal.

/** Text of Redis or of a file for a terminal: on one line, without what a terminal obeys, and not longer than `most`. */
export function printable(text: string, most = 300): string {
  // controls; what turns the direction of writing, has no width or breaks a line; halves of characters
  const plain = text.slice(0, most).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, '?');
  return text.length > most ? `${plain}…` : plain;
}
