// Loads the model and the autoencoders of a dump, and makes its plan.

import { ModelContext } from '../../context/model_context.js';
import {
  checkBoolean,
  checkCallback,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  wrong,
} from '../../engine/check.js';
import { checkDevice, Device, type DeviceName, getDefaultDevice } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import { sizeOf } from '../../engine/shape.js';
import type { FetchOptions } from '../../files/blob/blob.js';
import { locationShape } from '../../transformer/location.js';
import type { SubjectModel } from '../../transformer/subject_model.js';
import { Transformer } from '../../transformer/transformer.js';
import type { SourceDescription } from '../corpus/corpus.js';
import { type DumpLocation, expandDumpLocations, parseDumpLocation } from '../format/dump_location.js';
import { inJson } from '../format/in_json.js';
import type { DumpSettings } from '../format/settings.js';
import {
  type AutoencoderPermit,
  type AutoencoderSource,
  checkInputs,
  checkLayered,
  checkSource,
  type FoundAutoencoder,
  findAutoencoder,
  withoutFolder,
} from './autoencoders.js';
import { checkWritable, type DumpPlan, planDump } from './dump_plan.js';
import type { Computing } from './folder.js';
import { type DumpOptions, dumpOptionNames, partNames, type WorkerOptions, workerOptionNames } from './options.js';

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

const patternsOf = ({ locations }: Pick<DumpOptions, 'locations'>): readonly string[] =>
  Array.isArray(locations) ? Array.from(locations) : [locations];

/**
 * Checks the options as far as that is possible without a model. `operation` is the function that they were given to.
 * @throws TypeError for an option that is not known or of another type; RangeError for a value that cannot be.
 */
export function checkRequest(operation: string, options: Omit<DumpOptions, 'corpus'>): void {
  checkOptions(operation, options as DumpOptions, dumpOptionNames);
  const { out, autoencoders = {}, threshold, model, precision, device, workers, shard } = options;
  if (typeof out !== 'string' || out === '') throw new TypeError('dump: out must be the path of a folder');
  checkBoolean('dump', 'anyArithmetic', options.anyArithmetic);
  checkSignal('dump', options.signal);
  checkCallback('dump', 'onProgress', options.onProgress);
  checkCallback('dump', 'onFetch', options.onFetch);
  checkDevice('dump', device);
  if (threshold !== undefined && !(Number.isFinite(threshold) && threshold >= 0)) {
    throw new RangeError(`dump: threshold must be a number of 0 or more, but is ${inJson(threshold)}`);
  }
  if (precision !== undefined && !precisions.includes(precision)) {
    throw new RangeError(wrong('dump', 'precision', precisions.join(', '), inJson(precision)));
  }
  if (shard !== undefined) checkOptions(operation, shard, partNames, 'shard');
  checkModel(model);
  const locations = patternsOf(options).map(parseDumpLocation);
  checkAutoencoders(autoencoders);
  checkLayered(locations, autoencoders);
  if (threshold && locations.every(({ autoencoder }) => autoencoder === undefined)) {
    throw new RangeError('dump: threshold is for latents: name an autoencoder for one location at least');
  }
  if (typeof model !== 'string' && precision !== undefined) {
    throw new TypeError('dump: precision is for a model given by name; this one is loaded already');
  }
  if (workers !== undefined) checkWorkers(operation, options);
  if (options.gradientOf !== undefined && device) checkGradientDevice(device);
  checkUsed(autoencoders, locations);
}

function checkWorkers(operation: string, options: Omit<DumpOptions, 'corpus'>): void {
  const { workers, device } = options;
  if (!Array.isArray(workers) || workers.length === 0) throw new RangeError('dump: workers must name one at least');
  for (const [i, worker] of workers.entries()) checkWorker(operation, worker, i, options.gradientOf !== undefined);
  checkByName(options, 'workers');
  if (device !== undefined) throw new TypeError('dump: with workers, the device is that of each worker');
}

/** The error of a dump with gradients on a device that cannot compute them. */
export class NoGradients extends Error {}

function checkGradientDevice(device: Device | DeviceName, what = 'this'): void {
  if (`${device}` === 'cpu') return;
  throw new NoGradients(
    `dump: gradients are computed on the CPU alone so far, and ${what} is on ${device}: choose cpu (--device cpu)`,
  );
}

const precisions: readonly DType[] = ['float32', 'bfloat16', 'float16'];

function checkModel(model: unknown): void {
  if ((typeof model === 'string' && model !== '') || (typeof model === 'object' && model !== null)) return;
  const expected = 'the name, folder or address of a model, a Transformer, a ModelContext, or a model with its members';
  throw new TypeError(wrong('dump', 'model', expected, describe(model)));
}

function checkAutoencoders(autoencoders: Record<string, AutoencoderSource>): void {
  if (Object.prototype.toString.call(autoencoders) !== '[object Object]') {
    const expected = 'an object with an autoencoder for each name';
    throw new TypeError(wrong('dump', 'autoencoders', expected, describe(autoencoders)));
  }
  for (const [name, source] of Object.entries(autoencoders)) {
    checkSource(`autoencoders['${name}']`, source, ', or a function that returns one for a layer');
  }
}

function checkUsed(autoencoders: Record<string, AutoencoderSource>, locations: readonly DumpLocation[]): void {
  const unused = Object.keys(autoencoders).find((name) => locations.every(({ autoencoder }) => autoencoder !== name));
  if (unused === undefined) return;
  throw new TypeError(`dump: autoencoders has '${unused}', which no location names: LOCATION -> ${unused}`);
}

