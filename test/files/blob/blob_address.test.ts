// Addresses of blobs. Oracle: tables written by hand, and Azure's documented format of addresses.
import * as assert from 'uvu/assert';
import { isBlobUrl, joined, parseBlobAddress } from '../../../src/files/blob/blob_address.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('blob address');
const url = (text: string, environment: Record<string, string> = {}) => parseBlobAddress(text, environment).url;

test('az:// and https://', () => {
  assert.is(url('az://openaipublic/a-b/c/d.pt'), 'https://openaipublic.blob.core.windows.net/a-b/c/d.pt');
  assert.is(
    url('az://account1/abc/a b/ü?#%.pt'),
    'https://account1.blob.core.windows.net/abc/a%20b/%C3%BC%3F%23%25.pt',
  );
  assert.is(url('https://host.example/a/b.pt?x=1#part'), 'https://host.example/a/b.pt?x=1');
  assert.is(parseBlobAddress('https://host.example/a/b.pt?x=1').name, 'https://host.example/a/b.pt');
  assert.is(parseBlobAddress('az://account1/abc/a/b c.pt').baseName, 'b c.pt');
});

test('SONDE_BLOB_ENDPOINT replaces the public account only', () => {
  const environment = { SONDE_BLOB_ENDPOINT: 'http://127.0.0.1:10000/openaipublic/' };
  assert.is(url('az://openaipublic/abc/x', environment), 'http://127.0.0.1:10000/openaipublic/abc/x');
  const public_ = 'https://openaipublic.blob.core.windows.net/abc/x%20y?sig=1';
  assert.is(url(public_, environment), 'http://127.0.0.1:10000/openaipublic/abc/x%20y?sig=1');
  assert.is(url('az://other1/abc/x', environment), 'https://other1.blob.core.windows.net/abc/x');
  assert.is(url('https://host.example/x', environment), 'https://host.example/x');
  for (const SONDE_BLOB_ENDPOINT of ['mirror', 'file:///mirror']) {
    assert.throws(
      () => url('az://openaipublic/abc/x', { SONDE_BLOB_ENDPOINT }),
      /SONDE_BLOB_ENDPOINT must be an address/,
    );
  }
});

test('credentials', () => {
  const connection =
    'DefaultEndpointsProtocol=https;AccountName=mine12;AccountKey=a2V5;EndpointSuffix=core.windows.net';
  const own = parseBlobAddress('az://mine12/abc/d/e f', { AZURE_STORAGE_CONNECTION_STRING: connection });
  assert.equal(own.connection, { string: connection, container: 'abc', blob: 'd/e f' });
  const http = 'https://mine12.blob.core.windows.net/abc/d/e%20f';
  assert.equal(parseBlobAddress(http, { AZURE_STORAGE_CONNECTION_STRING: connection }).connection, own.connection);
  const other = parseBlobAddress('az://mine123/abc/d', { AZURE_STORAGE_CONNECTION_STRING: connection });
  assert.is(other.connection, undefined);
  const signature = { AZURE_STORAGE_ACCOUNT: 'mine12', AZURE_STORAGE_SAS_TOKEN: '?sig=1' };
  assert.is(url('az://mine12/abc/d', signature), 'https://mine12.blob.core.windows.net/abc/d?sig=1');
  assert.is(url(`${http}?sig=2`, signature), `${http}?sig=2`);
  assert.is(url('az://openaipublic/abc/d', signature), 'https://openaipublic.blob.core.windows.net/abc/d');
});

test('texts that are no addresses', () => {
  for (const text of [
    'az://',
    'az://a/b',
    'az://account1/abc',
    'az://account1/abc/',
    'az://Account1/abc/x',
    'az://evil.example/abc/x',
    'az://a@b1/abc/x',
    'az://account1/abc/../other/x',
    'az://account1/abc/a/../../other/x',
    'az://account1/abc/a/..',
    'az://account1/abc/./x',
    'az://account1/abc//x',
    'az://account1/abc/a//x',
    'az://account1/abc/a\\..\\..\\other\\x',
    'az://account1/abc/a/..\\x',
    'az://account1/abc/x\0',
    'az://account1/abc/x\ny',
    'az://account1/abc/\u001b[2Jx',
    'az://account1/abc/\ud800',
  ]) {
    const { message } = throws(() => url(text), Error, /it must read az:\/\/account\/container\/path/);
    assert.not.match(message, /\p{Cc}/u);
  }
  assert.throws(() => url('https://'), /is no address of a file/);
  assert.throws(() => url('https://host.example/a/'), /it ends with \//);
  assert.throws(() => url('https://user:secret@host.example/a'), /^(?!.*secret).*must not hold a user name/);
  assert.ok(isBlobUrl('AZ://a/b/c') && isBlobUrl('http://x') && isBlobUrl('https://x'));
  assert.not.ok(isBlobUrl('a/b') || isBlobUrl('/az://') || isBlobUrl('C:/x') || isBlobUrl('file:///x'));
});

test('the name is that of the requested file', () => {
  for (const [text, asked] of [
    ['https://host.example/a/../../b/%2e%2E/c.pt', 'https://host.example/c.pt'],
    ['https://host.example/a\\..\\c.pt', 'https://host.example/c.pt'],
    ['https://host.example/a\n/.%2e/c\t.pt', 'https://host.example/c.pt'],
    ['https://account1.blob.core.windows.net/abc/../other/c.pt', 'https://account1.blob.core.windows.net/other/c.pt'],
  ] as const) {
    const { name, url } = parseBlobAddress(text, {});
    assert.equal([name, url], [asked, asked]);
  }
  // an address stays as it is, and a server may read it in other ways
  for (const path of ['abc/..%2F..%2Fother/c.pt', 'abc/a%2f..%5c..%2fc.pt', 'abc/%2e%2e%5cc.pt', 'abc/c%00.pt']) {
    throws(() => url(`https://account1.blob.core.windows.net/${path}`), Error, /decoded, must be without \. and \.\./);
  }
  for (const odd of ['...', '%2e%2e', '..a', 'a\\b']) {
    const { url, name, baseName } = parseBlobAddress(`az://account1/abc/${odd}`, {});
    assert.equal([name, baseName], [`az://account1/abc/${odd}`, odd === '%2e%2e' ? '..' : odd]);
    assert.is(decodeURIComponent(new URL(url).pathname), `/abc/${odd}`);
  }
});

test('names below a folder or an address', () => {
  assert.is(joined('a/b', 'c/d.pt'), 'a/b/c/d.pt');
  assert.is(joined('az://account1/abc/d/', 'e.pt'), 'az://account1/abc/d/e.pt');
  assert.is(joined('az://account1/abc/d?', 'e.pt'), 'az://account1/abc/d?/e.pt');
  assert.is(joined('https://h/a?sig=1/2', 'e.pt'), 'https://h/a/e.pt?sig=1/2');
});

test.run();
