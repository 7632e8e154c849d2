// Logits at chosen positions. Oracle: the logits of all positions, bit for bit.
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { disposeAll } from '../../src/engine/scope.js';
import { atPositions } from '../../src/transformer/at_positions.js';
import { appendAt } from '../../src/transformer/hook_places.js';
import { TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, formatLocation, layerPoints } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close, relativeError } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { openGolden } from '../support/goldens.js';
import { rejects, suite } from '../support/harness.js';
import { random } from '../support/random.js';

type LogitsAt = 'last' | readonly (readonly number[])[];

const test = suite('logits at chosen positions');
const rng = random(5);
const g = await openGolden('tiny');
const device = testDevice();
const xf = await Transformer.load(g.folder, { device });
const V = xf.nVocab;
const rows = g.rows('tokens');
const seq = (rows[0] as number[]).length;
const all = [
  formatLocation({ point: firstPoint }),
  ...[0, 1, 2].flatMap((layer) => layerPoints.map((point) => formatLocation({ point, layer }))),
  ...finalPoints.map((point) => formatLocation({ point })),
];

/** The columns of `whole` [batch, columns, vocabulary], row by row. */
async function picked(whole: Tensor, columns: readonly (readonly number[])[]): Promise<number[]> {
  const values = await whole.read();
  const width = whole.shape[1] as number;
  return columns.flatMap((list, row) =>
    list.flatMap((column) => Array.from(values.slice((row * width + column) * V, (row * width + column + 1) * V))),
  );
}

/** Lists for each row, of equal length, with positions in any order and several times. */
const lists = (count: number) => rows.map(() => Array.from({ length: count }, () => rng.integer(0, seq)));

test('the bits of all positions, whatever is asked for, with whatever hooks', async () => {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    using model = await Transformer.load(g.folder, { device, dtype });
    const asked: LogitsAt[] = ['last', lists(1), lists(3), lists(seq), rows.map(() => [-1]), rows.map(() => [0, -seq])];
    asked.push(rows.map(() => Array.from({ length: seq }, (_, i) => i)));
    asked.push(rows.map(() => Array.from({ length: seq }, (_, i) => seq - 1 - i)));
    asked.push(rows.map(() => []));
    for (const [i, logitsAt] of asked.entries()) {
      const watched = i === 0 ? [] : all.filter(() => rng.next() < 0.1 * i);
      const hooks = new TransformerHooks();
      const seen = new Map<string, Tensor[]>();
      for (const location of watched) {
        appendAt(hooks, location, rng.pick(['fwd', 'fwd2']), (x) => {
          seen.set(location, [...(seen.get(location) ?? []), x.clone()]);
        });
      }
      const whole = await model.forward(rows, { hooks });
      const some = await model.forward(rows, { hooks, logitsAt });
      const columns =
        logitsAt === 'last' ? rows.map(() => [seq - 1]) : logitsAt.map((l) => l.map((p) => (p + seq) % seq));
      const label = `${dtype}, ${JSON.stringify(logitsAt)}, with hooks at ${watched}`;
      assert.equal(some.logits.shape, [rows.length, (columns[0] as number[]).length, V], label);
      close(await some.logits.read(), await picked(whole.logits, columns), { label });
      for (const [location, [before, after]] of seen as Map<string, [Tensor, Tensor]>) {
        if (location !== 'logits') close(await after.read(), await before.read(), { label: `${label}: ${location}` });
        else close(await after.read(), await picked(before, columns), { label: `${label}: ${location}` });
        disposeAll(before, after);
      }
      disposeAll(whole.logits, whole.kvCaches, some.logits, some.kvCaches);
    }
  }
});

test('the caches are those of all positions', async () => {
  const whole = await xf.forward(rows);
  const some = await xf.forward(rows, { logitsAt: 'last' });
  for (let layer = 0; layer < xf.config.nLayers; layer++) {
    close(await some.kvCaches.keys(layer).read(), await whole.kvCaches.keys(layer).read());
    close(await some.kvCaches.values(layer).read(), await whole.kvCaches.values(layer).read());
  }
  const next = rows.map(() => [3, 1, 4]);
  const after = await xf.forward(next, { kvCaches: whole.kvCaches });
  const chosen = rows.map(() => [seq + 1, -1]);
  const last = await xf.forward(next, { kvCaches: some.kvCaches, logitsAt: chosen });
  close(
    await last.logits.read(),
    await picked(
      after.logits,
      rows.map(() => [1, 2]),
    ),
  );
  const { message } = await rejects(
    xf.forward(
      rows.map(() => [1]),
      { kvCaches: some.kvCaches, logitsAt: rows.map((_, row) => [row === 1 ? 5 : -1]) },
    ),
    RangeError,
    /./,
  );
  assert.is(
    message,
    `forward: logitsAt[1][0] must be from ${seq + 3} to ${seq + 3}, as kvCaches hold those before, but is 5`,
  );
  disposeAll(whole.logits, some.logits, after.logits, last.logits, whole.kvCaches, some.kvCaches);
});

