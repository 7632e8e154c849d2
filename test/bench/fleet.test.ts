// The simulation of a fleet against what is known exactly: sums, closed forms, and BullMQ's rules followed by hand.
import * as assert from 'uvu/assert';
import { type Fleet, fleet, restarts, withShards } from '../../bench/fleet/parameters.js';
import { SimulatedQueue } from '../../bench/fleet/queue.js';
import { type Outcome, simulate } from '../../bench/fleet/simulation.js';
import { lives, mean, outcomesOf, shardSizes, weatherHead, weatherRow } from '../../bench/fleet/tables.js';
import { Timeline } from '../../bench/fleet/timeline.js';
import { docsPage, rows, section } from '../docs/markdown.js';
import { suite } from '../support/harness.js';

const test = suite('bench/fleet');
test.limit(240_000);

/** A small fleet whose shards take a second each, and all else takes no time. */
const small: Fleet = {
  ...fleet,
  ...{ shards: 60, shardTokens: 1000, workers: 4, speed: 1000, life: Number.POSITIVE_INFINITY, replacement: 0 },
  ...{ start: 0, begin: 0, finish: 0, reading: { way: 'index', tokensPerSecond: Number.POSITIVE_INFINITY, seek: 0 } },
  ...{ lock: 4, until: 1e6 },
};

const sum = ({ useful, underWay, lost }: Outcome): number =>
  useful + underWay + lost.computing + lost.waiting + lost.finishing;

const about = (actual: number, expected: number, tolerance = 1e-9): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance * Math.abs(expected), `${actual}, and not ${expected}`);

test('no deaths: the ideal, up to the last wave', () => {
  for (const [shards, workers] of [
    [60, 4],
    [61, 4],
    [3, 4],
    [7, 1],
  ] as const) {
    const { isDone, seconds, computed, useful, deaths, lostShards } = simulate({ ...small, shards, workers }, 1);
    assert.equal({ isDone, deaths, lostShards }, { isDone: true, deaths: 0, lostShards: 0 });
    about(computed, shards);
    about(useful, shards);
    // A worker holds two jobs, so at the end one may compute two shards while another one has none.
    const waves = Math.ceil(shards / workers);
    assert.ok(seconds >= waves - 1e-9 && seconds <= waves + 1 + 1e-9, `${shards} by ${workers}: ${seconds} s`);
  }
});

test('hashing and syncing hide behind computing, unless they take longer', () => {
  const one = { ...small, workers: 1, shards: 10 };
  about(simulate({ ...one, start: 3, begin: 0.25, finish: 0.5 }, 1).seconds, 3 + 0.25 + 10 + 0.5);
  about(simulate({ ...one, finish: 2 }, 1).seconds, 1 + 10 * 2);
  const reading = { way: 'index', tokensPerSecond: 4000, seek: 0.125 } as const;
  const { seconds, read } = simulate({ ...one, reading }, 1);
  about(seconds, 10 * (1 + 0.25 + 0.125));
  about(read, 10 * (0.25 + 0.125));
});

test('all that was computed is there, lost or under way', () => {
  const redis = { every: 40, down: 3, lost: 1 };
  const settings: Partial<Fleet>[] = [
    { life: 20 },
    { life: 5, finish: 0.7 },
    { life: 6, finish: 2 },
    { life: 20, redis },
    { life: 20, redis: { ...redis, down: 10 } },
    { life: 20, redis: { ...redis, plannedAgain: 5 } },
    { life: 8, until: 50 },
  ];
  for (const setting of settings) {
    for (let seed = 1; seed <= 20; seed++) {
      const outcome = simulate({ ...small, shards: 400, replacement: 1, ...setting }, seed);
      const { isDone, shardsDone, deaths, computed, useful } = outcome;
      const what = `${JSON.stringify(setting)}, seed ${seed}`;
      assert.is(isDone, setting.until === undefined, what);
      if (isDone) assert.is(shardsDone, 400, what);
      assert.ok(deaths > 0, what);
      about(computed, sum(outcome));
      about(useful, shardsDone);
    }
  }
});

