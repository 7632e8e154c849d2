// Loads the model and the autoencoders of a dump, and makes its plan.
import { ModelContext } from '../../context/model_context.js';
import { sizeOf } from '../../engine/shape.js';
import type { FetchOptions } from '../../files/blob/blob.js';
import { locationShape } from '../../transformer/location.js';
import type { SubjectModel } from '../../transformer/subject_model.js';
import { Transformer } from '../../transformer/transformer.js';
import type { SourceDescription } from '../corpus/corpus.js';
import { expandDumpLocations, parseDumpLocation } from '../format/dump_location.js';
import {
  type AutoencoderPermit,
  checkInputs,
  checkLayered,
  type FoundAutoencoder,
  findAutoencoder,
  withoutFolder,
} from './autoencoders.js';
import { type DumpPlan, planDump } from './dump_plan.js';
import type { Computing } from './folder.js';
import type { DumpOptions } from './options.js';

export interface Prepared {
  readonly plan: DumpPlan;
  readonly computing: Computing;
  readonly model: SubjectModel;
  readonly autoencoders: readonly FoundAutoencoder[];
  /** Frees what was loaded for the dump. */
  readonly dispose: () => void;
}

/** Decides whether a model or an autoencoder may be loaded. It is asked before they are looked for. */
export interface LoadPermit extends AutoencoderPermit {
  /** @throws Error to refuse a model. `name` is what Transformer.load takes. */
  checkModel(name: string): Promise<void>;
}

const patternsOf = ({ locations }: Pick<DumpOptions, 'locations'>): string[] =>
  Array.isArray(locations) ? locations : [locations];

/** Checks the options as far as that is possible without a model. */
export function checkOptions(options: DumpOptions): void {
  const { out, autoencoders = {}, threshold = 0, model, precision, device, workers } = options;
  if (typeof out !== 'string' || out === '') throw new TypeError('dump: out must be the path of a folder');
  if (!(Number.isFinite(threshold) && threshold >= 0)) {
    throw new RangeError(`dump: threshold must be a number of 0 or more, but is ${threshold}`);
  }
  checkLayered(patternsOf(options).map(parseDumpLocation), autoencoders);
  if (typeof model !== 'string' && precision !== undefined) {
    throw new TypeError('dump: precision is for a model given by name; this one is loaded already');
  }
  if (workers === undefined) return;
  if (!Array.isArray(workers) || workers.length === 0) throw new RangeError('dump: workers must name one at least');
  checkByName(options, 'workers');
  if (device !== undefined) throw new TypeError('dump: with workers, the device is that of each worker');
}

/** Other processes can be given names, and nothing that is loaded. */
export function checkByName({ model, autoencoders = {} }: DumpOptions, who: string): void {
  if (typeof model !== 'string') {
    throw new TypeError(`dump: ${who} load the model themselves: give it by name, folder or address`);
  }
  const given = Object.keys(autoencoders).find((name) => typeof autoencoders[name] !== 'string');
  if (given === undefined) return;
  throw new TypeError(`dump: ${who} load autoencoders themselves: give '${given}' by name, path or address`);
}

/**
 * @throws Error when a location, an autoencoder or an option is wrong, with the allowed values; what `permit` throws.
 */
export async function prepare(
  options: Omit<DumpOptions, 'corpus'>,
  corpus: readonly SourceDescription[],
  permit?: LoadPermit,
): Promise<Prepared> {
  const { autoencoders: given = {}, threshold = 0, onFetch, signal, device, precision } = options;
  const fetching: FetchOptions = { ...(onFetch && { onProgress: onFetch }), ...(signal && { signal }) };
  const loading = { ...fetching, ...(device && { device }), ...(precision && { dtype: precision }) };
  if (typeof options.model === 'string') await permit?.checkModel(options.model);
  const loaded = typeof options.model === 'string' ? await Transformer.load(options.model, loading) : undefined;
  const model = loaded ?? (await subjectOf(options.model as SubjectModel | ModelContext));
  const found: FoundAutoencoder[] = [];
  const dispose = () => {
    for (const { autoencoder, own } of found) if (own) autoencoder.dispose();
    loaded?.dispose();
  };
  try {
    const locations = expandDumpLocations(patternsOf(options), model.config);
    for (const location of locations) {
      if (location.autoencoder === undefined) continue;
      const autoencoder = await findAutoencoder(location, given, model, { ...fetching, permit });
      found.push(autoencoder);
      checkInputs(autoencoder, widthAt(location.location, model));
    }
    const plan = planDump({
      ...options, // planDump() takes the options that it knows, and no others
      model: {
        name: withoutFolder(model.name),
        digest: await model.digest(),
        dtype: model.dtype,
        vocabulary: model.nVocab,
        config: model.config,
      },
      corpus,
      dense: locations.filter(({ autoencoder }) => autoencoder === undefined).map(({ location }) => location),
      autoencoders: await Promise.all(
        found.map(async ({ location, name, autoencoder }) => {
          return { location, name, digest: await autoencoder.digest(), latents: autoencoder.nLatents, threshold };
        }),
      ),
      device: model.device.kind,
    });
    const computing = { arithmetic: [model.device.arithmetic], anyArithmetic: options.anyArithmetic ?? false };
    return { plan, computing, model, autoencoders: found, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

const subjectOf = async (model: SubjectModel | ModelContext): Promise<SubjectModel> =>
  model instanceof ModelContext ? model.getOrCreateModel() : model;

const widthAt = (location: string, { config, nVocab }: SubjectModel): number =>
  sizeOf(locationShape(location, config, nVocab, 1, 1));