test('padding: positions are those of the tokens, and the last one is the last token', async () => {
  const prompts = [
    [5, 6, 7, 8, 9],
    [1, 2],
    [3, 4, 5],
  ];
  for (const side of ['left', 'right'] as const) {
    const { tokens, pad } = prepInputAndPad(prompts, side, device);
    const whole = await xf.forward(tokens, { pad });
    const column = (row: number, position: number) =>
      side === 'right' ? position : 5 - (prompts[row] as number[]).length + position;
    const last = await xf.forward(tokens, { pad, logitsAt: 'last' });
    close(await last.logits.read(), await picked(whole.logits, [[column(0, 4)], [column(1, 1)], [column(2, 2)]]), {
      label: side,
    });
    const some = await xf.forward(tokens, {
      pad,
      logitsAt: [
        [3, 0],
        [-1, -2],
        [2, 0],
      ],
    });
    const expected = [
      [column(0, 3), column(0, 0)],
      [column(1, 1), column(1, 0)],
      [column(2, 2), column(2, 0)],
    ];
    close(await some.logits.read(), await picked(whole.logits, expected), { label: side });
    await rejects(
      xf.forward(tokens, { pad, logitsAt: [[0], [2], [0]] }),
      RangeError,
      /^forward: logitsAt\[1\]\[0\] must be an integer from -2 to 1, but is 2$/,
    );
    disposeAll(tokens, pad, whole.logits, last.logits, some.logits);
  }
});

test('a row of nothing but padding has its last column last, and no positions', async () => {
  const options = {
    pad: [
      [0, 0],
      [1, 1],
    ],
  };
  const whole = await xf.forward(
    [
      [1, 2],
      [3, 4],
    ],
    options,
  );
  const last = await xf.forward(
    [
      [1, 2],
      [3, 4],
    ],
    { ...options, logitsAt: 'last' },
  );
  close(await last.logits.read(), await picked(whole.logits, [[1], [1]]));
  const none = await xf.forward(
    [
      [1, 2],
      [3, 4],
    ],
    { ...options, logitsAt: [[], []] },
  );
  assert.equal(none.logits.shape, [2, 0, V]);
  const message =
    /^forward: logitsAt\[1\] must be empty, as row 1 has nothing but padding, but is an array of length 1$/;
  await rejects(
    xf.forward(
      [
        [1, 2],
        [3, 4],
      ],
      { ...options, logitsAt: [[0], [0]] },
    ),
    RangeError,
    message,
  );
  disposeAll(whole.logits, last.logits, none.logits);
});

test('hooks at the logits see the chosen positions, and learn which; those before see all', async () => {
  const logitsAt = rows.map((_, row) => [4, row, 4]);
  const positions: number[][] = [];
  const hooks = new TransformerHooks();
  hooks.resid.lnF.postScale.appendFwd(async (x, context) => {
    assert.equal(context.positions.shape, x.shape.slice(0, 2));
    assert.is(x.shape[1], seq);
  });
  hooks.logits.appendFwd(async (x, context) => {
    assert.equal(context.positions.shape, x.shape.slice(0, 2));
    positions.push(Array.from(await context.positions.read()));
  });
  hooks.logits.appendFwd2(atPositions(4, (x) => x.add_(1)));
  const whole = await xf.forward(rows, { hooks });
  const some = await xf.forward(rows, { hooks, logitsAt });
  assert.equal(positions[1], logitsAt.flat());
  close(await some.logits.read(), await picked(whole.logits, logitsAt));
  const plain = await xf.forward(rows, { logitsAt });
  using difference = some.logits.sub(plain.logits).mean(2);
  close(
    await difference.read(),
    logitsAt.flat().map((position) => Number(position === 4)),
    { atol: 1e-5 },
  );
  disposeAll(whole.logits, some.logits, plain.logits);
});

test('sample() computes the logits of the last position, and hooks there see all of a prompt', async () => {
  const shapes: string[] = [];
  const hooks = new TransformerHooks();
  hooks.logits.appendFwd((x, { positions }) => {
    shapes.push(`${x.shape} ${positions.shape}`);
  });
  const plain = await xf.sample(rows, { numTokens: 2, temperature: 0 });
  assert.equal(await xf.sample(rows, { numTokens: 2, temperature: 0, hooks }), plain);
  const batch = rows.length;
  assert.equal(shapes, [`${batch},${seq},${V} ${batch},${seq}`, `${batch},1,${V} ${batch},1`]);
});

