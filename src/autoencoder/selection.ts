// Some latents of a TopK autoencoder. Its activation ranks all latents of a row, so a selection keeps the encoder of
// all, ranks with it, and takes its own latents from the result.
import type { PackedMatrix } from '../engine/ops/pack_weights.js';
import type { SparseLatents } from '../engine/ops/sparse_encode.js';
import { Tensor } from '../engine/ops/tensor.js';
import { disposeAll } from '../engine/scope.js';

/** An encoder that several autoencoders may hold: it is freed when the last of them frees it. */
export class SharedEncoder {
  #holders = 1;

  constructor(
    /** [inputs, latents] */
    readonly weights: PackedMatrix,
    /** [latents] */
    readonly bias: Tensor,
  ) {}

  /** The same encoder for one more holder. */
  share(): this {
    this.#holders++;
    return this;
  }

  /** Each holder calls it once. */
  release(): void {
    this.#holders--;
    if (this.#holders === 0) disposeAll(this.weights, this.bias);
  }
}

/** Which latents of an encoder a selection has, and in which order. */
export class Selection {
  /** int32 [selected] */
  readonly #chosen: Tensor;
  /** Where each selected latent stands. */
  readonly #positions = new Map<number, number[]>();

  constructor(
    /** The encoder of all latents, by which they are ranked. The selection is one of its holders. */
    readonly ranking: SharedEncoder,
    readonly indices: Int32Array,
  ) {
    this.#chosen = Tensor.from(indices, { device: ranking.weights.device });
    for (const [position, latent] of indices.entries()) {
      const known = this.#positions.get(latent);
      if (known) known.push(position);
      else this.#positions.set(latent, [position]);
    }
  }

  /** A selection of some of this one's latents. */
  select(positions: Int32Array): Selection {
    const indices = positions.map((position) => this.indices[position] as number);
    return new Selection(this.ranking.share(), indices);
  }

  /** The selected columns of latents [..., all]: a new tensor [..., selected]. */
  columns(latents: Tensor): Tensor {
    return latents.indexSelect(-1, this.#chosen);
  }

  /** The same in CSR form. A latent that was selected twice is there twice. */
  sparseColumns({ rowPtr, indices, values }: SparseLatents): SparseLatents {
    const kept: [position: number, value: number][] = [];
    const ends = rowPtr.slice();
    for (let row = 0; row + 1 < rowPtr.length; row++) {
      const own: typeof kept = [];
      for (let at = Number(rowPtr[row]); at < Number(rowPtr[row + 1]); at++) {
        for (const position of this.#positions.get(indices[at] as number) ?? []) {
          own.push([position, values[at] as number]);
        }
      }
      for (const entry of own.sort(([a], [b]) => a - b)) kept.push(entry);
      ends[row + 1] = BigInt(kept.length);
    }
    return {
      rowPtr: ends,
      indices: Int32Array.from(kept, ([position]) => position),
      values: Float32Array.from(kept, ([, value]) => value),
    };
  }

  release(): void {
    this.#chosen.dispose();
    this.ranking.release();
  }
}
