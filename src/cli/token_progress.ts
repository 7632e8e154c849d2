// Progress of what reads or stores tokens, on standard error: dumps, and what collates or reports on them.
import type { CollateProgress } from '../dump/report/scan_progress.js';
import type { DumpProgress } from '../dump/shards/progress.js';
import { counted, withCommas } from '../files/text.js';
import { type Display, type ProgressView, progressViewOf } from './progress_view.js';

type TokenProgress = DumpProgress | CollateProgress;

export const tokenProgressView = (stream: NodeJS.WriteStream = process.stderr): ProgressView<TokenProgress> =>
  progressViewOf(display, stream);

const display: Display<TokenProgress> = {
  bar: {
    format: '{bar} {percentage}%  {value} of {total} tokens  {speed} tokens/s  {left}',
    formatValue: (value, _options, type) => (type === 'value' || type === 'total' ? withCommas(value) : String(value)),
  },
  barOf(progress) {
    const { tokens, totalTokens, tokensPerSecond } = progress;
    const texts = { speed: withCommas(tokensPerSecond), left: timeLeft(progress) || recordsOf(progress) };
    return { value: tokens, total: totalTokens ?? tokens, texts };
  },
  lineOf(progress) {
    const { tokens, totalTokens, tokensPerSecond } = progress;
    const parts = [
      `${withCommas(tokens)}${totalTokens === undefined ? '' : ` of ${withCommas(totalTokens)}`} tokens`,
      `${withCommas(tokensPerSecond)} tokens/s`,
      filesOf(progress),
      timeLeft(progress),
    ];
    return parts.filter(Boolean).join(', ');
  },
  skipsRepeatedLines: false,
};

const filesOf = (progress: TokenProgress): string =>
  'shards' in progress ? counted(progress.shards, 'shard') : recordsOf(progress);

const recordsOf = (progress: TokenProgress): string =>
  'records' in progress ? `${withCommas(progress.records)} of ${withCommas(progress.totalRecords)} records` : '';

/** `1 h 05 min left`. Longer times are rounded more, as they are estimates. */
function timeLeft({ secondsLeft }: TokenProgress): string {
  if (secondsLeft === undefined) return '';
  const seconds = Math.ceil(secondsLeft);
  if (seconds < 100) return `${seconds} s left`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min left`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min left`;
}
