// The output of each head. Oracles: delta_attn, the projection's weight in double precision, edits of the mix of values,
// and the gradient of delta_attn.
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import { openDevice } from '../../src/engine/device.js';
import type { DType } from '../../src/engine/dtype.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { disposeAll } from '../../src/engine/scope.js';
import { appendAt } from '../../src/transformer/hook_places.js';
import { AtLayers, type HookFunction, TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, formatLocation, layerPoints } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close, relativeError } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { goldenNames, openGolden } from '../support/goldens.js';
import { suite } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('output of heads');
const rng = random(22);
const g = await openGolden('tiny');
const device = testDevice();
const rows = g.rows('tokens');
const dtypes = ['float32', 'bfloat16', 'float16'] as const;
/** Half a unit in the last place, relative: what delta_attn is rounded to. */
const rounding: Partial<Record<DType, number>> = { float32: 0, bfloat16: 2 ** -8, float16: 2 ** -11 };

const everywhere = (layers: number): string[] => [
  firstPoint.replaceAll('.', '/'),
  ...Array.from({ length: layers }, (_, layer) => layerPoints.map((point) => formatLocation({ point, layer }))).flat(),
  ...finalPoints.map((point) => formatLocation({ point })),
];

/** Demands that the heads and the bias make delta_attn, but for its own rounding. */
async function addUp(xf: Transformer, layer: number, heads: Tensor, delta: Tensor, label: string): Promise<void> {
  const { nHeads, dModel } = xf.config;
  assert.is(heads.dtype, 'float32', label);
  assert.equal(heads.shape, [...delta.shape.slice(0, 2), nHeads, dModel], label);
  using bias = xf.weight(`xf_layers.${layer}.attn.out_proj.bias`);
  const [each, sum, added] = [await heads.read(), await delta.read(), await bias.read()];
  const total = Float64Array.from(sum, (_, i) => {
    const [row, column] = [Math.floor(i / dModel), i % dModel];
    let all = added[column] as number;
    for (let head = 0; head < nHeads; head++) all += each[(row * nHeads + head) * dModel + column] as number;
    return all;
  });
  close(total, sum, { atol: 1e-5, rtol: rounding[xf.dtype] as number, label });
}

for (const dtype of dtypes) {
  test(
    `${dtype}: their sum is delta_attn without the bias, whatever else is watched, and however`,
    async () => {
      for (const name of emulated() ? ['tiny'] : [...goldenNames, 'demo']) {
        const golden = name === 'demo' ? undefined : await openGolden(name);
        using xf = await Transformer.load(golden?.folder ?? name, { device, dtype });
        const { nLayers } = xf.config;
        const all = everywhere(nLayers);
        const tokens = golden?.rows('tokens') ?? [
          [11, 262, 640, 1],
          [5, 5, 9, 2],
        ];
        const subsets: string[][] = emulated() ? [[], all] : [[], all, ...all.map((location) => [location])];
        for (let i = 0; i < (emulated() ? 2 : 30); i++) {
          const part = rng.next();
          subsets.push(all.filter(() => rng.next() < part));
        }
        for (const watched of subsets) {
          const layer = rng.integer(0, nLayers);
          const [ofHeads, ofDelta] = [`${layer}/attn/head_out`, `${layer}/resid/delta_attn`];
          const label = `${name}, ${ofHeads}, with ${watched.length === all.length ? 'all' : watched}`;
          const watching = () => {
            const hooks = new TransformerHooks();
            for (const location of watched) appendAt(hooks, location, rng.pick(['fwd', 'fwd2']), () => {});
            return hooks;
          };
          // as locations
          const values = await xf.activations(tokens, [...watched, ofHeads, ofDelta]);
          await addUp(xf, layer, values.get(ofHeads) as Tensor, values.get(ofDelta) as Tensor, `${label} wanted`);
          disposeAll(...values.values());
          // as locations, where hooks watch others, perhaps the heads themselves
          const hooked = await xf.activations(tokens, [ofHeads, ofDelta], { hooks: watching() });
          await addUp(xf, layer, hooked.get(ofHeads) as Tensor, hooked.get(ofDelta) as Tensor, `${label} hooked`);
          disposeAll(...hooked.values());
          // by hooks
          const seen: Tensor[] = [];
          const keep: HookFunction = (x) => {
            seen.push(x.clone());
          };
          const hooks = watching();
          for (const location of [ofHeads, ofDelta]) appendAt(hooks, location, 'fwd', keep);
          (await xf.forward(tokens, { hooks })).logits.dispose();
          await addUp(xf, layer, seen[0] as Tensor, seen[1] as Tensor, `${label} kept by hooks`);
          disposeAll(...seen);
        }
      }
    },
    { limit: 240_000 },
  );
}

