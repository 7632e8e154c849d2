// Decides what the jobs of a queue may ask of a worker. Anyone who reaches the queue's server can put jobs into it, and
// a job names the folder that is written, the text that is read and the models that are loaded. A worker does only what
// its allowances permit. What counts is where a path leads, not how it is written.
import { readlink, realpath } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { listAutoencoderNames } from '../../context/registry.js';
import type { OptionNames } from '../../engine/check.js';
import { packageRoot } from '../../engine/native.js';
import { isBelowAddress, isBlobUrl, parseStoreAddress } from '../../files/blob/blob_address.js';
import { canonicalModelName, modelNames } from '../../transformer/weights/names.js';
import { parseDumpLocation } from '../format/dump_location.js';
import { givenAs } from '../shards/autoencoders.js';
import type { ShardedRequest } from '../workers/shard_session.js';

/**
 * An entry that is left out stands for what lies below the folder that the worker was started in. If that folder is
 * `/`, the entry stands for nothing.
 */
export interface Allowances {
  /** Folders, and `az://account/container/prefix`: dumps may be written to these and below. */
  readonly out?: readonly string[];
  /** Files of text, or folders with such files. When this is left out, the text of the demo is allowed as well. */
  readonly corpus?: readonly string[];
  /**
   * Models and autoencoders: published names, `demo`, `random:gpt2-small`, files, folders that hold some, and addresses
   * that theirs begin with. A model's name stands for its published autoencoders, too. When this is left out, the demo
   * and all published names are allowed as well.
   */
  readonly models?: readonly string[];
}

export const allowanceNames: OptionNames<Allowances> = { out: true, corpus: true, models: true };

/** The error of a job that asks for what its worker may not do. */
export class NotAllowed extends Error {
  /** The option of `sonde queue work` that would allow it: `--allow-out /data/dumps`. */
  readonly option: string;

  constructor(field: string, why: string, option: string) {
    super(`queue: the job's ${field}: ${why}. To allow it, start the worker with ${option}`);
    this.option = option;
  }
}

/** The fields of a job that a worker's allowances must permit. */
export type RequestedAccess = Pick<ShardedRequest, 'out' | 'corpus' | 'model' | 'locations' | 'autoencoders'>;

const autoencoderNames: Readonly<Record<string, readonly string[]>> = {
  demo: listAutoencoderNames('demo'),
  'gpt2-small': listAutoencoderNames('gpt2-small'),
};
/** Whether a text is the name of a model. Other texts are paths and addresses. */
const isModelName = (text: string): boolean =>
  text === 'demo' || modelNames.includes(canonicalModelName(text)) || text.startsWith('random:');

const isAutoencoderName = (text: string): boolean =>
  Object.values(autoencoderNames).some((names) => names.includes(text));

const demoFolder = join(packageRoot, 'assets', 'demo');

export class Permit {
  readonly #out: readonly string[];
  readonly #corpus: readonly string[];
  /** The allowed names of models and published autoencoders. */
  readonly #names: readonly string[];
  /** The paths and addresses of other allowed models and autoencoders. */
  readonly #sources: readonly string[];