test('a hook that is appended during the pass learns the positions that it sees', async () => {
  const seen: string[] = [];
  const hooks = new TransformerHooks();
  hooks.resid.postEmb.appendFwd(() => {
    for (const point of ['resid.torso.post_mlp', 'resid.post_ln_f']) {
      hooks.appendToPath(`${point}.fwd`, async (x, { layer, positions }) => {
        seen.push(`${layer} ${x.shape.slice(0, 2)} ${positions.shape} ${(await positions.read())[0]}`);
      });
    }
  });
  (await xf.forward(rows, { hooks, logitsAt: 'last' })).logits.dispose();
  const [all, one] = [`${rows.length},${seq}`, `${rows.length},1`];
  const last = `${one} ${one} ${seq - 1}`;
  assert.equal(seen, [`0 ${all} ${all} 0`, `1 ${all} ${all} 0`, `2 ${last}`, `undefined ${last}`]);
});

test('a backward hook at the logits learns the chosen positions', async () => {
  const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const seen: number[] = [];
  const hooks = new TransformerHooks();
  hooks.logits.appendBwd(async (gradient, { positions }) => {
    assert.equal(positions.shape, gradient.shape.slice(0, 2));
    seen.push(...(await positions.read()));
  });
  const { logits } = await onCpu.forward(rows, { hooks, grad: true, logitsAt: rows.map(() => [3, 1]) });
  await logits.mean().backward();
  assert.equal(
    seen,
    rows.flatMap(() => [3, 1]),
  );
  logits.dispose();
  onCpu.dispose();
});

test('activations() gives the same', async () => {
  const whole = await xf.forward(rows);
  const names = ['1/resid/post_mlp', 'resid/post_ln_f', 'logits'];
  for (const locations of [names, ['logits'], ['1/attn/v_out', 'logits'], ['1/attn/head_out', 'logits']]) {
    const without = await xf.activations(rows, locations);
    const values = await xf.activations(rows, locations, { logitsAt: 'last' });
    for (const [location, x] of values) {
      const all = without.get(location) as Tensor;
      if (location === 'logits')
        close(
          await x.read(),
          await picked(
            whole.logits,
            rows.map(() => [seq - 1]),
          ),
        );
      else close(await x.read(), await all.read(), { label: location });
    }
    disposeAll(...without.values(), ...values.values());
  }
  whole.logits.dispose();
});

test(
  'gradients at every point, and of parameters, are those of the loss at these positions alone',
  async () => {
    const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
    const targets = rows.map(() => [2]);
    const options = { reduction: 'sum' } as const;
    const at = (logits: Tensor) => logits.slice(1, seq - 1);
    // a hook at one point at a time decides where the positions are chosen; all of them at once
    const cases = [[], ...all.map((location) => [location]), all].map((locations) => ({ locations, opened: false }));
    // the last update of the stream is then added by the final layer norm
    cases.push({ locations: ['2/resid/post_mlp'], opened: true }, { locations: all, opened: true });
    for (const { locations, opened } of cases) {
      const seen: Map<string, Float32Array>[] = [new Map(), new Map()];
      const parameters: Map<string, Tensor>[] = [];
      for (const [i, logitsAt] of [undefined, 'last' as const].entries()) {
        const hooks = new TransformerHooks();
        if (opened) hooks.resid.torso.deltaMlp.appendFwd(() => {});
        for (const location of locations) {
          appendAt(hooks, location, 'bwd', async (gradient) => {
            seen[i]?.set(location, Float32Array.from(await gradient.read()));
          });
        }
        const how = { hooks, grad: 'parameters' as const, ...(logitsAt && { logitsAt }) };
        const { logits, kvCaches } = await onCpu.forward(rows, how);
        parameters.push(await crossEntropy(logitsAt ? logits : at(logits), targets, options).backward());
        disposeAll(logits, kvCaches);
      }
      const [whole, some] = seen as [Map<string, Float32Array>, Map<string, Float32Array>];
      assert.is(some.size, locations.length);
      for (const [location, gradient] of some) {
        const full = whole.get(location) as Float32Array;
        const expected =
          location === 'logits'
            ? rows.flatMap((_, r) => Array.from(full.slice(((r + 1) * seq - 1) * V, (r + 1) * seq * V)))
            : full;
        const error = relativeError(gradient, expected);
        assert.ok(error < 1e-5, `${location}, with hooks at ${locations}: ${error}`);
      }
      const [full, chosen] = parameters as [Map<string, Tensor>, Map<string, Tensor>];
      for (const [name, gradient] of chosen) {
        if (name.endsWith('attn.k_proj.bias')) continue; // 0 but for rounding
        const error = relativeError(await gradient.read(), await (full.get(name) as Tensor).read());
        assert.ok(error < 1e-5, `${name}, with hooks at ${locations}: ${error}`);
      }
      disposeAll(...full.values(), ...chosen.values());
    }
    const of = ({ logits }: { logits: Tensor }) => crossEntropy(logits, targets, options);
    const whole = await onCpu.gradients(rows, {
      at: ['0/mlp/post_act'],
      of: ({ logits }) => of({ logits: at(logits) }),
    });
    const some = await onCpu.gradients(rows, { at: ['0/mlp/post_act'], of, logitsAt: 'last' });
    for (const [location, gradient] of some.gradients) {
      const error = relativeError(await gradient.read(), await (whole.gradients.get(location) as Tensor).read());
      assert.ok(error < 1e-5, `${location}: ${error}`);
    }
    disposeAll(
      ...whole.values.values(),
      ...whole.gradients.values(),
      ...some.values.values(),
      ...some.gradients.values(),
    );
    onCpu.dispose();
  },
  { limit: 180_000 },
);

