// Progress of what comes from the network, all files together, on standard error. Nothing is shown for what is in the
// cache already.
import type { BlobProgress } from '../files/blob/blob.js';
import { counted, showBytes } from '../files/text.js';
import { type Display, progressViewOf } from './progress_view.js';

export interface FetchProgressView {
  readonly onProgress: (progress: BlobProgress) => void;
  stop(): void;
}

interface FetchProgress {
  readonly bytes: number;
  readonly total: number;
  readonly files: number;
}

export function fetchProgressView(stream: NodeJS.WriteStream = process.stderr): FetchProgressView {
  const files = new Map<string, BlobProgress>();
  const view = progressViewOf(display, stream);
  return {
    onProgress(progress) {
      files.set(progress.name, progress);
      let [bytes, total] = [0, 0];
      for (const file of files.values()) {
        bytes += file.bytes;
        total += file.total;
      }
      view.update({ bytes, total, files: files.size });
    },
    stop: () => view.stop(),
  };
}

const display: Display<FetchProgress> = {
  bar: { format: 'fetching {bar} {percentage}%  {shown}' },
  barOf: (progress) => ({
    value: progress.bytes,
    total: Math.max(progress.total, 1),
    texts: { shown: shownBytes(progress) },
  }),
  lineOf: (progress) => `fetching ${shownBytes(progress)}`,
  skipsRepeatedLines: true,
};

const shownBytes = ({ bytes, total, files }: FetchProgress): string =>
  `${showBytes(bytes)} of ${showBytes(total)} in ${counted(files, 'file')}`;
