// Letters and numbers as tiktoken has them, those of Unicode 16, whichever version Node's regular expressions know:
// characters of version 17 are removed, and those of versions 15 and 16 are added. The lists were found by comparing
// every code point with tiktoken 1.0.22 and with Unicode 14's table.

/** Code points in hexadecimal, single or from-to, that Unicode 17 made letters or numbers. */
const since17 = `88f c5c cdc a7ce-a7cf a7d2 a7d4 a7f1 10940-10959 10ec5-10ec7 11db0-11ddb 11de0-11de9 16ea0-16eb8 16ebb-16ed3
  16ff2-16ff6 187f8-187ff 18d09-18d1e 18d80-18df2 1e6c0-1e6de 1e6e0-1e6e2 1e6e4-1e6e5 1e6e7-1e6ed 1e6f0-1e6f4 1e6fe-1e6ff
  2b73a-2b73f 2cea2-2cead 323b0-33479`;

const lettersSince15 = `1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240 11380-11389
  1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa
  16100-1611d 16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d
  31350-323af`;

const numbersSince15 = `10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 1d2c0-1d2d3
  1e4f0-1e4f9 1e5f1-1e5fa`;

const ranges = (list: string): string => list.replaceAll(/\s+/g, ' ').split(' ').map(range).join('');
const range = (text: string): string =>
  text
    .split('-')
    .map((code) => `\\u{${code}}`)
    .join('-');

/** The inside of a character class of a regular expression with the v flag. */
export const letter = `[[\\p{L}${ranges(lettersSince15)}]--[${ranges(since17)}]]`;
export const number = `[[\\p{N}${ranges(numbersSince15)}]--[${ranges(since17)}]]`;