test('recorded, the bits are the same', async () => {
  const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const logitsAt = lists(2);
  const plain = await onCpu.forward(rows, { logitsAt });
  const points = [undefined, 'attn.head_out', 'resid.torso.post_mlp', 'resid.ln_f.scale', 'logits'];
  for (const point of points) {
    const hooks = new TransformerHooks();
    if (point) hooks.appendToPath(`${point}.bwd`, () => {});
    const recorded = await onCpu.forward(rows, { logitsAt, hooks, grad: true });
    close(await recorded.logits.read(), await plain.logits.read(), { label: String(point) });
    recorded.record?.dispose();
    recorded.logits.dispose();
  }
  plain.logits.dispose();
  onCpu.dispose();
});

test('what is no choice of positions is refused, and nothing is left behind', async () => {
  const before = device.memory().allocated;
  const good = rows.map(() => [0]);
  const bad: [unknown, string][] = [
    ['first', `logitsAt must be 'last', or an array of positions for each row, ${rows.length} in all, but is 'first'`],
    [3, `logitsAt must be 'last', or an array of positions for each row, ${rows.length} in all, but is 3`],
    [null, `logitsAt must be 'last', or an array of positions for each row, ${rows.length} in all, but is null`],
    [
      [[0]],
      `logitsAt must be 'last', or an array of positions for each row, ${rows.length} in all, but is an array of length 1`,
    ],
    [[0, ...good.slice(1)], 'logitsAt[0] must be an array of positions, but is 0'],
    [[[0, 1], ...good.slice(1)], 'logitsAt[1] must be as long as logitsAt[0], 2, but is of 1'],
    [[[seq], ...good.slice(1)], `logitsAt[0][0] must be an integer from -${seq} to ${seq - 1}, but is ${seq}`],
    [
      [[-seq - 1], ...good.slice(1)],
      `logitsAt[0][0] must be an integer from -${seq} to ${seq - 1}, but is ${-seq - 1}`,
    ],
    [[[0.5], ...good.slice(1)], `logitsAt[0][0] must be an integer from -${seq} to ${seq - 1}, but is 0.5`],
    [[['0'], ...good.slice(1)], `logitsAt[0][0] must be an integer from -${seq} to ${seq - 1}, but is '0'`],
  ];
  for (const [logitsAt, message] of bad) {
    const options = { logitsAt: logitsAt as LogitsAt };
    assert.is((await rejects(xf.forward(rows, options), Error, /./)).message, `forward: ${message}`);
    const failed = await rejects(xf.activations(rows, ['logits'], options), Error, /./);
    assert.is(failed.message, `activations: ${message}`);
  }
  assert.is(device.memory().allocated, before);
});

if (!emulated()) {
  test('long sequences and large vocabularies: the demo model', async () => {
    using demo = await Transformer.load('demo', { device });
    const tokens = [0, 1, 2].map(() => Array.from({ length: 77 }, () => rng.integer(0, demo.nVocab)));
    const whole = await demo.forward(tokens);
    const logitsAt = tokens.map(() => [rng.integer(0, 77), rng.integer(0, 77)]);
    const some = await demo.forward(tokens, { logitsAt });
    for (const [row, list] of logitsAt.entries()) {
      for (const [i, position] of list.entries()) {
        const expected = await whole.logits.select(0, row).select(0, position).read();
        close(await some.logits.select(0, row).select(0, i).read(), expected);
      }
    }
    disposeAll(whole.logits, some.logits);
  });
}

test.run();
