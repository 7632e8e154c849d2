// Sequences in pieces: random schedules of passes, with padding anywhere, on caches that are cloned, truncated and
// selected from. Oracle: each row's own tokens in one pass, alone.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import type { KvCaches } from '../../src/transformer/kv_cache.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { emulated, testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';
import { type Random, random } from '../support/random.js';

const test = suite('schedules');
const device = testDevice();
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'), { device });
});

/** Caches, and the tokens of their rows: -1 is padding. */
interface Branch {
  readonly caches: KvCaches;
  slots: number[][];
}

const own = (slots: readonly number[]) => slots.filter((token) => token >= 0);

/** Tokens for each row, the padding at random places; now and then no token for a row, or for all. */
function chunk(rng: Random, before: readonly number[][]): number[][] {
  const room = before.map((slots) => xf.config.ctxWindow - own(slots).length);
  const counts = room.map((most) => (rng.integer(0, 4) === 0 ? 0 : rng.integer(0, Math.min(most, 5) + 1)));
  const seq = Math.max(1, ...counts) + rng.integer(0, 2);
  const side = rng.pick(['left', 'right', 'anywhere'] as const);
  return counts.map((count) => {
    const row = new Array<number>(seq).fill(-1);
    const free = [...row.keys()];
    if (side === 'left') free.splice(0, seq - count);
    while (side === 'anywhere' && free.length > count) free.splice(rng.integer(0, free.length), 1);
    for (const at of free.slice(0, count)) row[at] = rng.integer(0, xf.nVocab);
    return row;
  });
}

let worst = 0;
const whole = new Map<string, Float32Array>();

/** The logits of a row's last tokens, computed alone and at once. */
async function alone(tokens: number[], count: number): Promise<Float32Array> {
  const key = tokens.join();
  let values = whole.get(key);
  if (!values) {
    const { logits, kvCaches } = await xf.forward([tokens]);
    values = (await logits.read()) as Float32Array;
    logits.dispose();
    kvCaches.dispose();
    whole.set(key, values);
  }
  return values.subarray((tokens.length - count) * xf.nVocab);
}

async function advance(rng: Random, branch: Branch | undefined, batch: number, label: string): Promise<Branch> {
  const before = branch?.slots ?? Array.from({ length: batch }, () => []);
  const added = chunk(rng, before);
  const pad = added.map((row) => row.map((token) => Number(token < 0)));
  const padded = pad.some((row) => row.includes(1));
  const result = await xf.forward(
    added.map((row) => row.map((token) => (token < 0 ? rng.integer(0, xf.nVocab) : token))),
    { ...(branch ? { kvCaches: branch.caches } : {}), ...(padded ? { pad } : {}) },
  );
  const next: Branch = branch ?? { caches: result.kvCaches, slots: before };
  next.slots = before.map((slots, row) => [...slots, ...(added[row] as number[])]);
  const got = (await result.logits.read()) as Float32Array;
  result.logits.dispose();
  for (const [row, slots] of next.slots.entries()) {
    const places = (added[row] as number[]).flatMap((token, i) => (token < 0 ? [] : [i]));
    if (places.length === 0) continue;
    const want = await alone(own(slots), places.length);
    const seq = (added[row] as number[]).length;
    for (const [n, i] of places.entries()) {
      for (let v = 0; v < xf.nVocab; v++) {
        const difference = Math.abs(
          (got[(row * seq + i) * xf.nVocab + v] as number) - (want[n * xf.nVocab + v] as number),
        );
        if (!(difference <= worst)) worst = difference;
      }
    }
    assert.ok(worst <= 2e-5, `${label}, row ${row}: ${worst} apart from the row alone; slots ${JSON.stringify(slots)}`);
  }
  return next;
}

async function schedule(rng: Random, label: string): Promise<void> {
  whole.clear();
  const branches = [await advance(rng, undefined, rng.integer(1, 5), label)];
  for (let step = rng.integer(1, 7); step > 0; step--) {
    const branch = rng.pick(branches);
    const { caches, slots } = branch;
    const length = slots[0]?.length as number;
    const action = rng.integer(0, 10);
    if (action < 6) await advance(rng, branch, caches.batch, label);
    else if (action === 6) branches.push({ caches: caches.clone(), slots });
    else if (action < 9) {
      const left = rng.integer(0, length + 1);
      assert.is(caches.truncate(left), caches);
      branch.slots = slots.map((row) => row.slice(0, left));
    } else {
      const rows = Array.from({ length: rng.integer(1, 6) }, () => rng.integer(-caches.batch, caches.batch));
      branches.push({ caches: caches.select(rows), slots: rows.map((row) => slots.at(row) as number[]) });
    }
  }
  // what was done to one branch must not show in another
  for (const branch of branches) {
    assert.is(branch.caches.length, branch.slots[0]?.length);
    await advance(rng, branch, branch.caches.batch, label);
    branch.caches.dispose();
  }
}

const count = emulated() ? 200 : 2000;

test(
  `${count} random schedules give each row what it gets alone`,
  async () => {
    const before = device.memory().allocated;
    for (let seed = 0; seed < count; seed++) await schedule(random(seed), `schedule ${seed}`);
    assert.is(device.memory().allocated, before);
    console.log(`largest difference: ${worst}`);
  },
  { limit: 180_000 },
);

test.run();