  /**
   * `folder` is the one that the worker was started in.
   * @throws TypeError for an entry that is not text, Error for an address that is not valid.
   */
  constructor(allowances: Allowances = {}, folder = process.cwd()) {
    const { out, corpus, models } = allowances;
    const here = dirname(folder) === folder ? [] : [folder]; // everything lies below /
    this.#out = entriesOf('out', out ?? here);
    this.#corpus = entriesOf('corpus', corpus ?? [...here, demoFolder]);
    const loaded = entriesOf('models', models ?? [...here, 'demo', ...modelNames]);
    const isName = (entry: string) => isModelName(entry) || isAutoencoderName(entry);
    this.#names = loaded.filter(isName).map(canonicalModelName);
    this.#sources = loaded.filter((entry) => !isName(entry));
    for (const entry of this.#out) if (isBlobUrl(entry)) parseStoreAddress(entry);
  }

  /** Checks all that a dump asks for. @throws NotAllowed for the first thing that is not allowed. */
  async check(requested: RequestedAccess): Promise<void> {
    const [refusal] = await this.refusals(requested);
    if (refusal) throw refusal;
  }

  /**
   * Everything that a dump asks for and that is not allowed; of files that one option would allow, the first one.
   * `{layer}` in an autoencoder's path stands for any layer.
   */
  async refusals({ out, corpus, model, locations, autoencoders = {} }: RequestedAccess): Promise<NotAllowed[]> {
    const names = locations.map((location) => parseDumpLocation(location).autoencoder);
    const sources = names.filter((name) => name !== undefined).map((name) => givenAs(name, autoencoders) ?? name);
    const checks = [
      this.checkOut(out),
      this.checkModel(model),
      ...[...new Set(sources)].map((source) => this.checkAutoencoder(source)),
    ];
    const results = await Promise.allSettled(checks);
    const refused = results.map((result) => (result.status === 'rejected' ? result.reason : undefined));
    for (const reason of refused) if (reason !== undefined && !(reason instanceof NotAllowed)) throw reason;
    const [ofOut, ...ofOthers] = refused as (NotAllowed | undefined)[];
    return [ofOut, ...(await this.#corpusRefusals(corpus)), ...ofOthers].filter((refusal) => refusal !== undefined);
  }

  /** @throws NotAllowed */
  async checkOut(out: string): Promise<void> {
    const { isBelow, real } = isBlobUrl(out)
      ? { isBelow: this.#out.some((entry) => isBelowAddress(out, entry)), real: out }
      : await resolvePath(out, await realPathsOf(this.#out));
    if (isBelow) return;
    const shown = isBlobUrl(out) ? out : shownPath(out, real);
    throw new NotAllowed('request.out', `this worker does not write to ${shown}`, option('out', real));
  }

  async #corpusRefusals(corpus: RequestedAccess['corpus']): Promise<NotAllowed[]> {
    const refusals = new Map<string, NotAllowed>(); // by option: there may be very many files
    const folders = await realPathsOf(this.#corpus);
    for (const [i, file] of corpus.entries()) {
      const path = typeof file === 'string' ? file : file.path;
      const { isBelow, real } = await resolvePath(path, folders);
      if (isBelow) continue;
      const why = `this worker does not read ${shownPath(path, real)}`;
      const advised = option('corpus', dirname(real));
      if (!refusals.has(advised)) refusals.set(advised, new NotAllowed(`request.corpus[${i}]`, why, advised));
    }
    return [...refusals.values()];
  }

  /** Checks a model, by what Transformer.load takes. @throws NotAllowed */
  async checkModel(name: string): Promise<void> {
    if (!isModelName(name)) return this.#checkSource('request.model', name, itself);
    const [unseeded] = name.split('?'); // random:tiny?7
    if (this.#names.includes(canonicalModelName(name)) || this.#names.includes(unseeded as string)) return;
    throw notLoaded('request.model', name, name);
  }

  /** Checks an autoencoder, by its published name, or by the path or address of its file. @throws NotAllowed */
  async checkAutoencoder(source: string): Promise<void> {
    if (!isAutoencoderName(source)) return this.#checkSource('request.locations', source, folderOf);
    const ofModel = this.#names.some((name) => autoencoderNames[name]?.includes(source));
    if (!ofModel && !this.#names.includes(source)) throw notLoaded('request.locations', source, source);
  }

  /** `advised` gives the entry that would allow a path or an address. */
  async #checkSource(field: string, source: string, advised: (source: string) => string): Promise<void> {
    if (isBlobUrl(source)) {
      if (this.#sources.some((entry) => isBelowAddress(source, entry))) return;
      const shown = source.split('?')[0] as string; // a query may hold a signature
      throw notLoaded(field, shown, advised(shown));
    }
    const { isBelow, real } = await resolvePath(source, await realPathsOf(this.#sources));
    if (!isBelow) throw notLoaded(field, shownPath(source, real), advised(real));
  }
}

const notLoaded = (field: string, shown: string, allowed: string): NotAllowed =>
  new NotAllowed(field, `this worker does not load ${shown}`, option('model', allowed));

function entriesOf(name: string, entries: readonly string[]): readonly string[] {
  if (Array.isArray(entries) && entries.every((entry) => typeof entry === 'string' && entry !== '')) return entries;
  throw new TypeError(`queue: allow.${name} must be a list of texts, none of them empty`);
}

// ---- paths

interface ResolvedPath {
  /** Whether the path leads to one of the folders, or below one. */
  readonly isBelow: boolean;
  /** Where the path leads, without links. */
  readonly real: string;
}

async function resolvePath(path: string, folders: readonly string[]): Promise<ResolvedPath> {
  const isBelow = (real: string) =>
    folders.some((folder) => `${real}/`.startsWith(folder === '/' ? folder : `${folder}/`));
  // The system takes .. after a link as the folder above the link's target. join() and resolve(), which are applied
  // first to some paths, take it as the folder that the link lies in. Both must be allowed.
  const readings = [...new Set([path, resolve(path)])]; // mostly one: a corpus may have very many files
  const realPaths = await Promise.all(readings.map((reading) => realPathOf(reading).catch(() => undefined)));
  const [real] = realPaths;
  // there is a loop of links, or a folder that may not be entered
  if (real === undefined || realPaths.includes(undefined)) return { isBelow: false, real: resolve(path) };
  const outside = (realPaths as string[]).find((realPath) => !isBelow(realPath));
  return { isBelow: outside === undefined, real: outside ?? real };
}

/** The real paths of those entries that are paths. */
async function realPathsOf(entries: readonly string[]): Promise<string[]> {
  const paths = entries.filter((entry) => !isBlobUrl(entry));
  const real = await Promise.all(paths.map((path) => realPathOf(path).catch(() => undefined)));
  return real.filter((path) => path !== undefined);
}

const mostLinks = 40;

/** The path without links, as the system resolves it. The file need not exist, nor the targets of links. */
async function realPathOf(path: string, links = 0): Promise<string> {
  const whole = isAbsolute(path) ? path : `${process.cwd()}/${path}`;
  try {
    return await realpath(whole);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if ((code !== 'ENOENT' && code !== 'ENOTDIR') || links > mostLinks) throw error;
    const parent = await realPathOf(dirname(whole), links);
    const below = join(parent, basename(whole));
    const target = await readlink(below).catch(() => undefined); // it is no link
    if (target === undefined) return below;
    return realPathOf(isAbsolute(target) ? target : `${parent}/${target}`, links + 1);
  }
}

const shownPath = (path: string, real: string): string => (resolve(path) === real ? path : `${path}, which is ${real}`);

// ---- advice

const itself = (source: string): string => source;

/** The folder with the files of all layers. */
const folderOf = (source: string): string => dirname(`${source.split('{layer}', 1)[0]}x`);

const option = (name: 'out' | 'corpus' | 'model', value: string): string => `--allow-${name} ${shellQuoted(value)}`;

/** The text as one argument on a shell's command line. */
const shellQuoted = (text: string): string =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
