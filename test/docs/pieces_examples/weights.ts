// An example of assets/docs/model-pieces.md, word for word but for the import; test/docs/pieces.test.ts runs it.
import { einsum, Transformer } from '../../../src/index.js';

const xf = await Transformer.load('demo');
using out = xf.weight('xf_layers.3.mlp.out_layer.weight'); // [D, F]
using unembed = xf.weight('unembed.weight'); // [V, D]
using gain = xf.weight('final_ln.weight'); // [D]

// the tokens whose logits neuron 39 of the last layer raises most: its direction, scaled by the gain, times the unembedding
const raised = einsum('vd,d->v', unembed, out.select(1, 39).mul(gain));
const best = (await raised.topk(5).indices.toArray()) as number[];
console.log(xf.enc.decode(best)); // →  river field hill garden forest

// all weights, in host memory
const state = await xf.stateDict();
console.log(Object.keys(state).length, state['xf_layers.0.attn.q_proj.weight']?.shape); // → 69 [ 64, 64 ]
