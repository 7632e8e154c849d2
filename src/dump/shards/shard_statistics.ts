// The statistics of a shard's features, gathered batch by batch.
import type { SparseLatents } from '../../engine/ops/sparse_encode.js';
import type { Block } from '../corpus/blocks.js';
import { type NamedValues, namedValues, type ShardLayout, statisticNames } from '../format/layout.js';
import { passes } from '../format/positions.js';
import type { DumpSettings } from '../format/settings.js';
import { FeatureStatistics } from '../format/statistics.js';
import type { Batch } from './batches.js';
import type { Write } from './latent_spill.js';

export class ShardStatistics {
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #named: readonly NamedValues[];
  /** Of the features of each of them. */
  readonly #features: readonly FeatureStatistics[];

  constructor(settings: DumpSettings, block: Block) {
    this.#settings = settings;
    this.#block = block;
    this.#named = namedValues(settings);
    this.#features = this.#named.map(({ width }) => new FeatureStatistics(width));
  }

  /** Adds `values` [rows, seq, ...] of the dense `namedValues[of]`. */
  addDense(of: number, { order, rows, seq }: Batch, values: Float32Array): void {
    const size = values.length / rows.length;
    for (const n of order) {
      const own = values.subarray(n * size, (n + 1) * size);
      this.#features[of]?.addDense(own, this.#counted(rows[n] as number, seq));
    }
  }

  /** Adds entries of the sparse `namedValues[of]`. */
  addSparse(of: number, { order, rows, seq }: Batch, { rowPtr, indices, values }: SparseLatents): void {
    const statistics = this.#features[of];
    for (const n of order) {
      const ranges = this.#counted(rows[n] as number, seq).map((position) => {
        const at = n * seq + position;
        return [Number(rowPtr[at]), Number(rowPtr[at + 1])] as const;
      });
      statistics?.addSparse(indices, values, ranges);
    }
  }

  // All positions of a row except padding and those that the dump drops, whether they are in the sample or not.
  #counted(row: number, seq: number): number[] {
    const { context } = this.#settings;
    const { tokens, lengths } = this.#block;
    const positions: number[] = [];
    for (let position = 0; position < Math.min(seq, lengths[row] as number); position++) {
      if (passes(this.#settings, tokens[row * context + position] as number)) positions.push(position);
    }
    return positions;
  }

  /** Must be called only once. */
  async write(write: Write, layout: ShardLayout): Promise<void> {
    for (const [i, { name }] of this.#named.entries()) {
      const found = (this.#features[i] as FeatureStatistics).finish();
      await write(BigInt64Array.of(BigInt(found.count)), layout.offset(`${name}.count`));
      for (const statistic of statisticNames) {
        const values = found[statistic];
        const view = statistic === 'active' ? BigInt64Array.from(values, BigInt) : values;
        await write(view, layout.offset(`${name}.${statistic}`));
      }
    }
  }
}
