// report(): writes one HTML page about a dump, which needs no server, no script and no other file.

import { checkCallback, checkOptions, checkSignal, type OptionNames } from '../../engine/check.js';
import { writeFileAtomically } from '../../files/atomic_write.js';
import { checkWritable, writingFor } from '../../files/write_failure.js';
import type { Dump } from '../read/reader.js';
import { type CollateSelection, checkDump, chosenOf, wholeNumber } from './collate.js';
import { activitiesOf, type Feature, featuresOf, spread } from './report_data.js';
import { pageOf } from './report_page.js';
import { type CollateProgress, ScanMeter } from './scan_progress.js';

export interface ReportOptions {
  /** The file to write. An existing one is replaced. */
  out: string;
  /**
   * Neurons or latents whose strongest texts are shown. When this is left out, some latents of each autoencoder are
   * shown, from often to seldom active.
   */
  selections?: readonly CollateSelection[];
  /** The number of latents of each autoencoder, where there are no selections; 12 when left out. */
  latents?: number;
  /** The number of texts of each neuron or latent; 5 when left out. */
  top?: number;
  onProgress?: (progress: CollateProgress) => void;
  /** When it aborts, the promise rejects with its reason, and no file is written. */
  signal?: AbortSignal;
}

const optionNames: OptionNames<ReportOptions> = {
  ...{ out: true, selections: true, latents: true, top: true },
  ...{ onProgress: true, signal: true },
};

export interface ReportResult {
  readonly out: string;
  /** The number of neurons and latents that are shown. */
  readonly features: number;
}

const mostLatents = 2 ** 24; // of one autoencoder
const mostFeatures = 2000; // browsers are slow with more

/**
 * Writes a page with what is in the dump, how often latents are active, and the texts where chosen ones are strongest.
 * Reads the dump once for each autoencoder and once for each location with chosen neurons or latents.
 * @throws RangeError or TypeError before anything is read when an option is out of range or the dump lacks what is
 *   selected; Error for an empty or broken dump or a disk.
 */
export async function report(dump: Dump, options: ReportOptions): Promise<ReportResult> {
  checkDump('report', dump);
  checkOptions('report', options, optionNames);
  const { out, selections, signal } = options;
  checkSignal('report', signal);
  checkCallback('report', 'onProgress', options.onProgress);
  signal?.throwIfAborted();
  if (typeof out !== 'string' || out === '') throw new TypeError('report: out must be the path of a file');
  const latents = wholeNumber('report', 'latents', options.latents, 12, [1, mostFeatures]);
  const top = wholeNumber('report', 'top', options.top, 5, [1, 100]);
  if (dump.rowCount === 0) throw new Error(`report: ${dump.folder} has no rows`);
  const chosen = selections === undefined ? undefined : chosenOf('report', dump, selections);
  const sparse = dump.manifest.autoencoders.length;
  const passes = sparse + (chosen?.size ?? sparse);
  const records = chosen ? [...chosen.values()].reduce((sum, { size }) => sum + size, 0) : latents * sparse;
  if (records > mostFeatures)
    throw new RangeError(`report: ${records} are selected, but a page shows ${mostFeatures} at most`);
  for (const { location, latents: width } of dump.manifest.autoencoders) {
    if (width <= mostLatents) continue;
    throw new RangeError(
      `report: ${dump.folder}: ${location} has ${width} latents, but a page is about ${mostLatents} at most`,
    );
  }
  await writingFor('report', checkWritable(out));
  await dump.check(); // before memory is taken for what the manifest says
  const meter = new ScanMeter(dump.tokenCount * passes, records, options.onProgress);
  const reading = { dump, signal, meter };
  const activities = await activitiesOf(reading);
  const wanted = chosen
    ? [...chosen].map(([name, indices]) => [name, [...indices]] as const)
    : activities.map((activity) => [activity.name, spread(activity, latents)] as const);
  const features: Feature[] = [];
  for (const [name, indices] of wanted) {
    if (indices.length > 0) features.push(...(await featuresOf(reading, name, indices, top)));
  }
  signal?.throwIfAborted();
  await writingFor('report', writeFileAtomically(out, pageOf(dump, activities, features)));
  return { out, features: features.length };
}
