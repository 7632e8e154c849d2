// Oracle: what Slurm and Kubernetes document of their variables, by hand.
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/cli/failure.js';
import { partOf } from '../../src/cli/part.js';
import { suite, throws } from '../support/harness.js';

const test = suite('--shard');

const slurm = (id: number, [count, min, max, step]: [number, number, number, number]) => ({
  SLURM_ARRAY_TASK_ID: `${id}`,
  SLURM_ARRAY_TASK_COUNT: `${count}`,
  SLURM_ARRAY_TASK_MIN: `${min}`,
  SLURM_ARRAY_TASK_MAX: `${max}`,
  SLURM_ARRAY_TASK_STEP: `${step}`,
});

test('a part in so many words', () => {
  assert.equal(partOf('0/1', {}), { index: 0, count: 1 });
  assert.equal(partOf('7/8', slurm(0, [4, 0, 3, 1])), { index: 7, count: 8 });
  for (const text of ['', '1', 'x/2', '1/x', '-1/2', '1/2/3', 'auto/', 'automatic']) {
    throws(() => partOf(text, {}), UsageError, /--shard must read I\/N, auto or auto\/N, but is/);
  }
  throws(() => partOf('2/2', {}), UsageError, /--shard 2\/2: I must be from 0 to 1, but is 2/);
  throws(() => partOf('0/0', {}), UsageError, /--shard 0\/0/);
});

test('a task of a Slurm array, wherever it begins and however it steps', () => {
  for (const [first, step] of [
    [0, 1],
    [1, 1],
    [5, 3],
  ] as [number, number][]) {
    for (let index = 0; index < 4; index++) {
      const env = slurm(first + index * step, [4, first, first + 3 * step, step]);
      assert.equal(partOf('auto', env), { index, count: 4 });
      assert.equal(partOf('auto/4', env), { index, count: 4 });
    }
  }
  const { SLURM_ARRAY_TASK_STEP: _, ...stepless } = slurm(2, [3, 1, 3, 1]);
  assert.equal(partOf('auto', stepless), { index: 1, count: 3 });
});

test('an array with gaps, or of another size, is refused', () => {
  throws(() => partOf('auto', slurm(4, [3, 1, 4, 1])), UsageError, /gaps: 3 tasks from 1 to 4.*--array=0-2/);
  throws(() => partOf('auto', slurm(2, [2, 1, 4, 3])), UsageError, /gaps/);
  throws(() => partOf('auto/5', slurm(0, [4, 0, 3, 1])), UsageError, /the array has 4 tasks, not 5/);
  throws(() => partOf('auto', slurm(9, [4, 0, 3, 1])), UsageError, /must be from 0 to 3, but is 9/);
  throws(() => partOf('auto', { SLURM_ARRAY_TASK_ID: '3' }), UsageError, /SLURM_ARRAY_TASK_COUNT.*not all are set/);
  const odd = { ...slurm(0, [4, 0, 3, 1]), SLURM_ARRAY_TASK_ID: '1e3' };
  throws(() => partOf('auto', odd), UsageError, /SLURM_ARRAY_TASK_ID must be a whole number, but is '1e3'/);
});

test('a pod of an indexed Kubernetes job knows its index alone', () => {
  const env = { JOB_COMPLETION_INDEX: '3' };
  assert.equal(partOf('auto/4', env), { index: 3, count: 4 });
  throws(() => partOf('auto', env), UsageError, /JOB_COMPLETION_INDEX is 3, but of how many\? Say --shard auto\/N/);
  throws(() => partOf('auto/3', env), UsageError, /JOB_COMPLETION_INDEX must be from 0 to 2, but is 3/);
  throws(() => partOf('auto/3', {}), UsageError, /neither is set here/);
});

test.run();
