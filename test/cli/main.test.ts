// Oracle: the output and exit codes of the contract; expected.json, made by the original, for latents and greedy text.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { listDevices } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { parseLocation } from '../../src/transformer/location.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { arithmeticNames } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { run } from './command.js';

const test = suite('sonde');
const expected = JSON.parse(await readFile(join(packageRoot, 'assets', 'demo', 'expected.json'), 'utf8'));

test('--help teaches, for every command', async () => {
  const { code, stdout } = await run(['--help']);
  assert.is(code, 0);
  for (const word of [
    'sonde demo',
    'Exit codes',
    'dump',
    'sample',
    'encode',
    'attribute',
    'inspect',
    'collate',
    'fetch',
    'cache',
    'devices',
  ])
    assert.ok(stdout.includes(word));
  for (const command of ['dump', 'sample', 'encode', 'attribute', 'inspect', 'collate', 'fetch', 'cache']) {
    const { code, stdout, stderr } = await run([command, '--help']);
    assert.is(code, 0, stderr);
    assert.match(stdout, /Examples?:\n/);
    assert.match(stdout, new RegExp(`\\$ .*sonde ${command} `));
  }
  const { stdout: ofDump } = await run(['dump', '--help']);
  assert.match(ofDump, /Locations[\s\S]*5\/mlp\/post_act[\s\S]*Next: sonde inspect/);
  const [listed = ''] = /^Locations[\s\S]*?\n\n/m.exec(ofDump) ?? [];
  const locations: string[] = listed.match(/5\/[\w/]+/g) ?? [];
  for (const location of locations) assert.is(parseLocation(location).layer, 5);
  assert.ok(locations.includes('5/attn/head_out'), String(locations));
  assert.match((await run(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('devices lists the CPU', async () => {
  const { code, stdout } = await run(['devices']);
  assert.is(code, 0);
  assert.match(stdout, /^cpu +\S/);
});

test('devices shows arithmetics in a line of their own, and a second name only where it differs', async () => {
  const { stdout } = await run(['devices']);
  const [cpu, arithmetic] = stdout.split('\n') as [string, string];
  const { float32, bfloat16Dot } = arithmeticNames;
  const second = cpu.includes('AVX-512 with bfloat16') ? ` (bfloat16 ${bfloat16Dot})` : '';
  assert.is(arithmetic, `         arithmetic ${float32}${second}`);
  const missing = listDevices().filter(({ available }) => !available).length;
  assert.is(stdout.split('arithmetic').length - 1, listDevices().length - missing);
});

test('sample continues the text as the original does', async () => {
  const [prompt, tokens] = Object.entries(expected.greedy_40)[0] as [string, number[]];
  const model = await Transformer.load('demo');
  const args = ['sample', '--temperature', '0', '--num-tokens', '12', '--', prompt];
  const { code, stdout, stderr } = await run(args);
  assert.is(code, 0, stderr);
  assert.is(stdout, `${prompt}${model.enc.decode(tokens.slice(0, 12))}\n`);
  const seeded = ['sample', '--seed', '5', '--num-tokens', '8', '--top-p', '0.9', 'Once there', 'Kate'];
  const [first, second] = [await run(seeded), await run(seeded)];
  assert.is(first.stdout, second.stdout);
  assert.match(first.stdout, /^Once there/);
});

test('sample with neurons ablated is what the original gives', async () => {
  const prompt = Object.keys(expected.greedy_40)[1] as string;
  const tokens: number[] = expected.greedy_40_ablate_layer1_neurons_0_127;
  const model = await Transformer.load('demo');
  const args = ['sample', '--temperature', '0', '--num-tokens', '10', '--ablate', '1/mlp/post_act/0-127', '--', prompt];
  const { code, stdout, stderr } = await run(args);
  assert.is(code, 0, stderr);
  assert.is(stdout, `${prompt}${model.enc.decode(tokens.slice(0, 10))}\n`);
  const wrong = await run(['sample', '--ablate', '9/mlp/post_act/0', 'x']);
  assert.equal([wrong.code, wrong.stderr], [1, "sonde: location '9/mlp/post_act': the layer must be from 0 to 3\n"]);
});

test('encode shows the strongest latents of each token', async () => {
  const [prompt] = Object.keys(expected.prompts);
  const args = ['encode', '--autoencoder', '1/mlp/post_act=ae-mlp-post-act', '--top', '5', prompt as string];
  const { code, stdout, stderr } = await run(args);
  assert.is(code, 0, stderr);
  const lines = stdout.trim().split('\n');
  assert.is(lines[0], '1/mlp/post_act -> ae-mlp-post-act');
  assert.is(lines.length, 1 + expected.prompts[prompt as string].length);
  assert.match(lines[1] as string, /^ {2}"What" +(\d+:\d+\.\d{3} *)+$/);
  const last = [...(lines.at(-1) as string).matchAll(/(\d+):(\d+\.\d+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
  const latents = expected.latents_top5['1/mlp_post_act'] as [number, number][];
  assert.equal(
    last.map(([latent]) => latent),
    latents.map(([latent]) => latent),
  );
  for (const [i, [, value]] of latents.entries()) assert.ok(Math.abs((last[i]?.[1] ?? 0) - value) < 2e-3);
  assert.is((await run(['encode', 'Hello'])).code, 0);
  assert.is((await run(['encode', ''])).code, 2);
  assert.is((await run(['encode', '--model', 'random:gpt2-small', 'Hello'])).code, 2);
});

test('demo can be run twice', () =>
  withFolder(async (folder) => {
    for (const pattern of [/demo-dump: 202 rows, 25786 tokens/, /complete already/]) {
      const { code, stdout, stderr } = await run(['demo'], { cwd: folder });
      assert.is(code, 0, stderr);
      assert.match(stdout, pattern);
      assert.match(stdout, /3\/resid\/delta_mlp\/latents[\s\S]*load_file[\s\S]*openDump/);
    }
  }));

test.run();
