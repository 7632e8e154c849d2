// A thousand recorded passes of each kind leave memory where it was after 50. Oracle: the device's own account, and the
// resident size of the process.
import * as assert from 'uvu/assert';
import { openDevice } from '../../../src/engine/device.js';
import { crossEntropy } from '../../../src/engine/ops/cross_entropy.js';
import { AtLayers, TransformerHooks } from '../../../src/transformer/hooks.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { collectUntil } from '../../support/collect.js';
import { openGolden } from '../../support/goldens.js';
import { suite } from '../../support/harness.js';

const test = suite('memory of recorded passes');
test.limit(120_000);

const g = await openGolden('narrow-attn');
const rows = g.rows('tokens');
const device = openDevice('cpu');
const xf = await Transformer.load(g.folder, { device });

const allocated = () => device.memory().allocated;

/** What is left when the collector finds nothing more, ten times. */
async function leastAllocated(): Promise<number> {
  let least = Infinity;
  let rounds = 0; // since it was last less
  await collectUntil(() => {
    rounds = allocated() < least ? 0 : rounds + 1;
    least = Math.min(least, allocated());
    return rounds === 10;
  });
  return least;
}

async function staysFlat(pass: () => Promise<void>): Promise<void> {
  for (let i = 0; i < 50; i++) await pass();
  await device.synchronize();
  const least = await leastAllocated();
  const before = process.memoryUsage().rss;
  for (let i = 0; i < 1000; i++) await pass();
  await device.synchronize();
  const left = await leastAllocated();
  assert.ok(left <= least, `${left} bytes, and ${least} before`);
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  assert.ok(grown < 48, `${grown.toFixed(1)} MiB more`);
}

function watching(throwing?: 'forward' | 'backward'): TransformerHooks {
  const fail = () => {
    throw new Error('on purpose');
  };
  const hooks = new TransformerHooks();
  hooks.mlp.preAct.appendBwd(() => {});
  hooks.attn.qkProbs.appendBwd(new AtLayers(0).append((gradient) => gradient.mul(2)));
  if (throwing === 'forward') hooks.resid.postLnF.appendFwd(fail);
  if (throwing === 'backward') hooks.resid.torso.postAttn.appendBwd(new AtLayers(0).append(fail));
  return hooks;
}

const lossOf = (logits: Parameters<typeof crossEntropy>[0]) => {
  using predictions = logits.slice(1, 0, -1);
  return crossEntropy(
    predictions,
    rows.map((row) => row.slice(1)),
  );
};

test('with a backward', () =>
  staysFlat(async () => {
    const { logits } = await xf.forward(rows, { hooks: watching(), grad: true });
    const loss = lossOf(logits);
    await loss.backward();
    loss.dispose();
    logits.dispose();
  }));

test('with the gradients of all parameters', () =>
  staysFlat(async () => {
    const { logits } = await xf.forward(rows, { grad: 'parameters' });
    const loss = lossOf(logits);
    for (const gradient of (await loss.backward()).values()) gradient.dispose();
    loss.dispose();
    logits.dispose();
  }));

test('without a backward: the record is disposed', () =>
  staysFlat(async () => {
    const { logits, record } = await xf.forward(rows, { hooks: watching(), grad: true });
    logits.dispose();
    record?.dispose();
  }));

test('without a backward: the record is left to the garbage collector', () =>
  staysFlat(async () => {
    const { logits } = await xf.forward(rows, { hooks: watching(), grad: 'parameters' });
    logits.dispose();
  }));

test('a forward hook throws', () =>
  staysFlat(async () => {
    const failed = await xf.forward(rows, { hooks: watching('forward'), grad: true }).catch((error: Error) => error);
    assert.match(String(failed), /on purpose/);
  }));

test('a backward hook throws', () =>
  staysFlat(async () => {
    const { logits } = await xf.forward(rows, { hooks: watching('backward'), grad: true });
    const loss = lossOf(logits);
    const failed = await loss.backward({ retain: true }).catch((error: Error) => error);
    assert.match(String(failed), /on purpose/);
    loss.dispose();
    logits.dispose();
  }));

test.run();
