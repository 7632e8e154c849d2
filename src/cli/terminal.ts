// Words for a terminal. What they say may come from anywhere: no control character of a file's or a server's gets through.

const plain = (line: string): string => line.replace(/\p{Cc}/gu, '?');

export const print = (line: string): void => console.log(plain(line));

/** On standard error. */
export const warn = (line: string): void => console.error(plain(`sonde: ${line}`));
