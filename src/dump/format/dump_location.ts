// The locations that a dump stores: those of the model, as they are or through an autoencoder
// (`5/resid/delta_mlp -> NAME`).

import { expandLocations } from '../../transformer/location.js';
import type { TransformerConfig } from '../../transformer/weights/config.js';
import { inJson } from './in_json.js';

export interface DumpLocation {
  /** The model's name for it. `*` stands for every layer. */
  readonly location: string;
  /** The name or file of the autoencoder whose latents are stored instead of the activations. */
  readonly autoencoder?: string;
}

/** Reads `5/mlp/post_act` or `5/mlp/post_act -> AUTOENCODER`. */
export function parseDumpLocation(text: string): DumpLocation {
  if (typeof text !== 'string' || text.trim() === '') {
    throw new TypeError(`dump: locations must be strings such as '5/mlp/post_act', but one is ${inJson(text)}`);
  }
  const arrow = text.indexOf('->');
  if (arrow < 0) return { location: text.trim() };
  const location = text.slice(0, arrow).trim();
  const autoencoder = text.slice(arrow + 2).trim();
  if (location !== '' && autoencoder !== '') return { location, autoencoder };
  throw new RangeError(`dump: '${text}' must read LOCATION -> AUTOENCODER, with something on both sides of the arrow`);
}

export const showDumpLocation = ({ location, autoencoder }: DumpLocation): string =>
  autoencoder === undefined ? location : `${location} -> ${autoencoder}`;

/** The layer a concrete location lies in; undefined for those outside the layers, such as `resid/post_emb`. */
export function layerOf(location: string): number | undefined {
  const layer = /^(\d+)\//.exec(location)?.[1];
  return layer === undefined ? undefined : Number(layer);
}

/**
 * The concrete locations a list of patterns means, each once, in the order in which the model computes them; those with
 * an autoencoder after the plain ones.
 * @throws RangeError for a location that the model does not have, or one that is sent through two autoencoders.
 */
export function expandDumpLocations(
  patterns: readonly string[],
  config: TransformerConfig,
  operation = 'dump',
): DumpLocation[] {
  const parsed = patterns.map(parseDumpLocation);
  if (parsed.length === 0) {
    throw new RangeError(`${operation}: locations must name one at least, such as '5/mlp/post_act'`);
  }
  const dense = parsed.filter((entry) => entry.autoencoder === undefined).map((entry) => entry.location);
  const sparse = new Map<string, string>();
  for (const { location, autoencoder } of parsed) {
    if (autoencoder === undefined) continue;
    for (const concrete of expandLocations([location], config)) {
      const other = sparse.get(concrete);
      if (other !== undefined && other !== autoencoder) {
        throw new RangeError(
          `${operation}: ${concrete} can go through one autoencoder, not through ${other} and ${autoencoder}`,
        );
      }
      sparse.set(concrete, autoencoder);
    }
  }
  return [
    ...ordered(dense, config).map((location) => ({ location })),
    ...ordered([...sparse.keys()], config).map((location) => ({
      location,
      autoencoder: sparse.get(location) as string,
    })),
  ];
}

const ordered = (locations: string[], config: TransformerConfig): string[] =>
  locations.length === 0 ? [] : [...new Set(expandLocations(locations, config))];
