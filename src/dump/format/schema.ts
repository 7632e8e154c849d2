// Readers for untrusted plain data, such as a manifest or a job of a queue. A reader makes a copy that holds the known
// fields, checked, and nothing else. The first invalid value is an error that names its field.
import { quoted } from '../../files/text.js';

/** The treatment of unknown fields: they are an error, or are left out of the copy. */
export type UnknownFields = 'refused' | 'dropped';

/** Returns a checked copy. @throws FieldError for an invalid value. */
export type Read<T> = (value: unknown, unknownFields: UnknownFields) => T;

/** What is wrong with a field: `request.corpus[2].path must be …, but is …`. */
export class FieldError extends Error {
  /** `request.corpus[2].path`; empty for the whole value. */
  readonly field: string;
  /** `must be …, but is …` */
  readonly problem: string;

  constructor(field: string, problem: string) {
    super(`${field === '' ? 'it' : field} ${problem}`);
    this.field = field;
    this.problem = problem;
  }

  /** The same error, with the field's path starting at its parent. */
  static within(parent: string, error: unknown): unknown {
    if (!(error instanceof FieldError)) return error;
    const joint = error.field === '' || error.field.startsWith('[') ? '' : '.';
    return new FieldError(`${parent}${joint}${error.field}`, error.problem);
  }
}

const wrong = (expected: string, value: unknown): FieldError =>
  new FieldError(
    '',
    value === undefined ? `is missing; it must be ${expected}` : `must be ${expected}, but is ${quoted(value)}`,
  );

/** Whether a value is an object with named fields. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A value that passes a test. `expected` describes it in errors. */
export const checked =
  <T>(expected: string, test: (value: unknown) => boolean): Read<T> =>
  (value) => {
    if (test(value)) return value as T;
    throw wrong(expected, value);
  };

export const flag: Read<boolean> = checked('true or false', (value) => typeof value === 'boolean');

export const string: Read<string> = checked('a string', (value) => typeof value === 'string');

// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern looks for control characters
const control = /[\u0000-\u001f\u007f-\u009f]/;

/** A string on one line without control characters, so that a terminal shows it as it is. */
export const line = (most: number): Read<string> =>
  checked(
    `a string of 1 to ${most} characters, none of them a control character`,
    (value) => typeof value === 'string' && value !== '' && value.length <= most && !control.test(value),
  );

export const integer = (low: number, high = Number.MAX_SAFE_INTEGER): Read<number> =>
  checked(
    high === Number.MAX_SAFE_INTEGER ? `an integer of ${low} or more` : `an integer from ${low} to ${high}`,
    (value) => Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high,
  );

export const numberFrom0: Read<number> = checked(
  'a number of 0 or more',
  (value) => Number.isFinite(value) && (value as number) >= 0,
);

/** A part of a whole, such as the positions that a sample takes. */
export const fraction: Read<number> = checked(
  'a number above 0 and up to 1',
  (value) => typeof value === 'number' && value > 0 && value <= 1,
);

export const oneOf = <T extends string>(...allowed: readonly T[]): Read<T> =>
  checked(allowed.length === 1 ? JSON.stringify(allowed[0]) : `one of ${allowed.join(', ')}`, (value) =>
    (allowed as readonly unknown[]).includes(value),
  );

export const optional =
  <T>(read: Read<T>): Read<T | undefined> =>
  (value, unknownFields) =>
    value === undefined ? undefined : read(value, unknownFields);

export const orNull =
  <T>(read: Read<T>): Read<T | null> =>
  (value, unknownFields) =>
    value === null ? null : read(value, unknownFields);

export const listOf =
  <T>(read: Read<T>, { least = 0, most = Number.POSITIVE_INFINITY } = {}): Read<T[]> =>
  (value, unknownFields) => {
    if (!Array.isArray(value)) throw wrong('a list', value);
    if (value.length < least || value.length > most) {
      throw new FieldError('', `must have ${least} to ${most} entries, but has ${value.length}`);
    }
    let at = 0;
    try {
      const copy: T[] = [];
      for (; at < value.length; at++) copy.push(read(value[at], unknownFields));
      return copy;
    } catch (error) {
      throw FieldError.within(`[${at}]`, error);
    }
  };

export type Readers<T> = { readonly [K in keyof T]-?: object extends Pick<T, K> ? Read<T[K] | undefined> : Read<T[K]> };

/** An object with a reader for each of its fields. The copy has them in the order of the value. */
export const object =
  <T extends object>(readers: Readers<T>): Read<T> =>
  (value, unknownFields) => {
    if (!isObject(value)) throw wrong('an object', value);
    const copy: Record<string, unknown> = {};
    const read = readers as Record<string, Read<unknown>>;
    let at = '';
    try {
      for (at of Object.keys(value)) {
        if (Object.hasOwn(read, at)) copy[at] = (read[at] as Read<unknown>)(value[at], unknownFields);
        else if (unknownFields === 'refused') {
          throw new FieldError('', `is unknown; there are ${Object.keys(readers).join(', ')}`);
        }
      }
      for (at of Object.keys(read))
        if (!Object.hasOwn(value, at)) (read[at] as Read<unknown>)(undefined, unknownFields);
      return copy as T;
    } catch (error) {
      throw FieldError.within(shownName(at), error);
    }
  };

/** An object with arbitrary field names. */
export const record =
  <T>(name: Read<string>, read: Read<T>, most: number): Read<Record<string, T>> =>
  (value, unknownFields) => {
    if (!isObject(value)) throw wrong('an object', value);
    const entries = Object.entries(value);
    if (entries.length > most) throw new FieldError('', `must have ${most} entries at most, but has ${entries.length}`);
    return Object.fromEntries(
      entries.map(([key, entry]) => {
        try {
          return [name(key, unknownFields), read(entry, unknownFields)] as const;
        } catch (error) {
          throw FieldError.within(shownName(key), error);
        }
      }),
    );
  };

const shownName = (name: string): string => (/^\w{1,60}$/.test(name) ? name : `[${quoted(name)}]`);
