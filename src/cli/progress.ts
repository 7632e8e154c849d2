// Progress on standard error: a bar on a terminal, a line every few seconds elsewhere, as in a log.
import cliProgress from 'cli-progress';
import type { CollateProgress } from '../dump/report/scan_progress.js';
import type { DumpProgress } from '../dump/shards/progress.js';

type Progress = DumpProgress | CollateProgress;

export interface ProgressView {
  update(progress: Progress): void;
  /** Shows how far it came, and leaves the line. */
  stop(): void;
}

const secondsBetweenLines = 5;
const counted = (n: number): string => Math.round(n).toLocaleString('en-US');

export const progressView = (stream: NodeJS.WriteStream = process.stderr): ProgressView =>
  stream.isTTY ? bar(stream) : lines(stream);

function bar(stream: NodeJS.WriteStream): ProgressView {
  const single = new cliProgress.SingleBar({
    stream,
    format: '{bar} {percentage}%  {value} of {total} tokens  {speed} tokens/s  {left}',
    formatValue: (value, _options, type) => (type === 'value' || type === 'total' ? counted(value) : String(value)),
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
  });
  let started = false;
  return {
    update(progress) {
      const { tokens, totalTokens } = progress;
      const payload = { speed: counted(progress.tokensPerSecond), left: timeLeft(progress) || recordsOf(progress) };
      if (!started) single.start(totalTokens ?? tokens, tokens, payload);
      started = true;
      single.setTotal(totalTokens ?? tokens);
      single.update(tokens, payload);
    },
    stop() {
      if (started) single.stop();
    },
  };
}

function lines(stream: NodeJS.WriteStream): ProgressView {
  let last: Progress | undefined;
  let shown: Progress | undefined;
  let shownAt = Number.NEGATIVE_INFINITY;
  const show = (progress: Progress) => {
    stream.write(`${line(progress)}\n`);
    shown = progress;
    shownAt = performance.now();
  };
  return {
    update(progress) {
      last = progress;
      if (performance.now() - shownAt >= secondsBetweenLines * 1000) show(progress);
    },
    stop() {
      if (last && last !== shown) show(last);
    },
  };
}

function line(progress: Progress): string {
  const { tokens, totalTokens, tokensPerSecond } = progress;
  const parts = [
    `${counted(tokens)}${totalTokens === undefined ? '' : ` of ${counted(totalTokens)}`} tokens`,
    `${counted(tokensPerSecond)} tokens/s`,
    filesOf(progress),
    timeLeft(progress),
  ];
  return parts.filter(Boolean).join(', ');
}

const filesOf = (progress: Progress): string =>
  'shards' in progress ? `${progress.shards} ${progress.shards === 1 ? 'shard' : 'shards'}` : recordsOf(progress);

const recordsOf = (progress: Progress): string =>
  'records' in progress ? `${counted(progress.records)} of ${counted(progress.totalRecords)} records` : '';

/** `1 h 05 min left`, as rough as such numbers are. */
function timeLeft({ secondsLeft }: Progress): string {
  if (secondsLeft === undefined) return '';
  const seconds = Math.ceil(secondsLeft);
  if (seconds < 100) return `${seconds} s left`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min left`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min left`;
}
