// Tokens in memory that grows. A list of numbers would be thrown away for every text, which takes longer than to fill it.

const firstLength = 2 ** 10;
/** The most tokens whose memory is kept for the next text. */
const mostKept = 2 ** 21;

export class TokenList {
  /** Those from `length` on are none. */
  tokens = new Int32Array(firstLength);
  length = 0;

  /** Makes room for so many more tokens. */
  reserve(count: number): void {
    if (this.length + count <= this.tokens.length) return;
    const larger = new Int32Array(Math.max(2 * this.tokens.length, this.length + count));
    larger.set(this.tokens.subarray(0, this.length));
    this.tokens = larger;
  }

  append(tokens: ArrayLike<number>): void {
    this.reserve(tokens.length);
    this.tokens.set(tokens, this.length);
    this.length += tokens.length;
  }

  /** The tokens from an index on; the same memory, until more are appended. */
  from(index: number): Int32Array<ArrayBuffer> {
    return this.tokens.subarray(index, this.length);
  }

  /** A loop: `Array.from` of a typed array is slower. */
  toArray(): number[] {
    const list: number[] = [];
    for (let i = 0; i < this.length; i++) list.push(this.tokens[i] as number);
    return list;
  }

  clear(): void {
    this.length = 0;
    if (this.tokens.length > mostKept) this.tokens = new Int32Array(firstLength);
  }
}
