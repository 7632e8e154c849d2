// Reads the JSON of a neuron's record. Such files come from anywhere, so they have a parser of their own: it builds
// only what belongs to a record, its memory stays in proportion to the text, and an error names the field. Python's
// json writes NaN, Infinity and -Infinity, which JSON.parse refuses.
import { shown } from '../text.js';

/** A text and a neuron's activations on it. */
export interface ActivationRecord {
  readonly tokens: string[];
  /** One per token; or, for pairs of tokens, n (n + 1) / 2: for each token, those of the keys up to it. */
  readonly activations: number[];
}

export interface NeuronId {
  readonly layerIndex: number;
  readonly neuronIndex: number;
}

export interface NeuronRecord {
  readonly neuronId: NeuronId;
  readonly randomSample: ActivationRecord[];
  /** One sample for each quantile; null where quantiles were not tracked. */
  readonly randomSampleByQuantile: ActivationRecord[][] | null;
  readonly quantileBoundaries: number[] | null;
  /** The mean of all activations; NaN where it is unknown or not a number. Files have null for both. */
  readonly mean: number | null;
  readonly variance: number | null;
  readonly skewness: number | null;
  readonly kurtosis: number | null;
  readonly mostPositiveActivationRecords: ActivationRecord[];
}

/** Elements of all lists of a file: a quarter of a gigabyte of numbers. */
export const mostElements = 2 ** 25;
const deepest = 64; // nesting of values that are skipped
const longestNumber = 400;

const specials: readonly (readonly [literal: string, value: number])[] = [
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['-Infinity', Number.NEGATIVE_INFINITY],
];

/**
 * The record in a text: with today's names of fields or older ones (`idx` and `layer`), with or without
 * `dataclass_name`. Missing fields have their defaults, unknown ones are skipped, and the last one counts of a field
 * that comes twice. Messages begin with `name`.
 * @throws Error that names the field and the position when the text is not such a record.
 */
export function parseNeuronRecord(text: string, name: string): NeuronRecord {
  return new RecordParser(text, name).parse();
}

/** Whether a record of so many tokens may have so many activations: one per token, or one per pair of token and key. */
export const fitsTokens = (tokens: number, activations: number): boolean =>
  activations === tokens || activations === (tokens * (tokens + 1)) / 2;

type Members = Record<string, () => void>;

class RecordParser {
  readonly #text: string;
  readonly #name: string;
  readonly #path: (string | number)[] = [];
  #at = 0;
  #elements = 0;

  constructor(text: string, name: string) {
    this.#text = text;
    this.#name = name;
  }

