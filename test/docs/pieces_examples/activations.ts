// An example of assets/docs/model-pieces.md, word for word but for the import; test/docs/pieces.test.ts runs it.
import { AtLayers, type Tensor, Transformer, TransformerHooks } from '../../../src/index.js';

const xf = await Transformer.load('demo');
const tokens = [xf.enc.encode('Kate found a red ball')];

// the neurons of every layer, and what each head of layer 2 adds to the stream
const values = await xf.activations(tokens, ['*/mlp/post_act', '2/attn/head_out']);
console.log(values.size, values.get('1/mlp/post_act')); // → 5 Tensor [1, 5, 256] float32 on cpu
console.log(values.get('2/attn/head_out')); // → Tensor [1, 5, 4, 64] float32 on cpu
for (const value of values.values()) value.dispose(); // they are yours to free; otherwise the garbage collector does it

// the same pass with an edit: head 2 of layer 2 adds nothing
const hooks = new TransformerHooks();
hooks.attn.headOut.appendFwd(
  new AtLayers(2).append((x) => {
    x.select(2, 2).fill(0); // x is [batch, seq, head, model width]
  }),
);
const location = '3/resid/post_mlp';
const before = (await xf.activations(tokens, [location])).get(location) as Tensor;
const after = (await xf.activations(tokens, [location], { hooks })).get(location) as Tensor;
const moved = after.sub(before).norm(-1).select(0, 0); // how far the stream has moved at the end, token by token
const distances = (await moved.toArray()) as number[];
console.log(distances.map((distance) => distance.toFixed(1)).join(' ')); // → 1.5 4.5 3.6 7.5 3.1
