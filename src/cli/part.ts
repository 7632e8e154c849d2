// --shard: which part of the shards this process makes, as the user or a batch system says.
import type { Part } from '../dump/format/settings.js';
import { UsageError } from './failure.js';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads `I/N`, `auto` and `auto/N`. `auto` works in a task of a Slurm array, which knows how many tasks there are.
 * `auto/N` works in a pod of an indexed Kubernetes job as well, which does not know it.
 */
export function partOf(text: string, env: Environment = process.env): Part {
  const [, index, size] = /^(\d+|auto)(?:\/(\d+))?$/.exec(text) ?? [];
  if (index === undefined || (index !== 'auto' && size === undefined)) {
    throw new UsageError(`--shard must read I/N, auto or auto/N, but is '${text}'`);
  }
  const found = index === 'auto' ? taskOf(env) : { index: Number(index), from: 'I' };
  const count = size === undefined ? found.count : Number(size);
  if (count === undefined) {
    throw new UsageError(`--shard auto: ${found.from} is ${found.index}, but of how many? Say --shard auto/N`);
  }
  if (found.count !== undefined && found.count !== count) {
    throw new UsageError(`--shard ${text}: the array has ${found.count} tasks, not ${count}`);
  }
  if (found.index < count) return { index: found.index, count };
  throw new UsageError(`--shard ${text}: ${found.from} must be from 0 to ${count - 1}, but is ${found.index}`);
}

interface Task {
  readonly index: number;
  /** Where the index comes from. */
  readonly from: string;
  readonly count?: number;
}

// https://slurm.schedmd.com/job_array.html, https://kubernetes.io/docs/concepts/workloads/controllers/job/
function taskOf(env: Environment): Task {
  if (env.SLURM_ARRAY_TASK_ID !== undefined) return slurmTask(env);
  const index = numberIn(env, 'JOB_COMPLETION_INDEX');
  if (index !== undefined) return { index, from: 'JOB_COMPLETION_INDEX' };
  throw new UsageError(
    '--shard auto is for tasks of a Slurm array (SLURM_ARRAY_TASK_ID) and pods of an indexed Kubernetes job ' +
      '(JOB_COMPLETION_INDEX); neither is set here',
  );
}

// Arrays may begin at any number and go in steps. In an array with gaps, a task cannot know its rank.
function slurmTask(env: Environment): Task {
  const names = ['ID', 'COUNT', 'MIN', 'MAX', 'STEP'].map((name) => `SLURM_ARRAY_TASK_${name}`);
  const [id, count, min, max, step = 1] = names.map((name) => numberIn(env, name));
  if (id === undefined || count === undefined || min === undefined || max === undefined) {
    throw new UsageError(`--shard auto: of ${names.slice(0, 4).join(', ')} not all are set`);
  }
  if (max - min !== step * (count - 1) || (id - min) % step !== 0) {
    throw new UsageError(
      `--shard auto: the array has gaps: ${count} tasks from ${min} to ${max} in steps of ${step}. Use --array=0-${count - 1}`,
    );
  }
  return { index: (id - min) / step, from: 'SLURM_ARRAY_TASK_ID', count };
}

function numberIn(env: Environment, name: string): number | undefined {
  const text = env[name];
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`--shard auto: ${name} must be a whole number, but is '${text}'`);
}
