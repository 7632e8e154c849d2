// The induction scores of a model's heads, in plain loops.

/**
 * probs [batch, queries, keys, heads] of sequences that repeat after `half` tokens, row-major -> a score for each head:
 * the mean, over sequences and over the queries of the second half, of the probability of the token after the earlier
 * occurrence of the query's own token.
 */
export function inductionScores(probs: ArrayLike<number>, shape: readonly number[], half: number): number[] {
  const [batch, queries, keys, heads] = shape as [number, number, number, number];
  return Array.from({ length: heads }, (_, h) => {
    let sum = 0;
    for (let b = 0; b < batch; b++) {
      for (let q = half; q < queries; q++) {
        const key = q - half + 1;
        sum += probs[((b * queries + q) * keys + key) * heads + h] as number;
      }
    }
    return sum / (batch * (queries - half));
  });
}
