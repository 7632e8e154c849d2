// What sonde sample prints: each prompt with its text as it comes, or a line of JSON for each at the end.
import { withEscapes } from '../files/text.js';
import type { SampledToken } from '../transformer/sample_run.js';
import { visible, write } from './terminal.js';

/** A prompt and what has been added to it so far. */
interface Continued {
  readonly prompt: string;
  text: string;
  readonly tokens: number[];
  finishReason: 'length' | 'stop' | 'interrupted';
}

export interface SampleView {
  onToken(token: SampledToken): Promise<void>;
  /** All tokens are there, or an interruption leaves it at those that are. */
  end(): void;
  /** An error leaves it at what has been printed. */
  fail(): void;
}

interface ViewOptions {
  readonly numTokens: number;
  readonly stopTokens: readonly number[];
  readonly json: boolean;
  /** Ends the wait for a slow reader. */
  readonly signal: AbortSignal;
}

export function sampleView(prompts: readonly string[], options: ViewOptions): SampleView {
  const { numTokens, stopTokens, json, signal } = options;
  const rows = prompts.map((prompt): Continued => {
    return { prompt, text: '', tokens: [], finishReason: numTokens === 0 ? 'length' : 'interrupted' };
  });
  const lines = new Lines(rows);
  return {
    async onToken({ row, step, token, text }) {
      const continued = rows[row] as Continued;
      continued.text += text;
      continued.tokens.push(token);
      if (stopTokens.includes(token)) continued.finishReason = 'stop';
      else if (step === numTokens - 1) continued.finishReason = 'length';
      if (!json) await write(lines.news(), signal);
    },
    end() {
      process.stdout.write(json ? rows.map(jsonLine).join('') : lines.rest());
    },
    fail() {
      if (lines.begun) process.stdout.write('\n');
    },
  };
}

/** Control characters that JSON.stringify leaves are escaped too: the line may go to a terminal. */
const jsonLine = ({ prompt, text, tokens, finishReason }: Continued): string =>
  `${withEscapes(JSON.stringify({ prompt, text, tokens, finishReason }))}\n`;

/** The prompts with their texts, in order: each is printed as far as it is, and the next one when it has ended. */
class Lines {
  readonly #rows: readonly Continued[];
  #current = 0;
  /** Characters of the current line that have been given. */
  #given = 0;

  constructor(rows: readonly Continued[]) {
    this.#rows = rows;
  }

  /** Whether a line has been given in part. */
  get begun(): boolean {
    return this.#given > 0;
  }

  /** What can be printed and has not been given yet. */
  news(): string {
    let news = '';
    for (let row = this.#rows[this.#current]; row; row = this.#rows[this.#current]) {
      const line = `${row.prompt}${visible(row.text)}`;
      news += line.slice(this.#given);
      this.#given = line.length;
      if (row.finishReason === 'interrupted') break; // it goes on
      news += this.#next();
    }
    return news;
  }

  /** The rest of all lines as they are. */
  rest(): string {
    let rest = '';
    while (this.#current < this.#rows.length) {
      rest += this.news();
      if (this.#current < this.#rows.length) rest += this.#next();
    }
    return rest;
  }

  #next(): string {
    this.#current++;
    this.#given = 0;
    return '\n';
  }
}
