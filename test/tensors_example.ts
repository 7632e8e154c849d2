// The example of assets/docs/tensors.md, word for word but for the import; test/docs_tensors.test.ts runs it.
import { cat, einsum, stack, Tensor, Transformer } from '../src/index.js';

const model = await Transformer.load('demo');
const [batch, n] = [8, 24];
using once = Tensor.randint(0, model.nVocab, [batch, n], { seed: 1 });
using tokens = cat([once, once], 1); // [batch, 2 n]: every sequence is there twice

const { nLayers } = model.config;
const locations = Array.from({ length: nLayers }, (_, layer) => `${layer}/attn/qk_probs`);
const activations = await model.activations(tokens, locations);
using probs = stack([...activations.values()]); // [layer, batch, query, key, head]

// the query at n + i has seen its token at i: the mask is 1 at the key after that, i + 1
using mask = Tensor.zeros([2 * n, 2 * n]); // [query, key]
mask.slice(0, n).diagonal(1).fill(1);
using totals = einsum('lbqkh,qk->lh', probs, mask);
using scores = totals.div(batch * n); // [layer, head]: the mean over sequences and queries

console.log(await scores.toArray());
