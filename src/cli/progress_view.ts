// Displays progress. On a terminal, a display draws a bar. Elsewhere, as in a log, it writes a line every few seconds.
import cliProgress from 'cli-progress';

export interface ProgressView<Progress> {
  update(progress: Progress): void;
  /** Shows the last progress, and moves to the next line. */
  stop(): void;
}

/** How one kind of progress is displayed. */
export interface Display<Progress> {
  /** The format and the number format of the bar, as cli-progress has them. */
  readonly bar: Pick<cliProgress.Options, 'format' | 'formatValue'>;
  /** How far the bar is, and the texts that its format names. */
  barOf(progress: Progress): BarState;
  lineOf(progress: Progress): string;
  /** Whether a line is left out that equals the one before. */
  readonly skipsRepeatedLines: boolean;
}

export interface BarState {
  readonly value: number;
  readonly total: number;
  readonly texts: Readonly<Record<string, string>>;
}

const secondsBetweenLines = 5;

export const progressViewOf = <Progress>(
  display: Display<Progress>,
  stream: NodeJS.WriteStream,
): ProgressView<Progress> => (stream.isTTY ? barView(display, stream) : lineView(display, stream));

function barView<Progress>(display: Display<Progress>, stream: NodeJS.WriteStream): ProgressView<Progress> {
  const bar = new cliProgress.SingleBar({
    ...display.bar,
    stream,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
  });
  let started = false;
  return {
    update(progress) {
      const { value, total, texts } = display.barOf(progress);
      if (!started) bar.start(total, value, texts);
      started = true;
      bar.setTotal(total);
      bar.update(value, texts);
    },
    stop() {
      if (started) bar.stop();
    },
  };
}

function lineView<Progress>(display: Display<Progress>, stream: NodeJS.WriteStream): ProgressView<Progress> {
  let [line, written] = ['', ''];
  let isWritten = true;
  let writtenAt = Number.NEGATIVE_INFINITY;
  const write = () => {
    if (display.skipsRepeatedLines && line === written) return;
    stream.write(`${line}\n`);
    written = line;
    isWritten = true;
    writtenAt = performance.now();
  };
  return {
    update(progress) {
      line = display.lineOf(progress);
      isWritten = false;
      if (performance.now() - writtenAt >= secondsBetweenLines * 1000) write();
    },
    stop() {
      if (!isWritten) write();
    },
  };
}
