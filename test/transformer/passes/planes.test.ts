// Planes in passes: what layer norms, attention and GELU write for the products that follow. Oracles: passes in which hooks
// keep them from being used, bit for bit; a profile's operations; the memory that is held.
import * as assert from 'uvu/assert';
import { disposeAll } from '../../../src/engine/scope.js';
import { appendAt } from '../../../src/transformer/hook_places.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import { formatLocation, type Point } from '../../../src/transformer/location.js';
import { type ForwardOptions, Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { emulated, testDevice } from '../../support/device.js';
import { rejects, suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('planes in passes');
const device = testDevice();
const rng = random(8);
const xf = await Transformer.load('demo', { device });
const layers = xf.config.nLayers;
const rows = [0, 1].map(() => Array.from({ length: emulated() ? 5 : 70 }, () => rng.integer(0, xf.nVocab)));

/** The points of values that a product is all that reads. */
const points: readonly Point[] = ['resid.torso.post_ln_attn', 'attn.v_out', 'resid.torso.post_ln_mlp', 'mlp.post_act'];
const places = [
  ...Array.from({ length: layers }, (_, layer) => points.map((point) => formatLocation({ point, layer }))).flat(),
  formatLocation({ point: 'resid.post_ln_f' }),
];

/** Some of them where passes take long. */
const tried = places.filter((_, i) => !emulated() || i % 3 === 0);

async function logitsOf(options: ForwardOptions): Promise<ArrayLike<number>> {
  const { logits, kvCaches } = await xf.forward(rows, options);
  const values = await logits.read();
  disposeAll(logits, kvCaches);
  return values;
}

/** How many products of a pass read planes, and how many write some. */
async function usesOf(options: ForwardOptions = {}): Promise<{ read: number; written: number }> {
  const entries = await device.profile(async () => {
    await logitsOf(options);
  });
  const uses = { read: 0, written: 0 };
  for (const { arguments: given } of entries) {
    for (const { name } of given) {
      if (name === 'xPlanes' || name === 'x_planes') uses.read++;
      if (name === 'planes') uses.written++;
    }
  }
  return uses;
}

test('their memory is freed, also where a pass ends early', async () => {
  await logitsOf({});
  const { allocated } = device.memory();
  await logitsOf({});
  assert.is(device.memory().allocated, allocated);
  for (const place of tried) {
    const values = await xf.activations(rows, [place]);
    disposeAll(...values.values());
    assert.is(device.memory().allocated, allocated, place);
    const hooks = new TransformerHooks();
    appendAt(hooks, place, 'fwd', () => {
      throw new Error('stop');
    });
    await rejects(() => xf.forward(rows, { hooks }), Error, /stop/);
    assert.is(device.memory().allocated, allocated, `${place}, aborted`);
  }
});

test('all products of a pass read what was written for them, but for values that hooks may change', async () => {
  const all = device.readsPlanes ? places.length : 0;
  assert.equal(await usesOf(), { read: all, written: all });
  if (!device.readsPlanes) return;
  for (const place of tried) {
    const hooks = new TransformerHooks();
    appendAt(hooks, place, 'fwd', () => {});
    assert.equal(await usesOf({ hooks }), { read: all - 1, written: all - 1 }, place);
  }
  // the mix of the last layer is not multiplied where a few positions are chosen from it
  assert.equal(await usesOf({ logitsAt: 'last' }), { read: all - 1, written: all - 1 });
});

test('they change no bit, whatever is hooked', async () => {
  for (const logitsAt of ['all', 'last'] as const) {
    const given = logitsAt === 'all' ? {} : { logitsAt };
    const plain = await logitsOf(given);
    for (const watched of [places, ...(logitsAt === 'all' ? tried.map((place) => [place]) : [])]) {
      const hooks = new TransformerHooks();
      for (const place of watched) appendAt(hooks, place, 'fwd', () => {});
      close(await logitsOf({ ...given, hooks }), plain, { label: `${logitsAt}, hooks at ${watched}` });
    }
  }
});

test('what a hook changes in place is what is multiplied', async () => {
  for (const place of tried) {
    const inPlace = new TransformerHooks();
    appendAt(inPlace, place, 'fwd', (x) => {
      x.mul_(0.5);
    });
    const replaced = new TransformerHooks();
    appendAt(replaced, place, 'fwd', (x) => x.mul(0.5));
    const values = await logitsOf({ hooks: inPlace });
    close(values, await logitsOf({ hooks: replaced }), { label: place });
  }
});

test.run();