test('a killed worker loses half a shard on average', () => {
  const { computed, useful, lost, deaths, lostShards } = simulate({ ...small, shards: 40_000, life: 50 }, 7);
  assert.ok(deaths > 700, `${deaths} deaths`);
  assert.is(lost.finishing, 0);
  // Between two shards a worker does nothing else here, so it dies while it computes one.
  assert.ok(lostShards <= deaths && lostShards > 0.97 * deaths, `${lostShards} of ${deaths}`);
  about(lost.computing / lostShards, 0.5, 0.06);
  about(computed / useful, 1 + 0.5 / 50, 0.001);
  // It also loses the shard that is hashed and synced, if there is one. Half of the time there is one.
  const other = simulate({ ...small, shards: 40_000, life: 50, finish: 0.5 }, 7);
  about(other.computed / other.useful, 1 + (0.5 + 0.5) / 50, 0.002);
});

test('a shard of a killed worker comes again after a lock has run out, and two looks', () => {
  // One of two workers is killed at 6.5 s; its lock of 4 s was renewed within the second before. The other one makes
  // what is left, waits for the looks every 4 s, and makes the two jobs of the killed one.
  const two = { ...small, workers: 2, shards: 14, replacement: Number.POSITIVE_INFINITY } as const;
  const found = Array.from({ length: 40 }, (_, seed) => simulate({ ...two, life: 20, until: 100 }, seed));
  const single = found.filter(({ deaths, isDone }) => deaths === 1 && isDone);
  assert.ok(single.length >= 5, `${single.length} with one death`);
  for (const { stalled, lostShards, seconds } of single) {
    assert.ok(stalled <= 2 && lostShards <= 1, `${stalled} stalled, ${lostShards} lost`);
    assert.ok(seconds <= 14 + 4 + 2 * 4 + 2, `${seconds} s`);
  }
  assert.ok(single.some(({ stalled }) => stalled === 2));
});

test('a job without a lock goes to the front at the second look, and its old worker is refused', () => {
  const time = new Timeline();
  const queue = new SimulatedQueue(time, { ...small, shards: 5 }, () => {});
  const [first, second] = [queue.take(), queue.take()];
  assert.ok(first && second);
  for (const at of [1, 2, 3, 4, 5, 6, 7, 8.5]) time.after(at, () => queue.renew(1, second.token));
  const taken: [number, number | undefined][] = [];
  for (const at of [7.9, 8.1, 8.2]) time.after(at, () => taken.push([at, queue.take()?.number]));
  time.after(8.15, () => queue.complete(0, first.token));
  time.after(8.6, () => queue.complete(1, second.token));
  time.run(9, () => false);
  const expected = [
    [7.9, 2],
    [8.1, 0],
    [8.2, 3],
  ];
  assert.equal(taken, expected);
  assert.equal([queue.counts.stalled, queue.done], [1, 1]);
});

test('without an index, reading grows with the square of the corpus', () => {
  // Each life ends after about ten shards, and its successor reads from the start.
  const reading = { way: 'start', tokensPerSecond: 1e8, seek: 0 } as const;
  const lives = { life: 10.5, lives: 'constant', workers: 1, replacement: 20 } as const;
  const read = (shards: number, way: 'start' | 'index') =>
    simulate({ ...small, ...lives, shards, reading: { ...reading, way } }, 1).read;
  const growth = (way: 'start' | 'index') => read(8000, way) / read(4000, way);
  about(growth('start'), 4, 0.02);
  about(growth('index'), 2, 0.02);
  // 400 lives read 10, 20, ... 4000 blocks, which take 10 microseconds each. Some do it twice: of the two jobs of a killed
  // worker, the lower one may come back first, and then it lies behind the other one.
  const once = 400 * 2000 * 1e-5;
  const actual = read(4000, 'start');
  assert.ok(actual > 0.99 * once && actual < 2.01 * once, `${actual} s`);
});

test('a corpus that takes longer to read than workers live is never done without an index', () => {
  const slow = { ...small, life: 30, lives: 'constant', shards: 1000, until: 5000 } as const;
  const way = (name: 'start' | 'index') =>
    simulate({ ...slow, reading: { way: name, tokensPerSecond: 20_000, seek: 0 } }, 1);
  assert.is(way('index').isDone, true);
  const { isDone, shardsDone, seconds } = way('start');
  assert.equal([isDone, seconds], [false, 5000]);
  assert.ok(shardsDone < 600, `${shardsDone} shards`); // 30 s are 600 blocks
});

test('a Redis that restarts within the time of a lock costs no work', () => {
  const redis = { every: 20, down: 1.5, lost: 1 };
  for (let seed = 1; seed <= 10; seed++) {
    const { isDone, restarts, computed, useful } = simulate({ ...small, shards: 400, redis }, seed);
    assert.ok(isDone && restarts > 0);
    about(computed, useful);
  }
});

