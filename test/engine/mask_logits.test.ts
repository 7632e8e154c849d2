// Attention in steps (logits, mask, softmax, mix) against loops in doubles.
import { maskLogits } from '../../src/engine/ops/mask_logits.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { onCpu } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { attentionCase } from '../support/operations/attention.js';
import { cases } from '../support/operations/cases.js';

const test = suite('mask_logits');

test(
  '200 random shapes, layouts and masks, in float32',
  async () => {
    await cases(200, async (c) => {
      const { q, k, v, options, expected } = await attentionCase(c);
      const wide = (t: Tensor) => c.own(t.to('float32'));
      const scaled = c.own(wide(q.t).mul(options.scale));
      const logits = c.own(matmul(scaled.permute([0, 2, 1, 3]), wide(k.t).permute([0, 2, 3, 1])));
      const { causal, pad } = options;
      maskLogits(logits, { causal, ...(pad && { pad }) });
      const probs = c.own(softmax(logits));
      const mixed = c.own(matmul(probs, wide(v.t).permute([0, 2, 1, 3])));
      close(await c.own(mixed.permute([0, 2, 1, 3]).clone()).read(), expected.out, { rtol: 1e-5, atol: 2e-5 });
    });
  },
  { limit: 120_000 },
);

// matmul adds up 768 keys at a time
if (onCpu) {
  test('attention in steps of a row that is padded on the left: float32 has the bits of the row alone', async () => {
    await cases(60, async ({ seed, rng, device, own }) => {
      const [pad, keys, D] = [rng.integer(0, 51), rng.integer(1, 201), 8];
      const width = pad + keys;
      const random = (part: number) => own(Tensor.randn([1, 2, width, D], { seed: seed * 4 + part, device }));
      const [q, k, v] = [random(0), random(1), random(2)];
      const flags = Uint8Array.from({ length: width }, (_, at) => Number(at < pad));
      const steps = (from: number, options: { pad?: Tensor }) => {
        const part = (t: Tensor) => t.slice(2, from);
        const logits = own(matmul(part(q), part(k), { transposeB: true }));
        const probs = own(softmax(maskLogits(logits, options)));
        return own(
          own(matmul(probs, part(v)))
            .slice(2, pad - from)
            .clone(),
        );
      };
      const padded = steps(0, { pad: own(Tensor.from(flags, { shape: [1, width], device })) });
      close(await padded.read(), await steps(pad, {}).read(), { label: `${keys} keys after ${pad}` });
    });
  });
}

test('wrong shapes are refused', () => {
  throws(() => maskLogits(Tensor.zeros([2, 2])), RangeError, /maskLogits: logits must be/);
});

test.run();
