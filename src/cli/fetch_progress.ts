// Progress of what comes from the network, all files together, on standard error: a bar on a terminal, a line every few
// seconds elsewhere. Nothing is shown for what is in the cache already.

import cliProgress from 'cli-progress';
import type { BlobProgress } from '../files/blob/blob.js';
import { showBytes } from '../files/text.js';

export interface FetchView {
  readonly onProgress: (progress: BlobProgress) => void;
  stop(): void;
}

const secondsBetweenLines = 5;

export function fetchView(stream: NodeJS.WriteStream = process.stderr): FetchView {
  const files = new Map<string, BlobProgress>();
  const show = stream.isTTY ? bar(stream) : lines(stream);
  return {
    onProgress(progress) {
      files.set(progress.name, progress);
      let [bytes, total] = [0, 0];
      for (const file of files.values()) {
        bytes += file.bytes;
        total += file.total;
      }
      show.update(bytes, total, files.size);
    },
    stop: () => show.stop(),
  };
}

interface Shown {
  update(bytes: number, total: number, files: number): void;
  stop(): void;
}

const counted = (files: number): string => (files === 1 ? '1 file' : `${files} files`);

function bar(stream: NodeJS.WriteStream): Shown {
  const single = new cliProgress.SingleBar({
    stream,
    format: 'fetching {bar} {percentage}%  {shown}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
  });
  let started = false;
  return {
    update(bytes, total, files) {
      const payload = { shown: `${showBytes(bytes)} of ${showBytes(total)} in ${counted(files)}` };
      if (!started) single.start(Math.max(total, 1), bytes, payload);
      started = true;
      single.setTotal(Math.max(total, 1));
      single.update(bytes, payload);
    },
    stop() {
      if (started) single.stop();
    },
  };
}

function lines(stream: NodeJS.WriteStream): Shown {
  let last = '';
  let written = '';
  let writtenAt = Number.NEGATIVE_INFINITY;
  const write = () => {
    if (last === written) return;
    stream.write(`${last}\n`);
    written = last;
    writtenAt = performance.now();
  };
  return {
    update(bytes, total, files) {
      last = `fetching ${showBytes(bytes)} of ${showBytes(total)} in ${counted(files)}`;
      if (performance.now() - writtenAt >= secondsBetweenLines * 1000) write();
    },
    stop: write,
  };
}
