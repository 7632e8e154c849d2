// The text of tokens that come one at a time.
import type { Tokenizer } from './tokenizer.js';

/** Gives the text of tokens as they come. The texts joined are what decode() gives for all of the tokens. */
export class TextStream {
  readonly #enc: Tokenizer;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true }); // as the tokenizer's

  constructor(enc: Tokenizer) {
    this.#enc = enc;
  }

  /**
   * The text that a token completes. Bytes of an unfinished character wait for the next token; with the last token they
   * become U+FFFD.
   */
  next(token: number, { last }: { last: boolean }): string {
    return this.#decoder.decode(this.#enc.decodeBytes([token]), { stream: !last });
  }
}
