// Addresses of blobs, az://account/container/path as the original writes them or any https:// address, and of dumps,
// az://account/container/prefix. Each is converted into the URL to request, with the credentials from the environment
// that are meant for it: one account's credentials are never sent to another's address.
import { join } from 'node:path';
import { withEscapes } from '../text.js';

export interface BlobAddress {
  /**
   * The address for messages and for the cache. An https:// address is here as the URL parser reads it, and without its
   * query, which may hold a signature. An az:// address is as it was given.
   */
  readonly name: string;
  /** The URL to request, still without credentials from the environment; its query is as it was given. */
  readonly url: string;
  /** The last part of the path. */
  readonly baseName: string;
  /** Whether the environment's credentials go with the request: then it may not be redirected to another host. */
  readonly credentials: boolean;
  /** Set when the environment holds a connection string for this account. */
  readonly connection?: { readonly string: string; readonly container: string; readonly blob: string };
}

/** The address of many blobs: those whose names begin with `prefix/`, or all of a container. */
export interface StoreAddress {
  /** The address as it was given, without slashes at the end. */
  readonly name: string;
  /** The container's URL. */
  readonly url: string;
  readonly container: string;
  /** The prefix of its blobs' names: empty, or with a slash at the end. */
  readonly prefix: string;
  readonly credentials: boolean;
  /** Set when the environment holds a connection string for this account. */
  readonly connection?: { readonly string: string };
}

type Environment = Readonly<Record<string, string | undefined>>;

const publicHost = 'openaipublic.blob.core.windows.net';
const hostSuffix = '.blob.core.windows.net';
const accountPattern = /^[a-z0-9]{3,24}$/;

/** Whether a text is an address on the network rather than a path. */
export const isBlobUrl = (text: string): boolean => /^(az|https?):\/\//i.test(text);

/** A name below a folder or an address; a query (a signature, say) stays at the end. */
export function joined(base: string, relative: string): string {
  if (!isBlobUrl(base)) return join(base, relative);
  const at = /^az:/i.test(base) ? -1 : base.indexOf('?'); // in az://, ? is a character like any other
  const [path, query] = at < 0 ? [base, ''] : [base.slice(0, at), base.slice(at)];
  return `${path.replace(/\/+$/, '')}/${relative}${query}`;
}

/** @throws Error that says what is wrong with the address or with SONDE_BLOB_ENDPOINT. */
export function parseBlobAddress(text: string, environment: Environment = process.env): BlobAddress {
  return /^az:/i.test(text) ? ofAzure(text, environment) : ofHttp(text, environment);
}

/** @throws Error that says what is wrong with the address or with SONDE_BLOB_ENDPOINT. */
export function parseStoreAddress(text: string, environment: Environment = process.env): StoreAddress {
  const given = text.split('?')[0] as string; // a query may hold a signature
  if (!/^az:/i.test(text)) {
    throw new Error(`${given}: dumps in object storage have addresses such as az://account/container/prefix`);
  }
  const name = text.replace(/\/+$/, '');
  const { account, container, path } = azureParts(name);
  if (!isContainer(account, container) || !(path === '' || isPlainPath(path))) {
    throw new Error(
      `${withEscapes(text)}: is no place for a dump; it must read az://account/container/prefix, ${plainParts}`,
    );
  }
  const base = `${serviceOf(account, environment)}/${container}`;
  const { signature, connection } = credentialsFor(account, environment);
  return {
    ...{ name, container, prefix: path === '' ? '' : `${path}/` },
    url: signature === undefined ? base : `${base}?${signature}`,
    credentials: signature !== undefined || connection !== undefined,
    ...(connection !== undefined && { connection: { string: connection } }),
  };
}

function ofAzure(text: string, environment: Environment): BlobAddress {
  const { account, container, path: blob } = azureParts(text);
  if (!isContainer(account, container) || !isPlainPath(blob)) {
    throw new Error(
      `${withEscapes(text)}: is no address of a blob; it must read az://account/container/path, ${plainParts}`,
    );
  }
  const path = `${container}/${blob.split('/').map(encodeURIComponent).join('/')}`;
  return withCredentials(
    { name: text, account, container, blob, url: `${serviceOf(account, environment)}/${path}` },
    environment,
  );
}

const plainParts = 'without empty parts, . and .. and without control characters';

// URL parsers resolve . and .., which can lead out of the container, and servers take \ for /.
const isPlainPath = (path: string): boolean => !path.split('/').includes('') && hasPlainParts(path);
const hasPlainParts = (path: string): boolean =>
  !/[\p{Cc}\p{Cs}]/u.test(path) && path.split(/[/\\]/).every((part) => part !== '.' && part !== '..');

/**
 * Whether an address is `above`, or begins with it, part by part. False for an address that could lead elsewhere than
 * it shows.
 */
