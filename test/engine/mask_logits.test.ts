// Attention in steps (logits, mask, softmax, mix) against loops in doubles.
import { maskLogits } from '../../src/engine/ops/mask_logits.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
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

test('wrong shapes are refused', () => {
  throws(() => maskLogits(Tensor.zeros([2, 2])), RangeError, /maskLogits: logits must be/);
});

test.run();