function checkWorker(operation: string, worker: WorkerOptions, i: number, hasGradients: boolean): void {
  checkOptions(operation, worker, workerOptionNames, `workers[${i}]`);
  const { device, threads } = worker;
  if (typeof device !== 'string' || !/^(cpu|cuda(:\d+)?)$/.test(device)) {
    throw new RangeError(wrong('dump', `workers[${i}].device`, "'cpu', 'cuda' or 'cuda:N'", describe(device)));
  }
  if (hasGradients) checkGradientDevice(device, `workers[${i}]`);
  if (threads !== undefined) checkInteger('dump', `workers[${i}].threads`, threads, 1, 1024);
}

/** Other processes can be given names, and nothing that is loaded. */
export function checkByName(
  { model, autoencoders = {} }: Pick<DumpOptions, 'model' | 'autoencoders'>,
  who: string,
): void {
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
  const hasGradients = options.gradientOf !== undefined;
  if (hasGradients && typeof options.model === 'string') checkGradientDevice(device ?? getDefaultDevice());
  if (typeof options.model === 'string') await permit?.checkModel(options.model);
  const loaded = typeof options.model === 'string' ? await Transformer.load(options.model, loading) : undefined;
  const model = loaded ?? (await subjectOf(options.model as SubjectModel | ModelContext));
  checkSubject(model, device);
  if (hasGradients) checkGradients(model);
  const found: FoundAutoencoder[] = [];
  const dispose = () => {
    for (const { autoencoder, own } of found) if (own) autoencoder.dispose();
    loaded?.dispose();
  };
  try {
    checkTokenizer(model, corpus);
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
      tokenizer: tokenizerOf(model),
      corpus,
      dense: locations.filter(({ autoencoder }) => autoencoder === undefined).map(({ location }) => location),
      autoencoders: await Promise.all(
        found.map(async ({ location, name, autoencoder }) => {
          return { location, name, digest: await autoencoder.digest(), latents: autoencoder.nLatents, threshold };
        }),
      ),
      device: model.device.kind,
    });
    const arithmetic = [arithmeticWith(model, found)];
    const computing = { arithmetic, anyArithmetic: options.anyArithmetic ?? false };
    return { plan, computing, model, autoencoders: found, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * The name of the arithmetic that computes a dump: that for bfloat16 where the model or an autoencoder is in bfloat16,
 * as that name says how the rest is computed, too.
 */
function arithmeticWith({ device, dtype }: SubjectModel, found: readonly FoundAutoencoder[]): string {
  const dtypes = [dtype, ...found.map(({ autoencoder }) => autoencoder.dtype)];
  const named = (['bfloat16', 'float16'] as const).find((one) => dtypes.includes(one)) ?? 'float32';
  return device.arithmetic[named];
}

/** The tokenizer by its name. A model of the user's own need not name its one: it counts as GPT-2's. */
function tokenizerOf({ enc }: SubjectModel): DumpSettings['tokenizer'] {
  return (enc.name ?? 'gpt2') === 'gpt2' ? 'gpt2' : 'unknown';
}

const textKinds: readonly SourceDescription['kind'][] = ['text', 'jsonl', 'standard input'];

/** @throws Error with the tokenizer's own reason when a corpus of text is given to a model that knows no text. */
function checkTokenizer({ name, enc }: SubjectModel, corpus: readonly SourceDescription[]): void {
  const text = corpus.find(({ kind }) => textKinds.includes(kind));
  if (!text) return;
  try {
    enc.encode('a');
  } catch (cause) {
    const what = text.name ?? text.kind;
    throw new Error(`dump: ${what} is text, and ${name} takes tokens only: ${(cause as Error).message}`, { cause });
  }
}

/** @throws TypeError when a model of the user's own lacks a member, or a manifest cannot hold its sizes. */
function checkSubject(model: SubjectModel, wanted: Device | undefined): void {
  const { name, config, nVocab, device, dtype, enc, activations, digest } = model ?? {};
  const members: [member: string, isRight: boolean, expected: string, value: unknown][] = [
    ['device', device instanceof Device, 'what openDevice or getDefaultDevice gives', device],
    ['enc', typeof enc?.encode === 'function', 'a tokenizer', enc],
    ['activations', typeof activations === 'function', 'a function', activations],
    ['digest', typeof digest === 'function', 'a function', digest],
  ];
  for (const [member, isRight, expected, value] of members) {
    if (!isRight) throw new TypeError(wrong('dump', `model.${member}`, expected, describe(value)));
  }
  if (wanted !== undefined && wanted !== device) {
    throw new TypeError(`dump: device is for a model given by name; this one is loaded already, on ${device}`);
  }
  checkWritable({ name, digest: '', dtype, vocabulary: nVocab, config });
}

/** @throws TypeError when a model of the user's own has no gradients; Error when they cannot be computed. */
function checkGradients({ gradients, device }: SubjectModel): void {
  if (typeof gradients !== 'function') {
    throw new TypeError(wrong('dump', 'model.gradients', 'a function, for gradientOf', describe(gradients)));
  }
  checkGradientDevice(device);
}

const subjectOf = async (model: SubjectModel | ModelContext): Promise<SubjectModel> =>
  model instanceof ModelContext ? model.getOrCreateModel() : model;

const widthAt = (location: string, { config, nVocab }: SubjectModel): number =>
  sizeOf(locationShape(location, config, nVocab, 1, 1));
