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
const isEmulated = emulated();
const model = isEmulated ? 'narrow-attn' : 'tiny'; // with fewer layers and heads
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', model), { device });
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

/** What a pass gave for the last token of a row's own tokens. */
interface Given {
  readonly tokens: number[];
  readonly logits: Float32Array;
}

let worst = 0;
let compared = 0;

/** Compares all that was given with the logits of whole rows, of which as few as possible are computed. */
async function compare(given: Given[], label: string): Promise<void> {
  const whole = new Map<string, Float32Array>();
  const startsWith = (key: string, tokens: number[]) => `${key},`.startsWith(`${tokens.join()},`);
  for (const { tokens, logits } of given.sort((a, b) => b.tokens.length - a.tokens.length)) {
    let want = [...whole].find(([key]) => startsWith(key, tokens))?.[1];
    if (!want) {
      const alone = await xf.forward([tokens]);
      want = (await alone.logits.read()) as Float32Array;
      for (const t of [alone.logits, alone.kvCaches]) t.dispose();
      whole.set(tokens.join(), want);
    }
    compared++;
    const last = (tokens.length - 1) * xf.nVocab;
    for (let v = 0; v < xf.nVocab; v++) {
      const difference = Math.abs((logits[v] as number) - (want[last + v] as number));
      if (!(difference <= worst)) worst = difference;
    }
    assert.ok(worst <= 2e-5, `${label}: ${worst} apart from the row alone; its tokens are ${tokens}`);
  }
}

async function advance(rng: Random, branch: Branch | undefined, batch: number, given: Given[]): Promise<Branch> {
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
  const logits = (await result.logits.read()) as Float32Array;
  result.logits.dispose();
  let from = 0;
  for (const [row, slots] of added.entries()) {
    for (const [i, token] of slots.entries()) {
      const tokens = own([...(before[row] as number[]), ...slots.slice(0, i + 1)]);
      if (token >= 0) given.push({ tokens, logits: logits.subarray(from, from + xf.nVocab) });
      from += xf.nVocab;
    }
  }
  return next;
}

async function schedule(rng: Random, label: string): Promise<void> {
  const given: Given[] = [];
  const branches = [await advance(rng, undefined, rng.integer(1, isEmulated ? 4 : 5), given)];
  for (let step = rng.integer(1, isEmulated ? 4 : 7); step > 0; step--) {
    const branch = rng.pick(branches);
    const { caches, slots } = branch;
    const length = slots[0]?.length as number;
    const action = rng.integer(0, 10);
    if (action < 6) await advance(rng, branch, caches.batch, given);
    else if (action === 6) branches.push({ caches: caches.clone(), slots });
    else if (action < 9) {
      const left = rng.integer(0, length + 1);
      assert.is(caches.truncate(left), caches);
      branch.slots = slots.map((row) => row.slice(0, left));
    } else {
      const rows = Array.from({ length: rng.integer(1, 4) }, () => rng.integer(-caches.batch, caches.batch));
      branches.push({ caches: caches.select(rows), slots: rows.map((row) => slots.at(row) as number[]) });
    }
  }
  // what was done to one branch must not show in another
  for (const branch of branches) {
    assert.is(branch.caches.length, branch.slots[0]?.length);
    await advance(rng, branch, branch.caches.batch, given);
    branch.caches.dispose();
  }
  await compare(given, label);
}

const count = isEmulated ? 200 : 2000;

test(
  `${count} random schedules give each row what it gets alone`,
  async () => {
    const before = device.memory().allocated;
    for (let seed = 0; seed < count; seed++) await schedule(random(seed), `schedule ${seed}`);
    assert.is(device.memory().allocated, before);
    assert.ok(compared > 10 * count, `${compared} tokens were compared`);
  },
  { limit: 180_000 },
);

test.run();
