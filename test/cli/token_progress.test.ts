// Oracle: the lines of a log, and what a terminal gets, written out by hand.
import { Writable } from 'node:stream';
import * as assert from 'uvu/assert';
import { tokenProgressView } from '../../src/cli/token_progress.js';
import { suite } from '../support/harness.js';

const test = suite('progress');

class Log extends Writable {
  text = '';
  columns = 120;
  constructor(readonly isTTY: boolean) {
    super();
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk;
    done();
  }
  cursorTo(): void {}
  clearLine(): void {}
  moveCursor(): void {}
}

const view = (log: Log) => tokenProgressView(log as unknown as NodeJS.WriteStream);
const progress = { bytesRead: 0, tokensPerSecond: 1234.5, shards: 0 };

test('elsewhere than on a terminal: a line at the start, every few seconds, and at the end', () => {
  const log = new Log(false);
  const lines = view(log);
  for (const tokens of [1000, 2000, 3000]) {
    lines.update({ ...progress, tokens, totalTokens: 20_000_000, secondsLeft: 16_200, shards: 1 });
  }
  lines.stop();
  lines.stop();
  assert.equal(log.text.split('\n'), [
    '1,000 of 20,000,000 tokens, 1,235 tokens/s, 1 shard, 4 h 30 min left',
    '3,000 of 20,000,000 tokens, 1,235 tokens/s, 1 shard, 4 h 30 min left',
    '',
  ]);
});

test('records are counted instead of shards', () => {
  const records = { tokens: 1000, totalTokens: 2000, tokensPerSecond: 500, records: 0, totalRecords: 3072 };
  const log = new Log(false);
  view(log).update({ ...records, secondsLeft: 2 });
  assert.is(log.text, '1,000 of 2,000 tokens, 500 tokens/s, 0 of 3,072 records, 2 s left\n');
  const terminal = new Log(true);
  const bar = view(terminal);
  bar.update({ ...records, tokens: 2000, records: 7 });
  bar.stop();
  assert.match(terminal.text, /100% {2}2,000 of 2,000 tokens {2}500 tokens\/s {2}7 of 3,072 records/);
});

test('the time that is left is as exact as it can be', () => {
  const expected: [number | undefined, string][] = [
    [0.2, ', 1 s left'],
    [99, ', 99 s left'],
    [120, ', 2 min left'],
    [3600 * 26 + 300, ', 26 h 05 min left'],
    [undefined, ''],
  ];
  for (const [secondsLeft, text] of expected) {
    const log = new Log(false);
    view(log).update({ ...progress, tokens: 5, ...(secondsLeft !== undefined && { secondsLeft }) });
    assert.is(log.text, `5 tokens, 1,235 tokens/s, 0 shards${text}\n`);
  }
});

test('a terminal gets a bar with speed and time', () => {
  const log = new Log(true);
  const bar = view(log);
  bar.update({ ...progress, tokens: 5000, totalTokens: 10_000, secondsLeft: 4 });
  bar.stop();
  assert.match(log.text, /█+░+ 50% {2}5,000 of 10,000 tokens {2}1,235 tokens\/s {2}4 s left/);
  const quiet = new Log(true);
  view(quiet).stop();
  assert.is(quiet.text, '');
});

test.run();
