// README.md's example of sequences in pieces, word for word but for the import; test/readme.test.ts runs it.
import { atPositions, Transformer, TransformerHooks } from '../src/index.js';

const xf = await Transformer.load('demo');
const prefix = xf.enc.encode('Kate found a red ball in the');
const { kvCaches } = await xf.forward([prefix]); // computed once; a pass extends the caches that it is given

// continuations of one prefix: each extends a clone, or the caches themselves, which are truncated afterwards
for (const end of [' garden', ' old box']) {
  using fork = kvCaches.clone();
  const { logits } = await xf.forward([xf.enc.encode(end)], { kvCaches: fork });
  console.log(end, logits, fork);
}

// the same prefix in several rows, as for beams; each row ends with its first full stop
using rows = kvCaches.select([0, 0, 0]);
const { strings } = await xf.sample([' garden', ' old box', ' park'], {
  kvCaches: rows,
  numTokens: 30,
  minTokens: 3,
  stopTokens: xf.enc.encode('.'),
  seed: 1,
  onToken: ({ row, step, text }) => console.log(row, step, text), // as they come
});
console.log(strings);

// one hook for position 3 of every row, wherever that is: in a pass, behind padding, after caches, while sampling
const hooks = new TransformerHooks();
hooks.resid.torso.postMlp.appendFwd(
  atPositions(3, (x, { layer, rows }) => {
    if (layer === 1) console.log(rows, x.mul_(0.5)); // x is [rows, positions, channels]; changes become part of the whole
  }),
);
console.log((await xf.sample(['Kate', 'Once there was a little dog'], { hooks, numTokens: 8, seed: 1 })).strings);
kvCaches.dispose();
