// The tokens of words seen before, found without making a string: a hash table with open addressing over flat arrays.
// Text repeats itself (of a corpus of millions of tokens, some ten thousand words make 98%), so this is where a
// tokenizer's time goes.

const mostWords = 2 ** 17;
const mostUnits = 2 ** 20; // of all words together; their tokens are no more
/** UTF-16 units of a word at most; longer ones are rare and not kept. */
export const longestCached = 64;

const slots = 4 * mostWords;

const seed = (Math.random() * 2 ** 32) | 0; // so that nobody can write words that meet in one slot

const hashOf = (units: Uint16Array, from: number, to: number): number => {
  let hash = seed;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ (units[at] as number), 0x9e3779b1);
  return hash ^ (hash >>> 15);
};

export class WordCache {
  /** Of each slot the number of a word; 0: free. */
  readonly #slots = new Int32Array(slots);
  readonly #hashes = new Int32Array(mostWords);
  /** Word w has the units from unitEnds[w - 1] to unitEnds[w], and its tokens likewise. */
  readonly #unitEnds = new Int32Array(mostWords);
  readonly #tokenEnds = new Int32Array(mostWords);
  readonly #units = new Uint16Array(mostUnits);
  readonly #tokens = new Uint16Array(3 * mostUnits); // a unit has three bytes at most
  #words = 1;

  /** Appends the tokens of a word and says true, if it is known. */
  find(units: Uint16Array, from: number, to: number, tokens: number[]): boolean {
    const hash = hashOf(units, from, to);
    for (let slot = hash & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
      const word = this.#slots[slot] as number;
      if (word === 0) return false;
      if (this.#hashes[word] !== hash || !this.#is(word, units, from, to)) continue;
      const end = this.#tokenEnds[word] as number;
      for (let at = this.#tokenEnds[word - 1] as number; at < end; at++) tokens.push(this.#tokens[at] as number);
      return true;
    }
  }

  #is(word: number, units: Uint16Array, from: number, to: number): boolean {
    let at = this.#unitEnds[word - 1] as number;
    if ((this.#unitEnds[word] as number) - at !== to - from) return false;
    for (; from < to; from++, at++) if (this.#units[at] !== units[from]) return false;
    return true;
  }

  /** Keeps a word that is not known, whose tokens are those from `first` on. Forgets all others when it is full. */
  add(units: Uint16Array, from: number, to: number, tokens: readonly number[], first: number): void {
    if (this.#words === mostWords || (this.#unitEnds[this.#words - 1] as number) + longestCached > mostUnits) {
      this.#slots.fill(0);
      this.#words = 1;
    }
    const word = this.#words++;
    let unit = this.#unitEnds[word - 1] as number;
    for (let at = from; at < to; at++) this.#units[unit++] = units[at] as number;
    let token = this.#tokenEnds[word - 1] as number;
    for (let at = first; at < tokens.length; at++) this.#tokens[token++] = tokens[at] as number;
    this.#unitEnds[word] = unit;
    this.#tokenEnds[word] = token;
    const hash = hashOf(units, from, to);
    this.#hashes[word] = hash;
    let slot = hash & (slots - 1);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & (slots - 1);
    this.#slots[slot] = word;
  }
}
