// A thousand recorded passes of each kind leave memory where it was after 50. Oracle: the device's own account, and the
// resident size of the process.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as assert from 'uvu/assert';
import { openDevice } from '../../../src/engine/device.js';
import { crossEntropy } from '../../../src/engine/ops/cross_entropy.js';
import { AtLayers, TransformerHooks } from '../../../src/transformer/hooks.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { openGolden } from '../../support/goldens.js';
import { suite } from '../../support/harness.js';

const test = suite('memory of recorded passes');
test.limit(120_000);

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

const g = await openGolden('narrow-attn');
const rows = g.rows('tokens');
const device = openDevice('cpu');
const xf = await Transformer.load(g.folder, { device });

async function measured(): Promise<{ allocated: number; resident: number }> {
  await device.synchronize();
  for (let i = 0; i < 3; i++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve)); // finalizers run between two turns
  }
  return { allocated: device.memory().allocated, resident: process.memoryUsage().rss };
}

async function staysFlat(pass: () => Promise<void>): Promise<void> {
  for (let i = 0; i < 50; i++) await pass();
  const before = await measured();
  for (let i = 0; i < 1000; i++) await pass();
  const after = await measured();
  assert.is(after.allocated, before.allocated);
  const grown = (after.resident - before.resident) / 2 ** 20;
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