test('each is its mix times its columns of the projection', async () => {
  for (const dtype of dtypes) {
    using xf = await Transformer.load(g.folder, { device, dtype });
    const { nHeads, dModel } = xf.config;
    const values = await xf.activations(rows, ['1/attn/v_out', '1/attn/head_out']);
    using weight = xf.weight('xf_layers.1.attn.out_proj.weight'); // D A
    const [mixed, heads, w] = [
      await (values.get('1/attn/v_out') as Tensor).read(),
      await (values.get('1/attn/head_out') as Tensor).read(),
      await weight.read(),
    ];
    const A = weight.shape[1] as number;
    const C = A / nHeads;
    const expected = Float64Array.from(heads, (_, i) => {
      const [column, head, row] = [i % dModel, Math.floor(i / dModel) % nHeads, Math.floor(i / dModel / nHeads)];
      let sum = 0;
      for (let c = head * C; c < (head + 1) * C; c++) {
        sum += (mixed[row * A + c] as number) * (w[column * A + c] as number);
      }
      return sum;
    });
    close(heads, expected, { atol: 1e-6, rtol: 1e-5, label: dtype });
    disposeAll(...values.values());
  }
});

test('as locations they change no bit of anything else', async () => {
  for (const dtype of dtypes) {
    using xf = await Transformer.load(g.folder, { device, dtype });
    const others = everywhere(xf.config.nLayers).filter((location) => !location.endsWith('head_out'));
    for (const locations of [others, ['0/resid/delta_attn', '1/resid/post_attn', 'logits'], ['logits']]) {
      const without = await xf.activations(rows, locations);
      const beside = await xf.activations(rows, [...locations, '*/attn/head_out']);
      for (const [location, x] of without) {
        close(await (beside.get(location) as Tensor).read(), await x.read(), { label: `${dtype} ${location}` });
      }
      disposeAll(...without.values(), ...beside.values());
    }
  }
});

test('what hooks make of them is what attention adds', async () => {
  using xf = await Transformer.load(g.folder, { device });
  const clear = (head: number) => (x: Tensor) => {
    x.select(2, head).fill(0);
  };
  const edits: Record<string, (head: number) => HookFunction> = {
    'in place': clear,
    returned: (head) => async (x) => {
      const mine = x.clone();
      mine.select(2, head).fill(0);
      return mine;
    },
  };
  const valuesWith = async (location: string, hook: HookFunction) => {
    const hooks = new TransformerHooks();
    appendAt(hooks, location, 'fwd', hook);
    return xf.activations(rows, ['1/resid/delta_attn', '1/resid/post_attn', 'logits'], { hooks });
  };
  const plain = await valuesWith('0/attn/v_out', () => {});
  for (let head = 0; head < xf.config.nHeads; head++) {
    const expected = await valuesWith('1/attn/v_out', clear(head));
    for (const [how, edit] of Object.entries(edits)) {
      const got = await valuesWith('1/attn/head_out', edit(head));
      for (const [location, x] of got) {
        const wanted = await (expected.get(location) as Tensor).read();
        close(await x.read(), wanted, { rtol: 1e-5, atol: 1e-5, label: `${location}, ${how}` });
        assert.ok(relativeError(wanted, await (plain.get(location) as Tensor).read()) > 1e-4, 'the edit does nothing');
      }
      disposeAll(...got.values());
    }
    disposeAll(...expected.values());
  }
  disposeAll(...plain.values());
});

test('with padding and caches they are those of the tokens of the pass', async () => {
  using xf = await Transformer.load(g.folder, { device });
  const { tokens, pad } = prepInputAndPad(g.json.prompts, 'left', device);
  const seen: Tensor[] = [];
  const hooks = new TransformerHooks();
  hooks.attn.headOut.appendFwd(
    new AtLayers(1).append((x, { positions }) => {
      assert.equal(positions.shape, x.shape.slice(0, 2));
      seen.push(x.clone());
    }),
  );
  hooks.resid.torso.deltaAttn.appendFwd(
    new AtLayers(1).append((x) => {
      seen.push(x.clone());
    }),
  );
  const { logits, kvCaches } = await xf.forward(tokens, { pad, hooks });
  (
    await xf.forward(
      g.json.prompts.map((_: unknown, row: number) => [row, 7]),
      { kvCaches, hooks },
    )
  ).logits.dispose();
  assert.is(seen.length, 4);
  await addUp(xf, 1, seen[0] as Tensor, seen[1] as Tensor, 'padded');
  await addUp(xf, 1, seen[2] as Tensor, seen[3] as Tensor, 'behind caches');
  disposeAll(logits, kvCaches, tokens, pad, ...seen);
});

