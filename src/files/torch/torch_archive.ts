// The two containers of torch.save behind one interface: a zip archive (PyTorch 1.6 and later: data.pkl and one stored
// entry per storage) and the older stream (five pickles, then the storages one after another). Both give the pickled
// value and the location of each storage; locations are inside the file and do not overlap.
import { crc32 } from 'node:zlib';
import yauzl from 'yauzl';
import { type LocalSource, sourceSlices } from '../byte_source.js';
import { shown } from '../text.js';
import { largestPickle, PickleEndsEarly, unpickle } from './pickle.js';
import type { Storage, TorchNames } from './torch_names.js';

export interface TorchArchive {
  readonly value: unknown;
  /** The storages that the value mentions. */
  readonly storages: readonly Storage[];
  /** The bytes of one storage, in a buffer of their own. */
  read(storage: Storage): Promise<Uint8Array<ArrayBuffer>>;
  /** The bytes of one storage, slice by slice, each in `buffer`. Damage may be found only at the end. */
  slices(storage: Storage, buffer: ArrayBuffer): AsyncGenerator<Uint8Array>;
}

type Fail = (message: string) => never;

const zipMagic = 0x04034b50;

export async function openTorchArchive(source: LocalSource, names: () => TorchNames): Promise<TorchArchive> {
  const fail: Fail = (message) => {
    throw new Error(`${source.name}: ${message}`);
  };
  const head = Buffer.from((await source.read(0, Math.min(source.size, 4))).buffer);
  if (head.length < 4) fail(`is no file of torch.save: it has ${source.size} bytes`);
  if (head.readUInt32LE(0) === zipMagic) return openZip(source, names(), fail);
  if (head[0] === 0x80) return openStream(source, names, fail);
  return fail('is no file of torch.save: it begins as neither a zip archive nor a pickle');
}

// the zip archive

interface Region {
  readonly name: string;
  readonly header: number;
  readonly start: number;
  readonly bytes: number;
  readonly crc: number;
}

export const mostEntries = 100_000;
const smallEntry = 64;

async function openZip(source: LocalSource, names: TorchNames, fail: Fail): Promise<TorchArchive> {
  const zip = await openDirectory(source, fail);
  const entries = await listEntries(zip, fail);
  const folder = folderOf(entries, fail);
  const locate = (name: string) => locateEntry(zip, entries, `${folder}${name}`, fail);
  const readAll = async (name: string, most: number) => {
    const region = await locate(name);
    if (region.bytes > most) fail(`${shown(region.name)} has ${region.bytes} bytes, more than ${most}`);
    return { region, bytes: await readRegion(source, region, fail) };
  };

  if (entries.has(`${folder}byteorder`)) {
    const order = Buffer.from((await readAll('byteorder', smallEntry)).bytes).toString('latin1');
    if (order !== 'little') fail(`byte order ${shown(order)} is not supported`);
  }
  const pickled = await readAll('data.pkl', largestPickle);
  const { value } = unpickle(pickled.bytes, 0, names);
  const regions = new Map<Storage, Region>();
  for (const storage of names.storages.values()) {
    const region = await locate(`data/${storage.key}`);
    if (region.bytes !== storage.bytes) {
      const announced = `${storage.length} elements of ${storage.dtype}`;
      fail(`storage ${shown(storage.key)} has ${region.bytes} bytes, but must have ${storage.bytes} (${announced})`);
    }
    regions.set(storage, region);
  }
  checkApart([pickled.region, ...regions.values()], fail);
  return {
    value,
    storages: [...regions.keys()],
    read: (storage) => readRegion(source, regions.get(storage) as Region, fail),
    slices: (storage, buffer) => regionSlices(source, regions.get(storage) as Region, buffer, fail),
  };
}

function openDirectory({ raw }: LocalSource, fail: Fail): Promise<yauzl.ZipFile> {
  const options = { lazyEntries: true, autoClose: false };
  const opening = typeof raw === 'number' ? yauzl.fromFdPromise(raw, options) : yauzl.fromBufferPromise(raw, options);
  return orDamaged(opening, fail);
}

async function listEntries(zip: yauzl.ZipFile, fail: Fail): Promise<Map<string, yauzl.Entry>> {
  if (zip.entryCount > mostEntries) fail(`the archive has ${zip.entryCount} entries, more than ${mostEntries}`);
  const entries = new Map<string, yauzl.Entry>();
  const listing = zip.eachEntry();
  for (;;) {
    const { value: entry, done } = await orDamaged(listing.next(), fail);
    if (done) return entries;
    if (entries.has(entry.fileName)) fail(`two entries have the name ${shown(entry.fileName)}`);
    entries.set(entry.fileName, entry);
  }
}

async function orDamaged<T>(work: Promise<T>, fail: Fail): Promise<T> {
  try {
    return await work;
  } catch (error) {
    return fail(`is a damaged zip archive, or cut short: ${shown((error as Error).message)}`);
  }
}

function folderOf(entries: ReadonlyMap<string, unknown>, fail: Fail): string {
  const folders = [...entries.keys()].filter((name) => /(^|\/)data\.pkl$/.test(name)).map((name) => name.slice(0, -8));
  if (folders.length > 1) fail('has more than one data.pkl');
  const [folder] = folders;
  if (folder === undefined) return fail('is a zip archive without data.pkl, no file of torch.save');
  if (entries.has(`${folder}constants.pkl`)) fail('is a TorchScript program; only what torch.save wrote can be read');
  return folder;
}

