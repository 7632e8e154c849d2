// From times to verdicts: medians of paired ratios, goals, and the table. No clock and no device here.
import type { Case, Goal, Rival, Work } from './spec.js';

export interface ArmResult {
  /** Seconds of one repetition, round by round. */
  readonly seconds: readonly number[];
  /** Norm of the difference from float64 on a part of the result, as a part of the norm. */
  readonly error?: number;
  /** Why there are no times. */
  readonly failure?: string;
}

export interface CaseResult extends Omit<Case, 'rivals'> {
  readonly ours: ArmResult;
  readonly rivals: readonly (Rival & ArmResult)[];
}

type Verdict = 'reached' | 'missed' | 'wrong' | 'failed' | 'not judged' | '';

export interface Row {
  readonly name: string;
  readonly shape: string;
  readonly ours: string;
  readonly rival: string;
  /** The rival's rate and time. */
  readonly theirs: string;
  readonly ratio: string;
  readonly goal: string;
  readonly errors: string;
  readonly verdict: Verdict;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle] as number;
  return ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2; // NaN of none
}

/** How many times as fast as the rival: per round, each with the one measured right beside it. */
export function speedRatios(
  ours: readonly number[],
  rival: readonly number[],
  work: { ours: number; rival: number } = { ours: 1, rival: 1 },
): number[] {
  const rounds = Math.min(ours.length, rival.length);
  return Array.from(
    { length: rounds },
    (_, i) => ((rival[i] as number) / (ours[i] as number)) * (work.ours / work.rival),
  );
}

/**
 * How many times as fast as the rival in one thing, as a part of that in another: per round, of what was measured side by
 * side.
 */
export function relativeSpeeds(one: readonly number[], other: readonly number[]): number[] {
  return one.slice(0, other.length).map((speed, i) => speed / (other[i] as number));
}

export const reaches = (goal: Goal, speed: number): boolean =>
  'speed' in goal ? speed >= goal.speed : 1 / speed <= goal.time;

const digits = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

export function showTime(seconds: number): string {
  if (seconds >= 1) return `${digits(seconds)} s`;
  return seconds >= 1e-3 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds * 1e6)} us`;
}

export function showRate({ unit, amount }: Work, seconds: number): string {
  const rate = amount / seconds;
  if (unit === 'flop') return `${digits(rate / 1e12)} TFLOP/s`;
  if (unit === 'byte') return `${digits(rate / 1e9)} GB/s`;
  if (unit === 'token') return `${Math.round(rate)} tokens/s`;
  return `${digits((seconds / amount) * 1e6)} us each`;
}

const showArm = (work: Work, { seconds, failure }: ArmResult): string => {
  if (failure !== undefined) return failure;
  if (seconds.length === 0) return 'not measured';
  const middle = median(seconds);
  return `${showRate(work, middle)} (${showTime(middle)})`;
};

const showGoal = (goal: Goal | undefined): string =>
  !goal ? '' : 'speed' in goal ? `>= ${goal.speed} x the speed` : `<= ${goal.time} x the time`;

/** The median, and the least and the most. */
export function showRatios(ratios: readonly number[], unit = ''): string {
  if (ratios.length === 0) return '';
  const spread = ratios.length > 1 ? ` (${digits(Math.min(...ratios))} to ${digits(Math.max(...ratios))})` : '';
  return `${digits(median(ratios))}${unit}${spread}`;
}

const showRatio = (ratios: number[], goal: Goal | undefined): string =>
  goal !== undefined && 'time' in goal
    ? showRatios(
        ratios.map((r) => 1 / r),
        ' x the time',
      )
    : showRatios(ratios);

const showError = (error: number | undefined): string => (error === undefined ? '-' : error.toExponential(1));

/** The verdict on our own result: whether there is one, and whether it is right. NaN is never right. */
function ownVerdict({ ours, bound }: CaseResult): Verdict {
  if (ours.failure !== undefined || ours.seconds.length === 0) return 'failed';
  return bound !== undefined && !((ours.error ?? Number.NaN) <= bound) ? 'wrong' : '';
}

/** A row for each rival (one at least). `judged` false: the shapes are not the ones that the goals are about. */
export function rowsOf(result: CaseResult, judged: boolean): Row[] {
  const { name, shape, work, ours, rivals } = result;
  const own = ownVerdict(result);
  const common = { name, shape, ours: showArm(work, ours), errors: showError(ours.error) };
  if (rivals.length === 0) return [{ ...common, rival: '', theirs: '', ratio: '', goal: '', verdict: own }];
  return rivals.map((rival): Row => {
    const rivalWork = rival.work ?? work;
    const ratios =
      rival.failure === undefined && ours.failure === undefined
        ? speedRatios(ours.seconds, rival.seconds, { ours: work.amount, rival: rivalWork.amount })
        : [];
    let verdict = own;
    if (own === '' && (rival.goal || rival.asExact)) {
      if (!judged || ratios.length === 0) verdict = 'not judged';
      else {
        const fast = !rival.goal || reaches(rival.goal, median(ratios));
        const exact = !rival.asExact || (ours.error ?? Number.NaN) <= (rival.error ?? Number.NaN);
        verdict = fast && exact ? 'reached' : 'missed';
      }
    }
    return {
      ...common,
      rival: rival.label,
      theirs: showArm(rivalWork, rival),
      ratio: showRatio(ratios, rival.goal),
      goal: [showGoal(rival.goal), rival.asExact ? 'error <= theirs' : ''].filter(Boolean).join(', '),
      errors: rival.error === undefined ? common.errors : `${common.errors} / ${showError(rival.error)}`,
      verdict,
    };
  });
}

export interface Counts {
  reached: number;
  missed: number;
  wrong: number;
  failed: number;
  'not judged': number;
}

/** wrong and failed: cases; the others: goals. */
export function count(results: readonly CaseResult[], judged: boolean): Counts {
  const counts: Counts = { reached: 0, missed: 0, wrong: 0, failed: 0, 'not judged': 0 };
  for (const result of results) {
    const own = ownVerdict(result);
    if (own === 'wrong' || own === 'failed') {
      counts[own]++;
      continue;
    }
    for (const { verdict } of rowsOf(result, judged)) {
      if (verdict !== '' && verdict !== 'wrong' && verdict !== 'failed') counts[verdict]++;
    }
  }
  return counts;
}

/** The results in the order of the cases, and not in the order of measuring: so groups stay together. */
export function inOrder<R extends { readonly name: string }>(
  results: readonly R[],
  cases: readonly { readonly name: string }[],
): R[] {
  const byName = new Map(results.map((result) => [result.name, result]));
  return cases.flatMap(({ name }) => byName.get(name) ?? []);
}

/** The results as a table; a heading wherever the group changes. */
export function markdown(
  title: string,
  notes: readonly string[],
  results: readonly CaseResult[],
  judged: boolean,
): string {
  const cell = (text: string) => text.replaceAll('|', '\\|').replace(/\s+/g, ' ');
  const lines = [`# ${title}`, '', ...notes.map((note) => `- ${note}`)];
  let group = '';
  for (const result of results) {
    if (result.group !== group) {
      group = result.group;
      lines.push('', `## ${group}`, '');
      lines.push('| | shape | ours | peer | its figure | ours / peer (rounds) | target | error ours / peer | |');
      lines.push('|---|---|---|---|---|---|---|---|---|');
    }
    for (const row of rowsOf(result, judged)) {
      const { name, shape, ours, rival, theirs, ratio, goal, errors, verdict } = row;
      lines.push(`| ${[name, shape, ours, rival, theirs, ratio, goal, errors, verdict].map(cell).join(' | ')} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}
