// sonde fetch, sonde cache, and commands that use names of published files, with a server on this machine. Oracle: the
// files that the server has.
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { BlobServer } from '../support/blobs/blob_server.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { type Outcome, run } from './command.js';

const test = suite('sonde fetch');
test.limit(120_000);
const demo = join(packageRoot, 'assets', 'demo');

interface Site {
  readonly server: BlobServer;
  readonly folder: string;
  sonde(...args: string[]): Promise<Outcome>;
}

/** Serves the demo model under the address of gpt2-small, and its autoencoders under that of published ones. */
async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    await using server = await BlobServer.start();
    for (const file of await readdir(demo, { recursive: true })) {
      const model = `openaipublic/neuron-explainer/subject-models/gpt2/small/${file}`;
      if ((await stat(join(demo, file))).isFile()) server.put(model, await readFile(join(demo, file)));
    }
    for (const layer of [0, 1]) {
      const file = await readFile(join(demo, 'autoencoders/resid_delta_mlp', `${layer}.pt`));
      server.put(`openaipublic/sparse-autoencoder/gpt2-small/resid_delta_mlp_v4/autoencoders/${layer}.pt`, file);
    }
    const env = { SONDE_CACHE: join(folder, 'cache'), SONDE_BLOB_ENDPOINT: server.endpoint };
    await body({ server, folder, sonde: (...args) => run(args, { env, cwd: folder }) });
  });
}

test('a model and autoencoders by name; then everything works without a network', () =>
  withSite(async ({ server, folder, sonde }) => {
    const first = await sonde('fetch', 'gpt2-small', 'ae-resid-delta-mlp-v4', '--layer', '0', '--layer', '1');
    assert.is(first.code, 0, first.stderr);
    assert.match(
      first.stdout,
      /^gpt2-small: 70 files, [\d.]+ MB in .*cache\nae-resid-delta-mlp-v4: 2 files, [\d.]+ kB in /,
    );
    assert.match(first.stderr, /^fetching [\d.]+ \w+ of [\d.]+ \w+ in \d+ files?\n/);
    server.faults = () => ({ status: 503 });
    const text = 'Kate found a red ball';
    const encoded = await sonde(
      'encode',
      '--model',
      'gpt2-small',
      '--autoencoder',
      '1/resid/delta_mlp=ae-resid-delta-mlp-v4',
      text,
    );
    assert.is(encoded.code, 0, encoded.stderr);
    const own = await sonde('encode', '--autoencoder', '1/resid/delta_mlp=ae-resid-delta-mlp', text);
    assert.is(encoded.stdout.replace('-v4', ''), own.stdout);
    const sampled = await sonde('sample', '--model', 'gpt2/small', '--temperature', '0', '--dtype', 'float32', text);
    assert.is(sampled.stdout, (await sonde('sample', '--temperature', '0', text)).stdout);
    const dumped = await sonde(
      ...[
        'dump',
        '--model',
        'gpt2-small',
        '--text',
        join(demo, 'stories-sample.txt'),
        '--limit',
        '2000',
        '--out',
        'out',
      ],
      ...['--autoencoder', '0/resid/delta_mlp=ae-resid-delta-mlp-v4'],
    );
    assert.is(dumped.code, 0, dumped.stderr);
    const manifest = JSON.parse(await readFile(join(folder, 'out', 'manifest.json'), 'utf8'));
    assert.equal([manifest.model.name, manifest.autoencoders[0].name], ['gpt2-small', 'ae-resid-delta-mlp-v4']);

    const listed = await sonde('cache');
    assert.match(
      listed.stdout,
      /az:\/\/openaipublic\/sparse-autoencoder\/gpt2-small\/resid_delta_mlp_v4\/autoencoders\/0\.pt\n/,
    );
    assert.match(listed.stdout, /72 files, [\d.]+ MB\n$/);
    assert.match((await sonde('cache', '--verify')).stdout, /^72 files, .*: all are as they were fetched\n$/);
    assert.match((await sonde('cache', '--clear', 'sparse-autoencoder')).stdout, /: removed 2 files, /);
    assert.match((await sonde('cache', '--clear')).stdout, /: removed 70 files, /);
    assert.match((await sonde('cache')).stdout, /: 0 files, 0 bytes\n$/);
  }));

test('an address of a checkpoint, and of one file; what is nowhere', () =>
  withSite(async ({ server, sonde }) => {
    const base = `${server.endpoint}/neuron-explainer/subject-models/gpt2/small`;
    const model = await sonde('fetch', base);
    assert.match(model.stdout, /: 70 files, /, model.stderr);
    const file = await sonde(
      'fetch',
      '--refresh',
      'az://openaipublic/sparse-autoencoder/gpt2-small/resid_delta_mlp_v4/autoencoders/1.pt',
    );
    assert.match(file.stdout, /1\.pt: 1 file, /, file.stderr);
    const demoName = await sonde('fetch', 'demo');
    assert.is(demoName.code, 1);
    assert.match(
      demoName.stderr,
      /^sonde: 'demo' is nothing on the network; it must be an address, or one of gpt2-small, /,
    );
    const beyond = await sonde('fetch', 'ae-mlp-post-act-v4', '--layer', '12');
    assert.equal([beyond.code, beyond.stderr], [1, 'sonde: ae-mlp-post-act-v4: layers are from 0 to 11, not 12\n']);
    const none = await sonde('fetch', 'az://openaipublic/none/none.pt');
    assert.is(none.code, 1);
    assert.match(
      none.stderr,
      /sonde: fetchBlob: az:\/\/openaipublic\/none\/none\.pt: there is no such blob \(404\)\n$/,
    );
    assert.is((await sonde('fetch')).code, 2);
  }));

test('--verify reports a file that changed on the disk', () =>
  withSite(async ({ folder, sonde }) => {
    await sonde('fetch', 'ae-resid-delta-mlp-v4', '--layer', '0');
    const all = await readdir(join(folder, 'cache'), { recursive: true });
    const file = join(folder, 'cache', all.find((name) => name.endsWith('-0.pt')) as string);
    const bytes = await readFile(file);
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    await writeFile(file, bytes);
    const { code, stdout, stderr } = await sonde('cache', '--verify');
    assert.is(code, 1);
    assert.match(stdout, /^has changed: az:.*\/0\.pt\n$/);
    assert.match(stderr, /^sonde: 1 files of the cache have changed; the next use fetches them again\n$/);
  }));

test('Ctrl-C keeps what has come', () =>
  withSite(async ({ server, folder }) => {
    server.faults = ({ method }) => (method === 'GET' ? { delay: 100 } : undefined);
    const env = { SONDE_CACHE: join(folder, 'cache'), SONDE_BLOB_ENDPOINT: server.endpoint };
    const { code, stderr } = await run(['fetch', 'gpt2-small'], { env, interrupt: { signal: 'SIGINT' } });
    assert.is(code, 130);
    assert.match(stderr, /sonde: interrupted: the same command goes on where it stopped\n$/);
  }));

test.run();
