// The tokens of pre-tokens seen before, found without making a string: a hash table with open addressing over flat
// arrays. Text repeats itself (in a corpus of millions of tokens, some ten thousand pre-tokens make 98%), so a
// tokenizer spends its time here.
import { apostrophe, pretokenEnd, space, unitKinds } from './pretokenizer.js';
import type { TokenList } from './token_list.js';

const mostPretokens = 2 ** 17;
const mostUnits = 2 ** 20; // of all pre-tokens together
/** The most UTF-16 units of a pre-token; longer ones are rare and not kept. */
export const longestCached = 64;
const tokensOfUnit = 3; // at most: a unit has three bytes at most, and each may be a token
/** The most tokens of a pre-token that is kept. */
export const mostTokens = tokensOfUnit * longestCached;

const slots = 4 * mostPretokens;

const seed = (Math.random() * 2 ** 32) | 0; // random, so that no text can be written whose pre-tokens collide

const factor = 0x9e3779b1;

const hashOf = (units: Uint16Array, from: number, to: number): number => {
  let hash = seed;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ (units[at] as number), factor);
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
  readonly #tokens = new Uint16Array(tokensOfUnit * mostUnits);
  #count = 1;

  /**
   * Appends the tokens of the pre-tokens from `from` on, as long as they are known and `list` has room for `mostTokens`.
   * Returns the index at which the first one begins that it has not appended, or `to`. It calls no other function for
   * usual words, as engines put them in line in one thread and not in another, and reads each unit once.
   */
  appendKnown(units: Uint16Array, from: number, to: number, list: TokenList): number {
    const [allSlots, hashes, unitEnds, tokenEnds] = [this.#slots, this.#hashes, this.#unitEnds, this.#tokenEnds];
    const [knownUnits, knownTokens] = [this.#units, this.#tokens];
    const { tokens } = list;
    const lastStart = tokens.length - mostTokens;
    let [begin, count] = [from, list.length];
    search: while (begin < to && count <= lastStart) {
      // As `pretokenEnd` and `hashOf` have it, for characters of one kind behind a space or none.
      const first = units[begin] as number;
      let [end, hash] = [begin, seed];
      if (first === 0x20 && begin + 1 < to) {
        end++;
        hash = Math.imul(hash ^ first, factor);
      }
      const kind = unitKinds[units[end] as number] as number;
      let next = kind;
      while (next === kind && kind > space) {
        hash = Math.imul(hash ^ (units[end] as number), factor);
        end++;
        if (end === to) break;
        next = unitKinds[units[end] as number] as number;
      }
      hash ^= hash >>> 15;
      if (kind <= space || next === 0 || first === apostrophe) {
        end = pretokenEnd(units, begin, to);
        hash = hashOf(units, begin, end);
      }
      if (end - begin > longestCached) break;
      let pretoken = 0;
      for (let slot = hash & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
        pretoken = allSlots[slot] as number;
        if (pretoken === 0) break search;
        if (hashes[pretoken] !== hash) continue;
        let unit = unitEnds[pretoken - 1] as number;
        if ((unitEnds[pretoken] as number) - unit !== end - begin) continue;
        let at = begin;
        while (at < end && knownUnits[unit] === units[at]) {
          unit++;
          at++;
        }
        if (at === end) break;
      }
      const last = tokenEnds[pretoken] as number;
      for (let token = tokenEnds[pretoken - 1] as number; token < last; token++) {
        tokens[count++] = knownTokens[token] as number;
      }
      begin = end;
    }
    list.length = count;
    return begin;
  }

  /** Keeps the tokens of a pre-token that is not known. Forgets all others when it is full. */
  add(units: Uint16Array, from: number, to: number, tokens: Int32Array): void {
    if (this.#count === mostPretokens || (this.#unitEnds[this.#count - 1] as number) + longestCached > mostUnits) {
      this.#slots.fill(0);
      this.#count = 1;
    }
    const pretoken = this.#count++;
    let unit = this.#unitEnds[pretoken - 1] as number;
    for (let at = from; at < to; at++) this.#units[unit++] = units[at] as number;
    const token = this.#tokenEnds[pretoken - 1] as number;
    this.#tokens.set(tokens, token);
    this.#unitEnds[pretoken] = unit;
    this.#tokenEnds[pretoken] = token + tokens.length;
    const hash = hashOf(units, from, to);
    this.#hashes[pretoken] = hash;
    let slot = hash & (slots - 1);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & (slots - 1);
    this.#slots[slot] = pretoken;
  }
}
