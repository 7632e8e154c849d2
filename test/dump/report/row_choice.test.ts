// Oracle: sorting everything; for what is random, counts within five standard deviations.
import * as assert from 'uvu/assert';
import { randomRows, TopRows } from '../../../src/dump/report/row_choice.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('choice of rows');

test('the top rows in any order of offers, earlier rows first among equals', () => {
  const r = random(3);
  for (let i = 0; i < 200; i++) {
    const [rows, most] = [r.integer(0, 40), r.integer(0, 12)];
    const values = Array.from({ length: rows }, () => r.pick([-Infinity, -2, 0, 0, 1, 1, 3, NaN]));
    const key = (row: number): number => (Number.isNaN(values[row]) ? -Infinity : (values[row] as number));
    const all = Array.from(values, (_, row) => row);
    const expected = all.toSorted((a, b) => (key(a) === key(b) ? a - b : key(b) - key(a))).slice(0, most);
    const top = new TopRows(3, most);
    for (const row of i % 2 ? all : all.toSorted(() => r.normal())) {
      top.offer(1, values[row] as number, row);
      top.offer(2, row, row);
    }
    assert.equal(top.rowsOf(1), expected);
    assert.equal(top.rowsOf(0), []);
    assert.equal(top.rowsOf(2), all.toReversed().slice(0, most));
  }
});

test('random rows are different, within range, and repeatable', () => {
  for (const [count, rows] of [
    [0, 5],
    [5, 0],
    [5, 5],
    [9, 5],
    [20, 1000],
    [20, 2 ** 40],
  ] as [number, number][]) {
    const chosen = randomRows('7/a/1', count, rows);
    assert.is(new Set(chosen).size, Math.min(count, rows));
    assert.ok(chosen.every((row) => Number.isInteger(row) && row >= 0 && row < rows));
    assert.equal(randomRows('7/a/1', count, rows), chosen);
  }
  assert.equal(
    [...randomRows('x', 100, 100)].sort((a, b) => a - b),
    [...Array(100).keys()],
  );
  assert.not.equal(randomRows('7/a/1', 5, 1000), randomRows('7/a/2', 5, 1000));
});

test('each row is as likely as any other, at each rank', () => {
  const [keys, count, rows] = [6000, 3, 10];
  const times = Array.from({ length: count }, () => new Array<number>(rows).fill(0));
  const pairs = new Map<string, number>();
  for (let key = 0; key < keys; key++) {
    const chosen = randomRows(`${key}`, count, rows);
    for (const [rank, row] of chosen.entries()) (times[rank] as number[])[row] = (times[rank]?.[row] ?? 0) + 1;
    const pair = `${chosen[0]} ${chosen[1]}`;
    pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
  }
  // 600 expected, standard deviation 23; and 67 of each of the 90 pairs, standard deviation 8.
  for (const counts of times) assert.ok(counts.every((n) => Math.abs(n - 600) < 5 * 23));
  assert.is(pairs.size, 90);
  assert.ok([...pairs.values()].every((n) => Math.abs(n - 66.7) < 5 * 8.2));
});

test.run();
