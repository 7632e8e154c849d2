// Azurite, Microsoft's emulator of Azure's blob storage, for a test. It is large, so it is not a dependency:
//   npm install --prefix /some/folder azurite@3.37.0
//   SONDE_TEST_AZURITE=/some/folder npm test -- azurite
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { BlobServiceClient } from '@azure/storage-blob';
import { withFolder } from '../folders.js';
import { freePort } from '../machine.js';

/** Where it is installed. */
export const azuriteFolder = process.env.SONDE_TEST_AZURITE;
export const azuriteMissing = 'SONDE_TEST_AZURITE names no folder with Azurite';

// the account that every emulator has; its key is public
export const account = 'devstoreaccount1';
const key = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';

export const endpointOf = (port: number): string => `http://127.0.0.1:${port}/${account}`;

export const connectionOf = (port: number): string =>
  `DefaultEndpointsProtocol=http;AccountName=${account};AccountKey=${key};BlobEndpoint=${endpointOf(port)};`;

/** Starts an empty one; this process has a cache of its own. Changes of the environment by `body` are undone. */
export const withAzurite = (body: (port: number, service: BlobServiceClient) => Promise<void>): Promise<void> =>
  withFolder(async (cache) => {
    const before = { ...process.env };
    process.env.SONDE_CACHE = cache;
    const port = await freePort();
    const main = join(azuriteFolder as string, 'node_modules/azurite/dist/src/blob/main.js');
    const options = ['--blobHost', '127.0.0.1', '--blobPort', String(port), '--inMemoryPersistence', '--silent'];
    const azurite = spawn(process.execPath, [main, ...options, '--disableTelemetry', '--skipApiVersionCheck'], {
      cwd: cache,
      stdio: 'ignore',
    });
    try {
      const service = BlobServiceClient.fromConnectionString(connectionOf(port));
      while (!(await service.getProperties().catch(() => undefined))) await new Promise((r) => setTimeout(r, 100));
      await body(port, service);
    } finally {
      azurite.kill('SIGKILL');
      for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
      Object.assign(process.env, before);
    }
  });
