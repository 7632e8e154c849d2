// An example of assets/docs/model-pieces.md, word for word but for the import; test/docs/pieces.test.ts runs it.
import { prepInputAndPad, type Tensor, Transformer } from '../../../src/index.js';

const xf = await Transformer.load('demo');
const texts = ['Kate found a red ball in the', 'The little dog'];
const { tokens, pad } = prepInputAndPad(
  texts.map((text) => xf.enc.encode(text)),
  'right',
);
const words = async (logits: Tensor) => xf.enc.decodeBatch((await logits.argmax(-1).toArray()) as number[][]);

// what comes next, without the logits of all other positions
const { logits } = await xf.forward(tokens, { pad, logitsAt: 'last' });
console.log(logits, await words(logits)); // → Tensor [2, 1, 50257] float32 on cpu [ ' blue', ' who' ]

// the logits behind the first token of each row, and behind the last one but one
const some = await xf.forward(tokens, { pad, logitsAt: texts.map(() => [0, -2]) });
console.log(some.logits.shape); // → [ 2, 2, 50257 ]

// the logit lens: the final layer norm and the unembedding of the stream after each layer
const stream = await xf.activations(tokens, ['*/resid/post_mlp'], { pad });
for (const [location, residual] of stream) {
  const from = { layer: xf.config.nLayers, residual };
  const lens = await xf.forward(tokens, { pad, logitsAt: 'last', from });
  console.log(location, await words(lens.logits));
}
// → 0/resid/post_mlp [ '.', ',"' ]
// → 1/resid/post_mlp [ ' yellow', '.' ]
// → 2/resid/post_mlp [ ' yellow', ' who' ]
// → 3/resid/post_mlp [ ' blue', ' who' ]

// the pass from layer 2 on, from a stream of one's own: that after layer 1, with the second row's last token doubled
const residual = stream.get('1/resid/post_mlp') as Tensor;
residual.select(0, 1).select(0, 2).mul_(2);
const range = { logitsAt: 'last', from: { layer: 2, residual } } as const;
const later = await xf.activations(tokens, ['3/resid/delta_mlp', 'logits'], { pad, ...range });
console.log([...later.values()].map(({ shape }) => shape)); // → [ [ 2, 7, 64 ], [ 2, 1, 50257 ] ]
