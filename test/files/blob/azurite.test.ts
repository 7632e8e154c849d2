// openBlob against Azurite, Microsoft's emulator of Azure's blob storage (to run it, see
// test/support/blobs/azurite.ts). Oracle: the bytes that the storage client uploaded.
import { createHash } from 'node:crypto';
import { connect, createServer } from 'node:net';
import {
  BlobSASPermissions,
  type BlobServiceClient,
  generateBlobSASQueryParameters,
  type StorageSharedKeyCredential,
} from '@azure/storage-blob';
import * as assert from 'uvu/assert';
import { openBlob } from '../../../src/files/blob/blob.js';
import { clearCache } from '../../../src/files/blob/blob_cache.js';
import {
  account,
  azuriteFolder,
  azuriteMissing,
  connectionOf,
  endpointOf,
  withAzurite,
} from '../../support/blobs/azurite.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('azurite');
test.limit(120_000);
const title = 'public, private and signed blobs, cut connections, a blob that is replaced';
/** A proxy that cuts each connection after so many bytes of the answer. */
async function startProxy(target: number, cutAfter: number): Promise<{ port: number; close(): void; cuts(): number }> {
  let cuts = 0;
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    let bytes = 0;
    client.pipe(upstream);
    upstream.on('data', (part) => {
      bytes += part.length;
      client.write(part);
      if (bytes < cutAfter) return;
      cuts++;
      client.destroy();
      upstream.destroy();
    });
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.on('error', () => to.destroy()).on('close', () => to.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { port: (server.address() as { port: number }).port, close: () => server.close(), cuts: () => cuts };
}

async function run(port: number, service: BlobServiceClient): Promise<void> {
  const proxy = await startProxy(port, 3_000_000);
  try {
    const bytes = Buffer.alloc(21 * 2 ** 20 + 7, 'what is essential ');
    const upload = async (container: string, data: Buffer, access?: 'blob') => {
      const client = service.getContainerClient(container);
      await client.createIfNotExists(access ? { access } : {});
      await client.getBlockBlobClient('a b/x.pt').uploadData(data, { blockSize: 2 ** 22 });
      return client.getBlobClient('a b/x.pt');
    };
    await upload('public', bytes, 'blob');
    const secret = await upload('private', bytes);
    const fetched = async (address: string): Promise<Buffer> => {
      await using file = await openBlob(address);
      assert.is(
        file.sha256,
        createHash('sha256')
          .update(await file.read())
          .digest('hex'),
      );
      return Buffer.from(await file.read());
    };
    process.env.SONDE_BLOB_ENDPOINT = endpointOf(port);
    assert.ok(bytes.equals(await fetched('az://openaipublic/public/a b/x.pt')));
    await rejects(fetched('az://openaipublic/private/a b/x.pt'), /access is denied|there is no such blob/);
    await rejects(fetched('az://openaipublic/public/none'), /there is no such blob \(404\)/);

    process.env.AZURE_STORAGE_CONNECTION_STRING = connectionOf(port);
    assert.ok(bytes.equals(await fetched(`az://${account}/private/a b/x.pt`)));
    delete process.env.AZURE_STORAGE_CONNECTION_STRING;
    const signature = generateBlobSASQueryParameters(
      {
        containerName: 'private',
        blobName: 'a b/x.pt',
        permissions: BlobSASPermissions.parse('r'),
        expiresOn: new Date(Date.now() + 600_000),
      },
      service.credential as StorageSharedKeyCredential,
    );
    await clearCache();
    assert.ok(bytes.equals(await fetched(`${secret.url}?${signature}`)));

    await clearCache();
    process.env.SONDE_BLOB_ENDPOINT = endpointOf(proxy.port);
    assert.ok(bytes.equals(await fetched('az://openaipublic/public/a b/x.pt')));
    assert.ok(proxy.cuts() >= 5, `${proxy.cuts()} connections were cut`);

    await clearCache();
    const newer = Buffer.alloc(24 * 2 ** 20, 'is invisible ');
    let replaced = false;
    await using file = await openBlob('az://openaipublic/public/a b/x.pt', {
      onProgress({ bytes: came }) {
        if (came < 2 ** 20 || replaced) return;
        replaced = true;
        void upload('public', newer);
      },
    });
    const got = Buffer.from(await file.read());
    assert.ok(got.equals(newer) || got.equals(bytes), 'one of the two, whole');
  } finally {
    proxy.close();
  }
}

if (azuriteFolder === undefined) test.skip(title, azuriteMissing);
else test(title, () => withAzurite(run));

test.run();
