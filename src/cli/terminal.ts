// Lines for a terminal. Parts of them may come from files or servers, so control characters are replaced.

const plain = (line: string): string => line.replace(/\p{Cc}/gu, '?');

export const print = (line: string): void => console.log(plain(line));

/** Prints a line on standard error. */
export const warn = (line: string): void => console.error(plain(`sonde: ${line}`));
