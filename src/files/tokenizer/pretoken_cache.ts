// The tokens of pre-tokens seen before, found without making a string: a hash table with open addressing over flat
// arrays. Text repeats itself (in a corpus of millions of tokens, some ten thousand pre-tokens make 98%), so a
// tokenizer spends its time here.

const mostPretokens = 2 ** 17;
const mostUnits = 2 ** 20; // of all pre-tokens together
/** The most UTF-16 units of a pre-token; longer ones are rare and not kept. */
export const longestCached = 64;

const slots = 4 * mostPretokens;

const seed = (Math.random() * 2 ** 32) | 0; // random, so that no text can be written whose pre-tokens collide

const hashOf = (units: Uint16Array, from: number, to: number): number => {
  let hash = seed;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ (units[at] as number), 0x9e3779b1);
  return hash ^ (hash >>> 15);
};

export class PretokenCache {
  /** The number of the pre-token in each slot; 0 for a free one. */
  readonly #slots = new Int32Array(slots);
  readonly #hashes = new Int32Array(mostPretokens);
  /** Pre-token p has the units from unitEnds[p - 1] to unitEnds[p], and its tokens likewise. */
  readonly #unitEnds = new Int32Array(mostPretokens);
  readonly #tokenEnds = new Int32Array(mostPretokens);
  readonly #units = new Uint16Array(mostUnits);
  readonly #tokens = new Uint16Array(3 * mostUnits); // a unit has three bytes at most, and each may be a token
  #count = 1;

  /** Appends the tokens of a pre-token and returns true, if it is known. */
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

  /**
   * Keeps a pre-token that is not known, whose tokens are those from `first` on. Forgets all others when it is full.
   */
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
