// A server of blobs for a test: requests for az://openaipublic/ come to it, from this process and from those that it
// starts.
import { createHash } from 'node:crypto';
import { readdir, readlink } from 'node:fs/promises';
import { BlobServer } from './blob_server.js';

/** The address of tests' dumps. */
export const address = 'az://openaipublic/dumps/a b/run';
const folder = '/openaipublic/dumps/a b/run/';

export async function withBlobServer(body: (server: BlobServer) => Promise<void>): Promise<void> {
  await using server = await BlobServer.start();
  server.account.addContainer('openaipublic/dumps');
  const before = { ...process.env };
  process.env.SONDE_BLOB_ENDPOINT = server.endpoint;
  for (const name of Object.keys(process.env)) if (name.startsWith('AZURE_STORAGE_')) delete process.env[name];
  try {
    await body(server);
  } finally {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

/** The server's path of a file of `address`. */
export const pathOf = (file: string): string => `${folder}${file}`;

/** Every blob below `address` with its bytes. */
export function blobsOf({ account }: BlobServer): Map<string, Buffer> {
  const found = [...account.blobs].filter(([path]) => path.startsWith(folder));
  return new Map(found.map(([path, { content }]) => [path.slice(folder.length), content as Buffer]));
}

/** Every blob below `address` with the hash of its bytes, as `contentsOf` of a folder. */
export const hashesOf = (server: BlobServer): Record<string, string> =>
  Object.fromEntries(
    [...blobsOf(server)]
      .map(([name, bytes]) => [name, `${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );

/** Files with blocks that are not committed. */
export const uncommittedOf = ({ account }: BlobServer): string[] =>
  [...account.blocks.keys()].map((path) => path.slice(folder.length));

/** Files of this process that have no name any more, as drafts are. */
export async function namelessFiles(): Promise<string[]> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ''));
  return (await Promise.all(links)).filter((link) => link.endsWith(' (deleted)'));
}
