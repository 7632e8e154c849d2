// The tokens of words seen before, found without making a string: a hash table with open addressing over flat arrays.
// Text repeats itself (of a corpus of millions of tokens, some ten thousand words make 98%), so this is where a
// tokenizer's time goes.

const mostPretokens = 2 ** 17;
const mostUnits = 2 ** 20; // of all words together; their tokens are no more
/** UTF-16 units of a word at most; longer ones are rare and not kept. */
export const longestCached = 64;

const slots = 4 * mostPretokens;

const seed = (Math.random() * 2 ** 32) | 0; // so that nobody can write words that meet in one slot

const hashOf = (units: Uint16Array, from: number, to: number): number => {
  let hash = seed;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ (units[at] as number), 0x9e3779b1);
  return hash ^ (hash >>> 15);
};

export class PretokenCache {
  /** Of each slot the number of a word; 0: free. */
  readonly #slots = new Int32Array(slots);
  readonly #hashes = new Int32Array(mostPretokens);
  /** Word w has the units from unitEnds[w - 1] to unitEnds[w], and its tokens likewise. */
  readonly #unitEnds = new Int32Array(mostPretokens);
  readonly #tokenEnds = new Int32Array(mostPretokens);
  readonly #units = new Uint16Array(mostUnits);
  readonly #tokens = new Uint16Array(3 * mostUnits); // a unit has three bytes at most
  #count = 1;

  /** Appends the tokens of a word and says true, if it is known. */
  find(units: Uint16Array, from: number, to: number, tokens: number[]): boolean {
    const hash = hashOf(units, from, to);
    for (let slot = hash & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
      const pretoken = this.#slots[slot] as number;
      if (pretoken === 0) return false;
      if (this.#hashes[pretoken] !== hash || !this.#equals(pretoken, units, from, to)) continue;
      const end = this.#tokenEnds[pretoken] as number;
      for (let at = this.#tokenEnds[pretoken - 1] as number; at < end; at++) tokens.push(this.#tokens[at] as number);
      return true;
    }
  }

  #equals(pretoken: number, units: Uint16Array, from: number, to: number): boolean {
    let at = this.#unitEnds[pretoken - 1] as number;
    if ((this.#unitEnds[pretoken] as number) - at !== to - from) return false;
    for (; from < to; from++, at++) if (this.#units[at] !== units[from]) return false;
    return true;
  }

  /** Keeps a word that is not known, whose tokens are those from `first` on. Forgets all others when it is full. */
  add(units: Uint16Array, from: number, to: number, tokens: readonly number[], first: number): void {
    if (this.#count === mostPretokens || (this.#unitEnds[this.#count - 1] as number) + longestCached > mostUnits) {
      this.#slots.fill(0);
      this.#count = 1;
    }
    const pretoken = this.#count++;
    let unit = this.#unitEnds[pretoken - 1] as number;
    for (let at = from; at < to; at++) this.#units[unit++] = units[at] as number;
    let token = this.#tokenEnds[pretoken - 1] as number;
    for (let at = first; at < tokens.length; at++) this.#tokens[token++] = tokens[at] as number;
    this.#unitEnds[pretoken] = unit;
    this.#tokenEnds[pretoken] = token;
    const hash = hashOf(units, from, to);
    this.#hashes[pretoken] = hash;
    let slot = hash & (slots - 1);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & (slots - 1);
    this.#slots[slot] = pretoken;
  }
}