async function locateEntry(
  zip: yauzl.ZipFile,
  entries: ReadonlyMap<string, yauzl.Entry>,
  name: string,
  fail: Fail,
): Promise<Region> {
  const entry = entries.get(name) ?? fail(`has no entry ${shown(name)}`);
  if (entry.isEncrypted()) fail(`entry ${shown(name)} is encrypted`);
  if (entry.compressionMethod !== 0) fail(`entry ${shown(name)} is compressed; torch.save stores as is`);
  const local = await orDamaged(zip.readLocalFileHeaderPromise(entry, { minimal: false }), fail);
  if (!local.fileName.equals(entry.fileNameRaw)) fail(`entry ${shown(name)} has another name where its data lie`);
  const header = entry.relativeOffsetOfLocalHeader;
  return { name, header, start: local.fileDataStart, bytes: entry.compressedSize, crc: entry.crc32 };
}

// Entries on top of each other would let a small file ask for any amount of memory.
function checkApart(regions: Region[], fail: Fail): void {
  const sorted = [...regions].sort((a, b) => a.header - b.header);
  sorted.reduce((before, region) => {
    if (region.header < before.start + before.bytes)
      fail(`entries ${shown(before.name)} and ${shown(region.name)} overlap`);
    return region;
  });
}

async function readRegion(source: LocalSource, { name, start, bytes, crc }: Region, fail: Fail) {
  const content = await source.read(start, bytes);
  checkSum(name, crc32(content), crc, fail);
  return content;
}

async function* regionSlices(
  source: LocalSource,
  { name, start, bytes, crc }: Region,
  buffer: ArrayBuffer,
  fail: Fail,
) {
  let sum = 0;
  for await (const slice of sourceSlices(source, start, bytes, buffer)) {
    sum = crc32(slice, sum);
    yield slice;
  }
  checkSum(name, sum, crc, fail);
}

function checkSum(name: string, sum: number, crc: number, fail: Fail): void {
  if (sum !== crc) fail(`entry ${shown(name)} is damaged: its CRC-32 does not fit`);
}

// the older stream

const streamMagic = 0x1950a86a20f9469cfc6cn;
const streamVersion = 1001;
/** How many bytes of the file are read for its pickles: the first window, and the next one if that was not enough. */
const windows = [2 ** 18, 2 ** 22, largestPickle];

interface Pickles {
  readonly names: TorchNames;
  readonly value: unknown;
  readonly keys: unknown;
  readonly end: number;
}

async function openStream(source: LocalSource, names: () => TorchNames, fail: Fail): Promise<TorchArchive> {
  const pickles = await readPickles(source, names, fail);
  const starts = await locateStorages(source, pickles, fail);
  return {
    value: pickles.value,
    storages: [...starts.keys()],
    read: (storage) => source.read(starts.get(storage) as number, storage.bytes),
    slices: (storage, buffer) => sourceSlices(source, starts.get(storage) as number, storage.bytes, buffer),
  };
}

async function readPickles(source: LocalSource, names: () => TorchNames, fail: Fail): Promise<Pickles> {
  for (const window of windows) {
    const bytes = await source.read(0, Math.min(window, source.size));
    try {
      return parsePickles(bytes, names(), fail);
    } catch (error) {
      if (!(error instanceof PickleEndsEarly) || window >= source.size) throw error;
    }
  }
  return fail(`its pickles take more than ${largestPickle} bytes`);
}

function parsePickles(bytes: Uint8Array, names: TorchNames, fail: Fail): Pickles {
  let end = 0;
  const next = () => {
    const part = unpickle(bytes, end, names);
    end = part.end;
    return part.value;
  };
  if (next() !== streamMagic) fail('is a pickle, but no file of torch.save');
  const version = next();
  if (version !== streamVersion) fail(`protocol version ${shown(version)} of torch.save is not supported`);
  const system = next();
  if (!(system instanceof Map) || system.get('little_endian') !== true) fail('its byte order is not little-endian');
  const value = next();
  const keys = next();
  return { names, value, keys, end };
}

/** Locates the storages. They follow one another: the number of elements in 8 bytes, then the elements. */
async function locateStorages(
  source: LocalSource,
  { names, keys, end }: Pickles,
  fail: Fail,
): Promise<Map<Storage, number>> {
  if (!Array.isArray(keys)) return fail('has no list of storages');
  const starts = new Map<Storage, number>();
  let at = end;
  for (const key of keys) {
    const storage = names.storages.get(typeof key === 'number' ? String(key) : (key as string));
    if (!storage || starts.has(storage))
      return fail(`lists storage ${shown(key)}, which no tensor has, or lists it twice`);
    const length = Buffer.from((await source.read(at, 8)).buffer).readBigInt64LE();
    if (length !== BigInt(storage.length)) {
      fail(`storage ${shown(key)} has ${length} elements, but its tensors say ${storage.length}`);
    }
    starts.set(storage, at + 8);
    at += 8 + storage.bytes;
  }
  for (const storage of names.storages.values()) {
    if (!starts.has(storage)) fail(`does not list storage ${shown(storage.key)}`);
  }
  if (at > source.size) fail(`is cut short: ${at} bytes are announced, the end is ${source.size}`);
  return starts;
}
