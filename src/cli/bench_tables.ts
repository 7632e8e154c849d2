// The tables of sonde bench: the cases with their floors, and the profile of a pass by layer and by operation.
import type { Ceilings, ProfileEntry } from '../engine/device.js';
import { floorOf } from '../engine/work.js';
import { aligned } from './terminal.js';

/** One thing that is timed: the tokens that go in or come out, and the seconds of each round. */
export interface BenchCase {
  readonly name: string;
  readonly tokens: number;
  readonly seconds: readonly number[];
  /** Seconds that its operations take at the ceilings; undefined where these are not known. */
  readonly floor: number | undefined;
  readonly entries: readonly ProfileEntry[];
}

const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 1] as number;
const milliseconds = (seconds: number): string => (seconds * 1e3).toFixed(seconds < 0.1 ? 2 : 0);
const percent = (part: number): string => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;

export function caseTable(cases: readonly BenchCase[]): string[] {
  const rows = cases.map(({ name, tokens, seconds, floor }) => {
    const rate = (s: number) => (tokens / s).toFixed(tokens / s < 100 ? 1 : 0);
    const spread = `${rate(Math.max(...seconds))} to ${rate(Math.min(...seconds))}`;
    return [name, rate(median(seconds)), spread, floor === undefined ? '-' : percent(floor / median(seconds))];
  });
  return aligned([['', 'tokens/s', 'slowest to fastest', 'of the floor'], ...rows]);
}

/** An operation's kind. The shape is part of a product's kind, as a model has products of several shapes. */
function kindOf({ operation, arguments: all }: ProfileEntry): string {
  const w = all.find(({ name }) => name === 'w');
  return operation === 'linear' && w ? `linear ${w.shape.join(' x ')}` : operation;
}

interface Sum {
  seconds: number;
  floor: number | undefined;
  count: number;
}

function sumBy(
  entries: readonly ProfileEntry[],
  ceilings: Ceilings,
  keyOf: (entry: ProfileEntry) => string,
): Map<string, Sum> {
  const sums = new Map<string, Sum>();
  for (const entry of entries) {
    const key = keyOf(entry);
    const sum = sums.get(key) ?? { seconds: 0, floor: 0, count: 0 };
    const floor = floorOf(entry, ceilings);
    sum.seconds += entry.seconds;
    sum.floor = sum.floor === undefined || floor === undefined ? undefined : sum.floor + floor;
    sum.count++;
    sums.set(key, sum);
  }
  return sums;
}

const rowOf = (name: string, { seconds, floor, count }: Sum, wall: number): string[] => [
  name,
  String(count),
  milliseconds(seconds),
  percent(seconds / wall),
  floor === undefined ? '-' : milliseconds(floor),
  floor === undefined || floor === 0 ? '-' : percent(floor / seconds),
];

/** What the filters of sparseEncode left to compute: a row for each call that had one, and nothing where none had. */
export function filterTable({ name, entries }: BenchCase): string[] {
  const rows = entries.flatMap(({ operation, arguments: all, filter }) => {
    const [x, w] = ['x', 'w'].map((wanted) => all.find((argument) => argument.name === wanted)?.shape);
    if (!filter || !x || !w) return [];
    const [count = 0, k = 0] = x;
    const perRow = (filter.candidates / count).toFixed(1);
    return [[`${operation} ${count} x ${k} -> ${w[1]}`, perRow, `${filter.fellBack} of ${filter.groups}`]];
  });
  if (rows.length === 0) return [];
  return ['', name, ...aligned([['filter of', 'candidates per row', 'groups that fell back'], ...rows])];
}

/** Where the time of a profiled pass went: by section, then by kind of operation, the longest first. */
export function profileTable({ name, entries }: BenchCase, ceilings: Ceilings): string[] {
  const [first, last] = [entries[0], entries.at(-1)];
  if (!first || !last) return [];
  const wall = last.begin + last.seconds - first.begin;
  const busy = entries.reduce((sum, { seconds }) => sum + seconds, 0);
  const head = (what: string) => [what, 'operations', 'ms', 'of the time', 'floor, ms', 'of the floor'];
  const sections = [...sumBy(entries, ceilings, ({ section }) => section || 'around')];
  const kinds = [...sumBy(entries, ceilings, kindOf)].sort(([, a], [, b]) => b.seconds - a.seconds);
  const waiting = ['waiting', '', milliseconds(Math.max(0, wall - busy)), percent(Math.max(0, 1 - busy / wall))];
  return [
    '',
    `${name}: ${milliseconds(wall)} ms, every operation timed`,
    ...aligned([head('section'), ...sections.map(([key, sum]) => rowOf(key, sum, wall)), waiting]),
    '',
    ...aligned([head('operation'), ...kinds.map(([key, sum]) => rowOf(key, sum, wall)), waiting]),
  ];
}