test('a Redis that forgets everything costs no work either: the folder says what is there', () => {
  const redis = { every: 30, down: 1, lost: 1, plannedAgain: 3 };
  const outcomes = Array.from({ length: 10 }, (_, seed) => simulate({ ...small, shards: 400, redis }, seed));
  for (const { isDone, computed, useful, shardsDone, restarts, seconds } of outcomes) {
    assert.is(isDone, true);
    about(computed, useful);
    assert.is(shardsDone, 400);
    // What is under way goes on, also without a queue; so a restart costs 4 s at most, and the lease keeps others away.
    assert.ok(seconds <= 101 + 4 * restarts, `${seconds} s with ${restarts} restarts`);
  }
  assert.ok(outcomes.filter(({ restarts }) => restarts > 0).length >= 8);
});

test('a shard that another worker makes is refused, and comes again until it is there', () => {
  // Shards take 100 s. Redis forgets them, they are planned again, and are taken while their first workers live.
  const redis = { every: 130, down: 1, lost: 1, plannedAgain: 1 };
  const slow = { ...small, shards: 8, speed: 10, until: 5000, redis };
  const all = Array.from({ length: 10 }, (_, seed) => simulate(slow, seed));
  const outcomes = all.filter(({ restarts }) => restarts > 0);
  assert.ok(outcomes.length >= 5);
  for (const { isDone, computed, useful, refused, seconds, restarts } of outcomes) {
    assert.ok(isDone && refused > 0, `${refused} refused`);
    about(computed, useful);
    // The last shard is there after 300 s at most (a worker may have taken two). A job that was refused just before comes
    // again after 10 s. So do those of a restart, which takes 2 s until they are planned again.
    assert.ok(seconds <= 300 + 12 * (restarts + 1), `${seconds} s with ${restarts} restarts`);
  }
});

test('a job that was refused comes again after a pause, behind all others, however often', () => {
  const time = new Timeline();
  const queue = new SimulatedQueue(time, { ...small, shards: 2 }, () => {});
  const taken: [number, number | undefined][] = [];
  const takeAt = (at: number) =>
    time.after(at, () => {
      const job = queue.take();
      taken.push([at, job?.number]);
      if (job?.number === 0) time.after(0.5, () => queue.refuse(0, job.token));
      if (job?.number === 1) queue.complete(1, job.token);
    });
  for (const at of [0, 10, 11, 12, 21, 22, 32, 33]) takeAt(at);
  time.run(40, () => false);
  const expected = [
    [0, 0],
    [10, 1],
    [11, 0],
    [12, undefined],
    [21, undefined],
    [22, 0],
    [32, undefined],
    [33, 0],
  ];
  assert.equal(taken, expected);
});

test('the same seed gives the same outcome, and another one another', () => {
  const setting = { ...small, life: 10, shards: 300, redis: { every: 30, down: 2, lost: 1 } };
  assert.equal(simulate(setting, 5), simulate(setting, 5));
  assert.not.equal(simulate(setting, 5), simulate(setting, 6));
});

test('the page has the rows of the simulation, and the example takes at most 1.05 of the ideal work', () => {
  const page = docsPage('scaling.md');
  const table = rows(section(page, 'The simulation')).filter(
    (cells) => cells.length === weatherHead.length && cells[0]?.startsWith('2^'),
  );
  assert.equal(
    table.map(([tokens, , life]) => [tokens, life]),
    shardSizes.flatMap((size) => lives.map((life) => [`2^${Math.log2(size)}`, `${life / 60} min`])),
  );
  const onPage = (size: number) => table[shardSizes.indexOf(size) * lives.length + lives.indexOf(fleet.life)];
  const own = weatherRow(fleet.shardTokens, fleet.life, 1);
  assert.equal(onPage(fleet.shardTokens), own);
  assert.equal(onPage(2 ** 22), weatherRow(2 ** 22, fleet.life, 1));
  const large = outcomesOf({ ...fleet, ...withShards(2 ** 22), redis: restarts.forgotten }, 1);
  const refused = mean(large.map((outcome) => outcome.refused)).toFixed(0);
  assert.ok(page.includes(`  that forgets, that happens ${refused} times.\n`));
  for (const at of [3, 5, 7]) assert.ok(Number(own[at]) >= 1 && Number(own[at]) <= 1.05, own[at]);
  assert.equal(withShards(2 ** 18), { shardTokens: 2 ** 18, shards: 4 * fleet.shards, finish: fleet.finish / 4 });
});

test.run();
