// The storage client's objects for addresses. The client's own resuming gives up at the first cut connection, so its
// retries are switched off: all retries are in blob_request.ts.
import type {
  BlobClient,
  BlobServiceClient,
  ContainerClient,
  Pipeline,
  StoragePipelineOptions,
} from '@azure/storage-blob';
import type { BlobAddress, StoreAddress } from './blob_address.js';

/** Stands for the ETag of a server that gives none. */
export const noETag = 'none';

const options = { retryOptions: { maxTries: 1 } };

// the client is loaded when the network is first needed: that takes a third of a second
const client = () => import('@azure/storage-blob');

export async function blobClientOf(address: BlobAddress): Promise<BlobClient> {
  const { name, url, connection } = address;
  if (connection) {
    const service = await serviceOf(name, connection.string);
    return service.getContainerClient(connection.container).getBlobClient(connection.blob);
  }
  const { BlobClient } = await client();
  // a pipeline with its own policy serves one client
  return new BlobClient(url, await pipelineOf(address, [{ policy: forOtherServers, position: 'perRetry' }]));
}

export async function containerClientOf(address: StoreAddress): Promise<ContainerClient> {
  const { name, url, container, connection } = address;
  if (connection) return (await serviceOf(name, connection.string)).getContainerClient(container);
  const { ContainerClient } = await client();
  return new ContainerClient(url, await pipelineOf(address));
}

async function serviceOf(name: string, connection: string): Promise<BlobServiceClient> {
  const { BlobServiceClient } = await client();
  try {
    return BlobServiceClient.fromConnectionString(connection, options);
  } catch (cause) {
    throw new Error(`${name}: AZURE_STORAGE_CONNECTION_STRING cannot be used: ${(cause as Error).message}`, { cause });
  }
}

/** A pipeline without credentials other than those in the address. */
async function pipelineOf({ credentials }: { credentials: boolean }, additionalPolicies?: object[]): Promise<Pipeline> {
  const { AnonymousCredential, newPipeline } = await client();
  return newPipeline(new AnonymousCredential(), {
    ...options,
    redirectOptions: { allowCrossOriginRedirects: !credentials }, // file hosts redirect to where their files lie
    ...(additionalPolicies && { additionalPolicies }),
  } as StoragePipelineOptions);
}

/**
 * Other servers than Azure's know only the standard header, and may give no ETag, without which the client reads
 * nothing.
 */
const forOtherServers = {
  name: 'forOtherServers',
  async sendRequest(request: { headers: Headers }, next: (request: object) => Promise<{ headers: Headers }>) {
    const range = request.headers.get('x-ms-range');
    if (range) request.headers.set('Range', range);
    const response = await next(request);
    if (!response.headers.has('etag')) response.headers.set('etag', noETag);
    return response;
  },
};
