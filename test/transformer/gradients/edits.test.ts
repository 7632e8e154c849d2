// Edits of gradients, at every point and inside autoencoders. Oracle: the original in PyTorch
// (test/fixtures/gradient_edits).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import { packageRoot } from '../../../src/engine/native.js';
import { crossEntropy } from '../../../src/engine/ops/cross_entropy.js';
import type { Tensor } from '../../../src/engine/ops/tensor.js';
import { AtLayers, AutoencoderHooks, TransformerHooks } from '../../../src/transformer/hooks.js';
import { finalPoints, firstPoint, layerPoints } from '../../../src/transformer/location.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { relativeError } from '../../support/close.js';
import { openGolden } from '../../support/goldens.js';
import { suite } from '../../support/harness.js';

const test = suite('edits of gradients');

// the original has no point for the output of each head
const points = [firstPoint, ...layerPoints, ...finalPoints].filter((point) => point !== 'attn.head_out');
const fixture = join(packageRoot, 'test', 'fixtures', 'gradient_edits', 'gradients.json');
const expected: Record<string, number[]> = JSON.parse(readFileSync(fixture, 'utf8'));
const compared = new Set<string>();

const g = await openGolden('tiny');
const rows = g.rows('tokens');
const xf = await Transformer.load(g.folder);

/** The norm and some elements, as the fixture has them. */
function sample(values: ArrayLike<number>): number[] {
  const all = Array.from(values);
  const step = Math.floor(all.length / 20) | 1;
  return [Math.hypot(...all), ...all.filter((_, i) => i % step === 0)];
}

function agrees(key: string, values: ArrayLike<number>, how: string): void {
  const error = relativeError(sample(values), expected[key] ?? []);
  assert.ok(error < 1e-5, `${key}, ${how}: relative error ${error}`);
  compared.add(key);
}

async function goBack(hooks: TransformerHooks): Promise<void> {
  const { logits, kvCaches } = await xf.forward(rows, { hooks, grad: true });
  kvCaches.dispose();
  using owned = logits;
  using loss = crossEntropy(
    owned.slice(1, 0, -1),
    rows.map((row) => row.slice(1)),
  );
  await loss.backward();
}

/** With one kernel for each section, or in steps throughout. */
const ways: Record<string, (hooks: TransformerHooks) => void> = {
  fused: () => {},
  'in steps': (hooks) => {
    for (const point of points) hooks.appendToPath(`${point}.fwd`, () => {});
  },
};

const edits: Record<string, (x: Tensor) => Tensor | undefined | Promise<Tensor>> = {
  returned: (x) => x.mul(2).add_(0.001),
  'in place': (x) => {
    x.mul_(2).add_(0.001);
    return undefined;
  },
  'later, as a view': async (x) => {
    await new Promise((resolve) => setImmediate(resolve));
    return x
      .mul_(2)
      .add(0.001)
      .permute([...x.shape.keys()].reverse())
      .permute([...x.shape.keys()].reverse());
  },
};

for (const [way, prepare] of Object.entries(ways)) {
  test(`twice the gradient and a little more, at each point: ${way}`, async () => {
    for (const [i, point] of points.entries()) {
      const names = way === 'fused' ? Object.keys(edits) : [Object.keys(edits)[i % 3] as string];
      for (const name of names) {
        const hooks = new TransformerHooks();
        prepare(hooks);
        const edit = edits[name] as (x: Tensor) => Tensor;
        const layered = (layerPoints as readonly string[]).includes(point);
        hooks.appendToPath(`${point}.bwd`, layered ? new AtLayers(1).append(edit) : edit);
        let seen: Promise<ArrayLike<number>> | undefined;
        hooks.resid.postEmb.appendBwd((gradient) => {
          seen = gradient.read();
        });
        await goBack(hooks);
        agrees(`edit/${point}`, await (seen as unknown as Promise<ArrayLike<number>>), `${way}, ${name}`);
      }
    }
  });
}

test('inside an autoencoder of each kind, with the error added and without', async () => {
  for (const kind of ['relu', 'topk', 'identity', 'tied']) {
    using ae = await Autoencoder.load(join(g.folder, `ae_${kind}.pt`));
    for (const addError of [true, false]) {
      const key = `autoencoder/${kind}/${addError ? 'with' : 'without'} error`;
      const seen = new Map<string, Promise<ArrayLike<number>>>();
      const note = (name: string) => (gradient: Tensor) => {
        seen.set(`${key}/${name}`, gradient.read());
      };
      const inside = new AutoencoderHooks({ encode: (x) => ae.encode(x), decode: (l) => ae.decode(l), addError });
      inside.latents
        .appendFwd((latents) => {
          latents.select(-1, 3).fill(0);
        })
        .appendBwd((gradient) => gradient.mul(2))
        .appendBwd(note('latents'));
      inside.reconstruction.appendBwd(note('reconstruction'));
      inside.error.appendBwd(note('error'));
      const hooks = new TransformerHooks();
      hooks.mlp.postAct.appendFwd(new AtLayers(1).append(inside));
      hooks.mlp.preAct.appendBwd(new AtLayers(1).append(note('1.mlp.pre_act')));
      await goBack(hooks);
      // without the error added, the loss does not depend on it
      assert.is(seen.has(`${key}/error`), addError);
      for (const [name, value] of seen) agrees(name, await value, 'autoencoder');
    }
  }
});

test('nothing of the fixture was left out', () => assert.equal([...compared].sort(), Object.keys(expected).sort()));

test.run();
