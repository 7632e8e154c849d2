// Counts for how long each latent of an autoencoder has been zero.
import { checkDType, checkOperands, checkRank, checkShape } from '../check.js';
import { noGradients, recordWrite } from '../record.js';
import { rowCount } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

/**
 * In place, on stats int32 [N]: sets 0 where a row of latents [..., N] is not zero in that column, then adds 1
 * everywhere.
 */
export function updateLastNonzero(stats: Tensor, latents: Tensor): void {
  const device = checkOperands('updateLastNonzero', { stats, latents });
  checkRank('updateLastNonzero', 'latents', latents, 1);
  const n = latents.shape[latents.shape.length - 1] as number;
  checkShape('updateLastNonzero', 'stats', stats.shape, [n], 'the columns of latents');
  checkDType('updateLastNonzero', 'stats', stats, 'int32');
  checkWritable('updateLastNonzero', 'stats', stats);
  recordWrite<Tensor>('updateLastNonzero', stats, [], noGradients);
  withContiguous([latents], (rows) => device.run('updateLastNonzero', stats, rows.reshape(rowCount(rows.shape), n)));
}
