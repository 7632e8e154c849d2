// The folder of the reference files, and hand-made files of torch.save: a few lines that put pickles and zip archives
// together, well-formed or not.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32, deflateRawSync } from 'node:zlib';

export const goldens = join(dirname(fileURLToPath(import.meta.url)), '../../../test/fixtures/goldens');
export const goldenFolders = ['tiny', 'narrow-attn'];
export const goldenAutoencoders = ['relu', 'relu_tensors', 'relu_legacy', 'relu_half', 'topk', 'identity', 'tied'];

// Pickles are put together as text of one character per byte.

const littleEndian = (value: number | bigint, bytes: number): string => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigInt64LE(BigInt(value));
  return buffer.toString('latin1', 0, bytes);
};

export const text = (s: string): string => {
  const utf8 = Buffer.from(s).toString('latin1');
  return `X${littleEndian(utf8.length, 4)}${utf8}`;
};

/** A whole number of any size, as LONG1. */
export const int = (value: number | bigint): string => {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value) >> 64n), 8);
  return `\x8a\x10${bytes.toString('latin1')}`;
};

export const tuple = (...items: string[]): string => `(${items.join('')}t`;
export const list = (...items: string[]): string => `](${items.join('')}e`;
export const dict = (...items: string[]): string => `}(${items.join('')}u`;
export const call = (name: string, ...args: string[]): string =>
  `c${name.replace(/\.(?=\w+$)/, '\n')}\n${tuple(...args)}R`;

export const storage = (key: string, length: number | bigint, type = 'FloatStorage'): string =>
  `${tuple(text('storage'), `ctorch\n${type}\n`, text(key), text('cpu'), int(length))}Q`;

export const tensor = (
  of: string,
  offset: number | bigint,
  shape: readonly (number | bigint)[],
  strides: readonly (number | bigint)[],
  ...flags: string[]
): string =>
  call(
    'torch._utils._rebuild_tensor_v2',
    of,
    int(offset),
    tuple(...shape.map(int)),
    tuple(...strides.map(int)),
    '\x89',
    call('collections.OrderedDict'),
    ...flags,
  );

const pickle = (body: string): Buffer => Buffer.from(`\x80\x02${body}.`, 'latin1');

export interface Block {
  readonly key: string;
  readonly data: Float64Array | Float32Array | Uint8Array | BigInt64Array | Uint16Array;
}

/** A file in the older container, around the pickle of a value. */
export function streamOf(value: string, storages: readonly Block[] = []): Buffer {
  const head = ['\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19', int(1001), dict(text('little_endian'), '\x88')];
  const keys = list(...storages.map(({ key }) => text(key)));
  const blocks = storages.map(({ data }) => {
    return Buffer.concat([Buffer.from(littleEndian(data.length, 8), 'latin1'), bytesOf(data)]);
  });
  return Buffer.concat([...[...head, value, keys].map(pickle), ...blocks]);
}

const bytesOf = (data: Block['data']) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

export interface Entry {
  readonly name: string;
  readonly content: Buffer;
  readonly compressed?: boolean;
  /** False entries of the directory, for damaged archives. */
  readonly at?: number;
  readonly size?: number;
  readonly crc?: number;
}

/** The entries of a file in the zip container. */
export const entriesOf = (value: string, storages: readonly Block[] = []): Entry[] => [
  { name: 'a/data.pkl', content: pickle(value) },
  { name: 'a/byteorder', content: Buffer.from('little') },
  ...storages.map(({ key, data }) => ({ name: `a/data/${key}`, content: bytesOf(data) })),
];

/** A zip archive (APPNOTE.TXT 6.3, sections 4.3 and 4.5.3). With zip64, sizes and positions are written in 8 bytes. */
export function zipOf(entries: readonly Entry[], { zip64 = false } = {}): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const entry of entries) {
    const stored = entry.compressed ? deflateRawSync(entry.content) : entry.content;
    const start = entry.at ?? at;
    const sizes = [entry.size ?? stored.length, entry.size ?? entry.content.length];
    const [packed, size] = zip64 ? [0xffffffff, 0xffffffff] : (sizes as [number, number]);
    const extra = zip64
      ? [2, 2, 8, 8, 8].map((n, i) => littleEndian([1, 24, sizes[1], sizes[0], start][i] as number, n)).join('')
      : '';
    const common = [
      littleEndian(45, 2),
      littleEndian(0x800, 2),
      littleEndian(entry.compressed ? 8 : 0, 2),
      littleEndian(0, 4),
      littleEndian(entry.crc ?? crc32(entry.content), 4),
      littleEndian(packed, 4),
      littleEndian(size, 4),
      littleEndian(Buffer.byteLength(entry.name), 2),
    ].join('');
    const name = Buffer.from(entry.name).toString('latin1');
    const local = Buffer.concat([latin(`PK\x03\x04${common}\0\0${name}`), stored]);
    locals.push(local);
    const where = littleEndian(zip64 ? 0xffffffff : start, 4);
    directory.push(
      latin(`PK\x01\x02\x2d\0${common}${littleEndian(extra.length, 2)}${'\0'.repeat(10)}${where}${name}${extra}`),
    );
    at += local.length;
  }
  const central = Buffer.concat(directory);
  const counts = (n: number) => littleEndian(entries.length, n).repeat(2);
  const end64 = zip64
    ? [
        `PK\x06\x06${littleEndian(44, 8)}\x2d\0\x2d\0${'\0'.repeat(8)}${counts(8)}`,
        littleEndian(central.length, 8),
        littleEndian(at, 8),
        `PK\x06\x07\0\0\0\0${littleEndian(at + central.length, 8)}\x01\0\0\0`,
      ].join('')
    : '';
  const [count, size, offset] = zip64 ? ['\xff'.repeat(4), 0xffffffff, 0xffffffff] : [counts(2), central.length, at];
  const end = `PK\x05\x06\0\0\0\0${count}${littleEndian(size as number, 4)}${littleEndian(offset as number, 4)}\0\0`;
  return Buffer.concat([...locals, central, latin(end64 + end)]);
}

const latin = (s: string) => Buffer.from(s, 'latin1');
