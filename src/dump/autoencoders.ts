// Finds the autoencoders that a dump is asked for by name or file.
import { stat } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import { Autoencoder } from '../autoencoder/autoencoder.js';
import type { Device } from '../engine/device.js';
import { packageRoot } from '../engine/native.js';
import { type DumpLocation, layerOf } from './location.js';

/** An autoencoder, the path or URL of its file (`{layer}` stands for the layer), or what gives either for a layer. */
export type AutoencoderSource =
  | string
  | Autoencoder
  | ((layer: number | undefined) => string | Autoencoder | Promise<string | Autoencoder>);

export interface FoundAutoencoder {
  readonly location: string;
  /** As the manifest names it. */
  readonly name: string;
  readonly autoencoder: Autoencoder;
  /** Loaded here, to be freed here. */
  readonly own: boolean;
}

const demoFolder = join(packageRoot, 'assets', 'demo', 'autoencoders');
// Named after the published ones, which have a version at the end.
const demoFiles: Record<string, string> = {
  'ae-mlp-post-act': join(demoFolder, 'mlp_post_act', '{layer}.pt'),
  'ae-resid-delta-mlp': join(demoFolder, 'resid_delta_mlp', '{layer}.pt'),
  'ae-resid-delta-attn': join(demoFolder, 'resid_delta_attn', '{layer}.pt'),
};

export const demoAutoencoders: readonly string[] = Object.keys(demoFiles);

/**
 * The autoencoder of a location: one of `sources` by its name there, a demo autoencoder by its name when the model is
 * the demo model, or a file.
 */
export async function findAutoencoder(
  wanted: DumpLocation,
  sources: Record<string, AutoencoderSource>,
  model: { name: string; device: Device },
): Promise<FoundAutoencoder> {
  const name = wanted.autoencoder as string;
  const { location } = wanted;
  const layer = layerOf(location);
  const given = Object.hasOwn(sources, name) ? sources[name] : undefined;
  const source = typeof given === 'function' ? await given(layer) : given;
  if (source !== undefined && typeof source !== 'string') {
    return { location, name: shownName(name, layer), autoencoder: source, own: false };
  }
  const demo = model.name === 'demo' ? demoFiles[name] : undefined;
  const path = inLayer(source ?? demo ?? name, location, layer);
  if (source === undefined && demo === undefined) await checkIsThere(path, name, location, model.name);
  // encoding needs no statistics, which some published files lack
  const autoencoder = await Autoencoder.load(path, { device: model.device, strict: false });
  return { location, name: shownName(name, layer), autoencoder, own: true };
}

function inLayer(path: string, location: string, layer: number | undefined): string {
  if (!path.includes('{layer}')) return path;
  if (layer === undefined)
    throw new Error(`dump: ${path} stands for a file of each layer, but ${location} has no layer`);
  return path.replaceAll('{layer}', String(layer));
}

/** How the manifest names a model or an autoencoder: it must not depend on where files lie on a machine. */
export const withoutFolder = (name: string): string => (isAbsolute(name) ? basename(name) : name);

const shownName = (name: string, layer: number | undefined): string =>
  withoutFolder(name).replaceAll('{layer}', String(layer));

async function checkIsThere(path: string, name: string, location: string, modelName: string): Promise<void> {
  if (/^[a-z]+:\/\//.test(path)) return;
  const there = await stat(path).catch(() => undefined);
  if (there?.isFile()) return;
  const known =
    modelName === 'demo' ? ` nor one of the demo model's autoencoders (${demoAutoencoders.join(', ')})` : '';
  throw new Error(`dump: the autoencoder '${name}' for ${location} is no file (${path})${known}`);
}

/** @throws Error when `*` means several layers and the file has no place for the layer. */
export function checkLayered(patterns: readonly DumpLocation[], sources: Record<string, AutoencoderSource>): void {
  for (const { location, autoencoder } of patterns) {
    if (autoencoder === undefined || !location.includes('*')) continue;
    const source = Object.hasOwn(sources, autoencoder) ? sources[autoencoder] : autoencoder;
    const path = typeof source === 'string' && /[/\\.]/.test(source) ? source : undefined;
    if (source instanceof Autoencoder || (path !== undefined && !path.includes('{layer}'))) {
      throw new Error(
        `dump: ${location} means every layer, so its autoencoder must have {layer} in its path (${autoencoder})`,
      );
    }
  }
}

/** @throws RangeError when an autoencoder does not take what a location gives, `width` values per token. */
export function checkInputs({ location, name, autoencoder }: FoundAutoencoder, width: number): void {
  if (autoencoder.nInputs === width) return;
  throw new RangeError(
    `dump: ${location} has ${width} values per token, but the autoencoder ${name} takes ${autoencoder.nInputs}`,
  );
}
