// Finds the autoencoders of a dump by their names or files.
import { stat } from 'node:fs/promises';
import { basename, isAbsolute } from 'node:path';
import { Autoencoder } from '../../autoencoder/autoencoder.js';
import { findAutoencoderSpec, listAutoencoderNames } from '../../context/registry.js';
import { describe, wrong } from '../../engine/check.js';
import type { Device } from '../../engine/device.js';
import type { FetchOptions } from '../../files/blob/blob.js';
import { isBlobUrl } from '../../files/blob/blob_address.js';
import { type DumpLocation, layerOf } from '../format/dump_location.js';

/**
 * An autoencoder, the name of a published one, the path or address of its file (`{layer}` stands for the layer), or a
 * function that returns one of these for a layer.
 */
export type AutoencoderSource =
  | string
  | Autoencoder
  | ((layer: number | undefined) => string | Autoencoder | Promise<string | Autoencoder>);

export interface FoundAutoencoder {
  readonly location: string;
  /** The autoencoder's name in the manifest. */
  readonly name: string;
  readonly autoencoder: Autoencoder;
  /** Whether it was loaded for the dump, and must be freed with it. */
  readonly own: boolean;
}

/** Decides whether an autoencoder may be loaded. It is asked before the autoencoder is looked for. */
export interface AutoencoderPermit {
  /** @throws Error to refuse an autoencoder. `source`: a published name, or the path or address of a file. */
  checkAutoencoder(source: string): Promise<void>;
}

/**
 * The autoencoder of a location: an entry of `sources`, a published autoencoder or one of the demo model by its name,
 * or a file. Errors name `operation`.
 */
export async function findAutoencoder(
  wanted: DumpLocation,
  sources: Record<string, AutoencoderSource>,
  model: { name: string; device: Device },
  {
    permit,
    operation = 'dump',
    ...fetching
  }: FetchOptions & { readonly permit?: AutoencoderPermit | undefined; readonly operation?: string } = {},
): Promise<FoundAutoencoder> {
  const name = wanted.autoencoder as string;
  const { location } = wanted;
  const layer = layerOf(location);
  const given = givenAs(name, sources);
  const source = (typeof given === 'function' ? await given(layer) : given) ?? name;
  if (typeof given === 'function') checkSource(`what autoencoders['${name}'] returns`, source);
  if (typeof source !== 'string') return { location, name: shownName(name, layer), autoencoder: source, own: false };
  const spec = findAutoencoderSpec(model.name, source);
  const path = inLayer(operation, spec?.path ?? source, location, layer);
  await permit?.checkAutoencoder(spec ? source : path);
  if (given === undefined && !spec) await checkIsThere(operation, path, name, location, model.name);
  // not strict: encoding needs no statistics, which some published files lack
  const options = { ...fetching, device: model.device, strict: false, ...(spec?.normalize && { normalize: true }) };
  return { location, name: shownName(name, layer), autoencoder: await Autoencoder.load(path, options), own: true };
}

/** @throws TypeError unless a value is a source of an autoencoder; `more` names what else it may be. */
export function checkSource(argument: string, source: unknown, more = ''): void {
  if ((typeof source === 'string' && source !== '') || source instanceof Autoencoder) return;
  if (more !== '' && typeof source === 'function') return;
  throw new TypeError(wrong('dump', argument, `an autoencoder, its name, path or address${more}`, describe(source)));
}

/** The entry of `sources` for an autoencoder's name; undefined when there is none, and the name is used itself. */
export const givenAs = <T>(name: string, sources: Readonly<Record<string, T>>): T | undefined =>
  Object.hasOwn(sources, name) ? sources[name] : undefined;

function inLayer(operation: string, path: string, location: string, layer: number | undefined): string {
  if (!path.includes('{layer}')) return path;
  if (layer === undefined)
    throw new Error(`${operation}: ${path} stands for a file of each layer, but ${location} has no layer`);
  return path.replaceAll('{layer}', String(layer));
}

/**
 * The name of a model or an autoencoder in the manifest. It must not depend on where files lie on a machine, and has no
 * query, which may hold a signature.
 */
export function withoutFolder(name: string): string {
  if (/^https?:/i.test(name)) return name.split('?')[0] as string;
  return isAbsolute(name) ? basename(name) : name;
}

const shownName = (name: string, layer: number | undefined): string =>
  withoutFolder(name).replaceAll('{layer}', String(layer));

async function checkIsThere(
  operation: string,
  path: string,
  name: string,
  location: string,
  modelName: string,
): Promise<void> {
  if (isBlobUrl(path)) return;
  const there = await stat(path).catch(() => undefined);
  if (there?.isFile()) return;
  const names = listAutoencoderNames(modelName);
  const known = names.length > 0 ? ` nor one of ${modelName}'s autoencoders (${names.join(', ')})` : '';
  throw new Error(`${operation}: the autoencoder '${name}' for ${location} is no file (${path})${known}`);
}

/** @throws Error when `*` means several layers and the file's path has no `{layer}`. */
export function checkLayered(
  patterns: readonly DumpLocation[],
  sources: Record<string, AutoencoderSource>,
  operation = 'dump',
): void {
  for (const { location, autoencoder } of patterns) {
    if (autoencoder === undefined || !location.includes('*')) continue;
    const source = givenAs(autoencoder, sources) ?? autoencoder;
    const path = typeof source === 'string' && /[/\\.]/.test(source) ? source : undefined;
    if (source instanceof Autoencoder || (path !== undefined && !path.includes('{layer}'))) {
      throw new Error(
        `${operation}: ${location} means every layer, so its autoencoder must have {layer} in its path (${autoencoder})`,
      );
    }
  }
}

/** @throws RangeError when an autoencoder does not take `width` values per token, which its location has. */
export function checkInputs(
  { location, name, autoencoder }: FoundAutoencoder,
  width: number,
  operation = 'dump',
): void {
  if (autoencoder.nInputs === width) return;
  throw new RangeError(
    `${operation}: ${location} has ${width} values per token, but the autoencoder ${name} takes ${autoencoder.nInputs}`,
  );
}
