// Attention patterns of a sequence that comes twice: how much each head looks at the previous token, and at the token
// behind the earlier occurrence of the current one, which is what comes next. Heads that do that are induction heads.
import { type Tensor, Transformer } from 'sonde';

const xf = await Transformer.load('demo'); // it has no induction heads; 'gpt2-small' has
// words whose order says nothing: only looking back can tell what comes next
const half = xf.enc.encode(' dog lamp Friday river tea seven Rome sad key Tom plus garden yellow night bread Italy');
const n = half.length;
const patterns = await xf.activations([[...half, ...half]], ['*/attn/qk_probs']); // each is [1, query, key, head]

// of each head, the mean probability of the key `distance` tokens before the query, over the queries of the second half
const scores = async (probs: Tensor, distance: number) => {
  const ofQueries = probs.select(0, 0).diagonal(-distance); // [head, query]; the first query is the one at `distance`
  const means = ofQueries.slice(1, n - distance).mean(1);
  return ((await means.toArray()) as number[]).map((x) => Number(x.toFixed(4)));
};
for (const [location, probs] of patterns) {
  console.log(location, 'previous token:', await scores(probs, 1), 'induction:', await scores(probs, n - 1));
  probs.dispose();
}
const uniform = half.reduce((sum, _, i) => sum + 1 / (n + i + 1), 0) / n;
console.log('Both scores of a head that looks at all keys alike:', Number(uniform.toFixed(4)));
