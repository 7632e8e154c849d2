// Oracle: sizes and limits worked out by hand.
import * as assert from 'uvu/assert';
import { shardTensors } from '../../../src/dump/format/layout.js';
import { describePlan, type PlanRequest, planDump } from '../../../src/dump/shards/dump_plan.js';
import { showBytes } from '../../../src/files/text.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('dump plan');

async function request(changes: Partial<PlanRequest> = {}): Promise<PlanRequest> {
  const { config, nVocab } = await Transformer.load('demo');
  return {
    model: { name: 'demo', digest: 'd1', dtype: 'float32', vocabulary: nVocab, config },
    corpus: [{ kind: 'text', name: 'a.txt', bytes: 1000 }],
    dense: ['1/mlp/post_act'],
    autoencoders: [{ location: '2/resid/delta_mlp', name: 'ae', digest: 'd2', latents: 512, threshold: 0 }],
    device: 'cpu',
    ...changes,
  };
}

test('defaults: rows of 128 tokens, 16 at a time, shards of 2^20 tokens, float16', async () => {
  const plan = planDump(await request());
  assert.is(plan.settings.context, 128);
  assert.is(plan.batch, 16);
  assert.is(plan.rowsPerShard, 8192);
  assert.is(plan.settings.dtype, 'float16');
  assert.is(plan.fullContext, false);
  assert.equal(plan.settings.locations, [{ location: '1/mlp/post_act', shape: [128, 256] }]);
  assert.equal(plan.settings.part, { index: 0, count: 1 });
});

test('a batch is no larger than a shard, and a shard has one row at least', async () => {
  const plan = planDump(await request({ shardTokens: 5, context: 64 }));
  assert.is(plan.rowsPerShard, 1);
  assert.is(plan.batch, 1);
});

test('locations with keys take the whole context', async () => {
  const plan = planDump(await request({ dense: ['0/attn/qk_probs'], context: 32 }));
  assert.is(plan.fullContext, true);
  assert.equal(plan.settings.locations[0]?.shape.slice(0, 2), [32, 32]);
});

test('wide locations make smaller batches', async () => {
  const plan = planDump(
    await request({ model: { ...(await request()).model, vocabulary: 2 ** 21 }, dense: ['logits'] }),
  );
  assert.is(plan.batch, 1);
});

test('options out of range are refused', async () => {
  const base = await request();
  const refused = (changes: object, pattern: RegExp) =>
    throws(() => planDump({ ...base, ...changes }), RangeError, pattern);
  refused({ context: 257 }, /context must be an integer from 1 to 256 \(the model's context window\), but is 257/);
  refused({ context: 0 }, /context/);
  refused({ batch: 0.5 }, /batch must be an integer from 1 to 1048576, but is 0.5/);
  refused({ shardTokens: 0 }, /shardTokens/);
  refused({ limit: 0 }, /limit must be an integer of 1 or more, but is 0/);
  refused({ dtype: 'int4' }, /dtype must be float16, bfloat16, float32, int8, but is "int4"/);
  refused({ drop: ['text'] }, /drop must be a list of padding and endoftext, but is \["text"\]/);
  refused({ drop: 'padding' }, /drop must be a list of padding and endoftext, but is "padding"/);
  refused(
    { dtype: 'int8', dense: ['0/attn/qk_logits'] },
    /qk_logits is -Infinity where a token must not look, which int8/,
  );
  refused({ sample: 0 }, /sample must be a part of the positions, above 0 and up to 1, but is 0/);
  refused({ sample: 1.5 }, /sample .* but is 1.5/);
  refused({ sample: 0.5, seed: -1 }, /seed must be an integer of 0 or more, but is -1/);
  refused({ seed: 4 }, /seed is for a sample of the positions/);
  refused({ parquet: true, autoencoders: [] }, /parquet is for latents: name an autoencoder/);
  throws(
    () => planDump({ ...base, statistics: 'yes' as never }),
    TypeError,
    /statistics must be true or false, but is y/,
  );
  refused({ shard: { index: 2, count: 2 } }, /shard.index must be an integer from 0 to 1, but is 2/);
});

test('a shard has the tensors of the contract, wide ones first', async () => {
  const { settings } = planDump(await request({ context: 16 }));
  assert.equal(
    shardTensors(settings, { rows: 3, positions: 48, entries: [70] }).map(
      ([name, { dtype, shape }]) => `${name} ${dtype} ${shape.join('x')}`,
    ),
    [
      '2/resid/delta_mlp/latents.row_ptr int64 49',
      'tokens int32 3x16',
      'document int32 3x16',
      '1/mlp/post_act float16 3x16x256',
      '2/resid/delta_mlp/latents.indices uint16 70',
      '2/resid/delta_mlp/latents.values float16 70',
    ],
  );
  const [latents] = settings.autoencoders.map((entry) => ({ ...entry, latents: 65_537 }));
  const wide = shardTensors(
    { ...settings, autoencoders: latents ? [latents] : [] },
    { rows: 1, positions: 16, entries: [1] },
  );
  assert.is(wide.find(([name]) => name.endsWith('indices'))?.[1].dtype, 'int32');
});

test('the plan can be read', async () => {
  const text = describePlan(planDump(await request({ limit: 5000, shard: { index: 1, count: 3 } })));
  for (const part of [
    /demo, float32, digest d1/,
    /a\.txt {2}1000 bytes/,
    /at most 5000 tokens/,
    /128 tokens each; 16 rows \(2048 tokens\) at a time/,
    /8192 rows \(1048576 tokens\), 545 MB/,
    /shards 1, 4, … of 3 parts/,
    /1\/mlp\/post_act {2}float16 \[rows, 128, 256\] {2}512 bytes per token/,
    /2\/resid\/delta_mlp\/latents {2}of ae: 512 latents, those above 0; 4 bytes each/,
    /520 bytes per token, and the latents/,
  ]) {
    assert.match(text, part);
  }
  assert.equal([0, 999, 1000, 1_234_567, 999_999_999].map(showBytes), [
    '0 bytes',
    '999 bytes',
    '1.00 kB',
    '1.23 MB',
    '1.00 GB',
  ]);
});

test.run();
