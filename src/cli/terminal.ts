// Words for a terminal. What they say may come from anywhere: no control character of a file's or a server's gets through.

export const print = (line: string): void => console.log(line.replace(/\p{Cc}/gu, '?'));