test('the gradient at each head is that of delta_attn, and edits of it reach the mix of values alone', async () => {
  using xf = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const { nHeads } = xf.config;
  const at = ['1/attn/v_out', '1/attn/head_out', '1/resid/delta_attn'];
  const of = ({ logits }: { logits: Tensor }) => logits.mul(logits).mean();
  const { values, gradients } = await xf.gradients(rows, { at, of });
  const [ofMix, ofHeads, ofDelta] = at.map((location) => gradients.get(location) as Tensor) as [Tensor, Tensor, Tensor];
  const delta = await ofDelta.read();
  for (let head = 0; head < nHeads; head++)
    close(await ofHeads.select(2, head).read(), delta, { label: `head ${head}` });

  for (const opened of [undefined, 'attn.head_out', 'resid.torso.delta_attn']) {
    const seen: Tensor[] = [];
    const hooks = new TransformerHooks();
    if (opened)
      hooks.appendToPath(
        `${opened}.fwd`,
        new AtLayers(1).append(() => {}),
      );
    hooks.attn.headOut.appendBwd(
      new AtLayers(1).append((gradient) => {
        gradient.select(2, 0).mul_(3);
      }),
    );
    hooks.attn.vOut.appendBwd(
      new AtLayers(1).append((gradient) => {
        seen.push(gradient.clone());
      }),
    );
    const { logits } = await xf.forward(rows, { hooks, grad: true });
    await of({ logits }).backward();
    const [edited] = seen as [Tensor];
    for (let head = 0; head < nHeads; head++) {
      using plain = ofMix.select(2, head).mul(head === 0 ? 3 : 1);
      const label = `v_out of head ${head}, with a forward hook at ${opened}`;
      const error = relativeError(await edited.select(2, head).read(), await plain.read());
      assert.ok(error < 1e-5, `${label}: ${error}`);
    }
    disposeAll(logits, edited);
  }
  disposeAll(...values.values(), ...gradients.values());
});

test('gradients of parameters are the same with hooks at them', async () => {
  using xf = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const gradientsWith = async (prepare: (hooks: TransformerHooks) => unknown) => {
    const hooks = new TransformerHooks();
    prepare(hooks);
    const { logits } = await xf.forward(rows, { hooks, grad: 'parameters' });
    const gradients = await logits.mul(logits).mean().backward();
    logits.dispose();
    return gradients;
  };
  const plain = await gradientsWith(() => {});
  for (const list of ['appendFwd', 'appendBwd', 'appendFwd2'] as const) {
    const watched = await gradientsWith((hooks) => hooks.attn.headOut[list](() => {}));
    for (const [name, gradient] of watched) {
      if (name.endsWith('attn.k_proj.bias')) continue; // 0 but for rounding
      const error = relativeError(await gradient.read(), await (plain.get(name) as Tensor).read());
      assert.ok(error < 1e-5, `${list}, ${name}: ${error}`);
    }
    disposeAll(...watched.values());
  }
  disposeAll(...plain.values());
});

test('a dump holds them', async () => {
  using xf = await Transformer.load('demo', { device });
  const { nHeads, dModel } = xf.config;
  const tokens = [11, 262, 640, 1, 5, 5, 9, 2];
  await withFolder(async (out) => {
    const options = { context: 4, dtype: 'float32', out } as const;
    const corpus = (async function* () {
      yield tokens;
    })();
    await dump({ model: xf, corpus, locations: ['2/attn/head_out'], ...options });
    await using made = await openDump(out);
    const { data, shape } = await made.rows('2/attn/head_out', 0, 2);
    assert.equal(shape, [2, 4, nHeads, dModel]);
    const expected = await xf.activations([tokens.slice(0, 4), tokens.slice(4)], ['2/attn/head_out']);
    const heads = expected.get('2/attn/head_out') as Tensor;
    close(data, await heads.read());
    heads.dispose();
    assert.equal(await made.verify(), []);
  });
});

test.run();