export function isBelowAddress(address: string, above: string): boolean {
  const parts = partsOf(address);
  return parts !== undefined && partsOf(above)?.every((part, i) => parts[i] === part) === true;
}

function partsOf(address: string): string[] | undefined {
  if (!isBlobUrl(address)) return undefined;
  const parts =
    address.slice(0, 3).toLowerCase() === 'az:' ? address.slice('az://'.length).split('/') : partsOfUrl(address);
  while (parts.length > 1 && parts.at(-1) === '') parts.pop(); // slashes at the end
  const isPlain = parts.map(tryDecode).every((part) => part !== undefined && part !== '' && hasPlainParts(part));
  return isPlain ? [address.slice(0, address.indexOf(':')).toLowerCase(), ...parts] : undefined;
}

function partsOfUrl(address: string): string[] {
  if (!URL.canParse(address)) return [''];
  const { host, pathname } = new URL(address);
  return [host, ...pathname.slice(1).split('/')];
}

function azureParts(text: string): { account: string; container: string; path: string } {
  const [, account = '', container = '', path = ''] = /^az:\/\/([^/]*)\/([^/]*)(?:\/(.*))?$/i.exec(text) ?? [];
  return { account, container, path };
}

const isContainer = (account: string, container: string): boolean =>
  accountPattern.test(account) && /^[a-z0-9$-]{3,63}$/.test(container);

function ofHttp(text: string, environment: Environment): BlobAddress {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new Error(`${text}: is no address of a file`, { cause });
  }
  const name = `${url.origin}${url.pathname}`;
  if (url.username || url.password) throw new Error(`${name}: an address must not hold a user name or a password`);
  if (url.pathname.endsWith('/')) throw new Error(`${name}: is no address of a file: it ends with /`);
  url.hash = '';
  if (url.protocol !== 'https:' || !url.hostname.endsWith(hostSuffix)) return plain(name, url.href);
  const account = url.hostname.slice(0, -hostSuffix.length);
  const [container = '', ...rest] = url.pathname.slice(1).split('/').map(decoded);
  if (!hasPlainParts([container, ...rest].join('/'))) {
    throw new Error(
      `${name}: is no address of a blob: its path, decoded, must be without . and .. and control characters`,
    );
  }
  const full = `${serviceOf(account, environment)}${url.pathname}${url.search}`;
  if (url.search !== '') return plain(name, full); // it brings its own signature
  return withCredentials({ name, account, container, blob: rest.join('/'), url: full }, environment);
}

interface AzureBlob {
  readonly name: string;
  readonly account: string;
  readonly container: string;
  readonly blob: string;
  readonly url: string;
}

function withCredentials({ name, account, container, blob, url }: AzureBlob, environment: Environment): BlobAddress {
  const { signature, connection } = credentialsFor(account, environment);
  if (connection !== undefined)
    return { ...plain(name, url), credentials: true, connection: { string: connection, container, blob } };
  if (signature !== undefined) return { ...plain(name, `${url}?${signature}`), credentials: true };
  return plain(name, url);
}

/** The credentials of an account in the environment: a connection string, or a signature. */
function credentialsFor(account: string, environment: Environment): { connection?: string; signature?: string } {
  const connection = environment.AZURE_STORAGE_CONNECTION_STRING;
  if (connection && connectionAccount(connection) === account) return { connection };
  const signature = environment.AZURE_STORAGE_SAS_TOKEN?.replace(/^\?/, '');
  return signature && environment.AZURE_STORAGE_ACCOUNT === account ? { signature } : {};
}

const plain = (name: string, url: string): BlobAddress => ({
  name,
  url,
  baseName: decoded(name.split('/').at(-1) ?? ''),
  credentials: false,
});

/** The address of an account's containers. */
function serviceOf(account: string, environment: Environment): string {
  const host = `${account}${hostSuffix}`;
  const connection = environment.AZURE_STORAGE_CONNECTION_STRING ?? '';
  if (connectionAccount(connection) === account) {
    const endpoint = /(?:^|;)BlobEndpoint=([^;]+)/i.exec(connection)?.[1];
    if (endpoint) return endpoint.replace(/\/+$/, '');
  }
  const endpoint = environment.SONDE_BLOB_ENDPOINT;
  if (host !== publicHost || !endpoint) return `https://${host}`;
  if (URL.canParse(endpoint) && /^https?:/i.test(endpoint)) return endpoint.replace(/\/+$/, '');
  throw new Error(
    `SONDE_BLOB_ENDPOINT must be an address such as https://mirror.example/openaipublic, but is ${JSON.stringify(endpoint)}`,
  );
}

const connectionAccount = (string: string): string | undefined => /(?:^|;)AccountName=([^;]+)/i.exec(string)?.[1];

/** The text without percent signs for characters; undefined when they stand for none. */
function tryDecode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

const decoded = (text: string): string => tryDecode(text) ?? text;