  parse(): NeuronRecord {
    let neuronId: NeuronId | undefined;
    let randomSample: ActivationRecord[] = [];
    let randomSampleByQuantile: ActivationRecord[][] | null = null;
    let quantileBoundaries: number[] | null = null;
    let mostPositiveActivationRecords: ActivationRecord[] = [];
    const moments = new Map<string, number | null>();
    const moment = (field: string) => moments.set(field, this.#orNull(this.#momentValue));
    const records = () => this.#orNull(this.#records) ?? [];
    this.#object('NeuronRecord', {
      neuron_id: () => (neuronId = this.#neuronId()),
      random_sample: () => (randomSample = records()),
      random_sample_by_quantile: () => (randomSampleByQuantile = this.#orNull(() => this.#list(this.#records))),
      quantile_boundaries: () => (quantileBoundaries = this.#orNull(() => this.#list(this.#number))),
      mean: () => moment('mean'),
      variance: () => moment('variance'),
      skewness: () => moment('skewness'),
      kurtosis: () => moment('kurtosis'),
      most_positive_activation_records: () => (mostPositiveActivationRecords = records()),
    });
    this.#space();
    if (this.#at < this.#text.length) this.#wrong('nothing more');
    const known = (field: string) => moments.get(field) ?? (moments.has(field) ? null : Number.NaN);
    return {
      neuronId: neuronId ?? this.#missing('neuron_id'),
      randomSample,
      randomSampleByQuantile,
      quantileBoundaries,
      mean: known('mean'),
      variance: known('variance'),
      skewness: known('skewness'),
      kurtosis: known('kurtosis'),
      mostPositiveActivationRecords,
    };
  }

  #neuronId(): NeuronId {
    let layerIndex: number | undefined;
    let neuronIndex: number | undefined;
    const layer = () => (layerIndex = this.#index());
    const neuron = () => (neuronIndex = this.#index());
    this.#object('NeuronId', { layer_index: layer, layer, neuron_index: neuron, idx: neuron });
    return {
      layerIndex: layerIndex ?? this.#missing('layer_index'),
      neuronIndex: neuronIndex ?? this.#missing('neuron_index'),
    };
  }

  readonly #records = (): ActivationRecord[] => this.#list(this.#record);

  readonly #record = (): ActivationRecord => {
    let tokens: string[] | undefined;
    let activations: number[] | undefined;
    this.#object('ActivationRecord', {
      tokens: () => (tokens = this.#list(this.#string)),
      activations: () => (activations = this.#list(this.#activation)),
    });
    tokens ??= this.#missing('tokens') as string[];
    activations ??= this.#missing('activations') as number[];
    if (fitsTokens(tokens.length, activations.length)) return { tokens, activations };
    const [n, pairs] = [tokens.length, (tokens.length * (tokens.length + 1)) / 2];
    return this.#fail(
      `${this.#where()}: ${n} tokens take ${n} or ${pairs} activations, but have ${activations.length}`,
    );
  };

  // ---- values

  /** The original's writer writes null for NaN. */
  readonly #activation = (): number => (this.#accept('null') ? Number.NaN : this.#number('a number or null'));

  readonly #momentValue = (): number => this.#number('a number or null');

  #index(): number {
    this.#space();
    const start = this.#at;
    const text = this.#text[start] === '"' ? this.#string().trim() : undefined; // as some older files have it
    const value = text === undefined ? this.#number('a whole number from 0 on') : Number(text);
    const isIndex = Number.isSafeInteger(value) && value >= 0 && (text === undefined || /^\d+$/.test(text));
    if (isIndex) return value;
    this.#at = start;
    return this.#wrong('a whole number from 0 on');
  }

  readonly #number = (expected = 'a number'): number => {
    this.#space();
    const from = this.#at;
    let to = from;
    while (to - from <= longestNumber && '+-.0123456789eE'.includes(this.#text[to] ?? 'end')) to++;
    const digits = this.#text.slice(from, to);
    if (!/^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/.test(digits)) return this.#special(expected);
    if (digits.length > longestNumber) this.#wrong(`a number of at most ${longestNumber} digits`);
    this.#at = to;
    return Number(digits);
  };

  #special(expected: string): number {
    for (const [literal, value] of specials) if (this.#accept(literal)) return value;
    return this.#wrong(expected);
  }

  readonly #string = (): string => {
    this.#space();
    const from = this.#at;
    if (this.#text[from] !== '"') this.#wrong('a text');
    let to = from + 1;
    for (let c = this.#text[to]; c !== '"'; c = this.#text[to]) {
      if (c === undefined) this.#wrong('a text that ends');
      to += c === '\\' ? 2 : 1;
    }
    try {
      const value = JSON.parse(this.#text.slice(from, to + 1)) as string;
      this.#at = to + 1;
      return value;
    } catch {
      return this.#wrong('a text without control characters or unknown escapes');
    }
  };

  #orNull<T>(read: () => T): T | null {
    return this.#accept('null') ? null : read();
  }

  #list<T>(read: () => T): T[] {
    const items: T[] = [];
    this.#expect('[', 'a list');
    if (this.#accept(']')) return items;
    this.#path.push(0);
    do {
      this.#path[this.#path.length - 1] = items.length;
      if (++this.#elements > mostElements) this.#fail(`${this.#where()}: more than ${mostElements} elements in all`);
      items.push(read());
    } while (this.#accept(','));
    this.#path.pop();
    this.#expect(']', 'a comma or ]');
    return items;
  }

  #object(dataclass: string, members: Members): void {
    this.#expect('{', 'an object');
    if (this.#accept('}')) return;
    do {
      const key = this.#string();
      this.#expect(':', 'a colon');
      this.#path.push(key);
      if (key === 'dataclass_name') this.#dataclass(dataclass);
      else if (Object.hasOwn(members, key)) members[key]?.();
      else this.#skip(0);
      this.#path.pop();
    } while (this.#accept(','));
    this.#expect('}', 'a comma or }');
  }

  #dataclass(expected: string): void {
    const name = this.#string();
    if (name !== expected) this.#fail(`${this.#where()} must be ${expected}, but is ${shown(name)}`);
  }

  #skip(depth: number): void {
    if (depth > deepest) this.#fail(`${this.#where()}: is nested more than ${deepest} deep`);
    this.#space();
    const first = this.#text[this.#at];
    if (first === '"') this.#string();
    else if (first === '{') this.#skipMembers('}', depth);
    else if (first === '[') this.#skipMembers(']', depth);
    else if (!['null', 'true', 'false'].some((literal) => this.#accept(literal))) this.#number('a value');
  }

  #skipMembers(end: ']' | '}', depth: number): void {
    this.#at++;
    if (this.#accept(end)) return;
    do {
      if (end === '}') {
        this.#string();
        this.#expect(':', 'a colon');
      }
      this.#skip(depth + 1);
    } while (this.#accept(','));
    this.#expect(end, `a comma or ${end}`);
  }

  // ---- the text

  #expect(mark: string, expected: string): void {
    if (!this.#accept(mark)) this.#wrong(expected);
  }

  #accept(literal: string): boolean {
    this.#space();
    if (!this.#text.startsWith(literal, this.#at)) return false;
    this.#at += literal.length;
    return true;
  }

  #space(): void {
    while (' \n\r\t'.includes(this.#text[this.#at] ?? 'end')) this.#at++;
  }

  // ---- errors

  #where(): string {
    if (this.#path.length === 0) return 'the record';
    const parts = this.#path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${shown(part)}`));
    return parts.join('').replace(/^\./, '');
  }

  #missing(field: string): never {
    return this.#fail(`${this.#where()}: ${field} is missing`);
  }

  #wrong(expected: string): never {
    const there = this.#text.slice(this.#at, this.#at + 20);
    const found = there === '' ? 'the text ends' : `there is ${shown(there)}`;
    return this.#fail(`${this.#where()}: expected ${expected} at character ${this.#at}, but ${found}`);
  }

  #fail(message: string): never {
    throw new Error(`${this.#name}: ${message}`);
  }
}
