// Oracle: totals worked out by hand.
import * as assert from 'uvu/assert';
import { type ProgressInputs, ProgressMeter } from '../../../src/dump/shards/progress.js';
import { suite } from '../../support/harness.js';

const test = suite('dump progress');

function meter(inputs: Partial<ProgressInputs>, state: Partial<ProgressMeter>): ProgressMeter {
  return Object.assign(new ProgressMeter({ corpusBytes: undefined, limit: null, parts: 1, ...inputs }), state);
}

test('the total is estimated from the bytes read, and exact at the end', () => {
  const half = { bytesRead: 500, corpusTokens: 100, gathered: 100, computed: 20 };
  assert.is(meter({ corpusBytes: 1000 }, half).now().totalTokens, 200);
  assert.is(meter({ corpusBytes: 1000, parts: 2 }, half).now().totalTokens, 100);
  assert.is(meter({ corpusBytes: 1000, limit: 150 }, half).now().totalTokens, 150);
  assert.is(meter({ corpusBytes: 1000 }, { ...half, allGathered: true }).now().totalTokens, 100);
  assert.is(meter({ limit: 150 }, half).now().totalTokens, 150);
  assert.is(meter({}, half).now().totalTokens, undefined);
  assert.is(meter({}, half).now().secondsLeft, undefined);
});

test('tokens that were found count as done, not as computed', () => {
  const progress = meter({}, { found: 70, computed: 30, gathered: 200, allGathered: true, shards: 2 }).now();
  assert.is(progress.tokens, 100);
  assert.is(progress.shards, 2);
  const seconds = 30 / progress.tokensPerSecond;
  assert.ok(Math.abs((progress.secondsLeft as number) - (100 / 30) * seconds) < 1e-9);
});

test.run();
