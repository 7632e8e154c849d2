// sonde attribute. Oracle: the library's attributions; and what the logit does when a feature that the command names is
// ablated at its token.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { type Attributed, attributionJson, attributionLines } from '../../src/cli/attribute_view.js';
import { packageRoot } from '../../src/engine/native.js';
import {
  type AttributedFeature,
  type AttributionDirection,
  attribute,
} from '../../src/transformer/attribution/attribute.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { agreementOf, scoreOf, withinTwo } from '../transformer/attribution/ablated.js';
import { run } from './command.js';

const test = suite('sonde attribute');
test.limit(240_000);
const xf = await Transformer.load('demo');
const one = (text: string) => xf.enc.encode(text)[0] as number;
const folder = join(packageRoot, 'assets', 'demo', 'autoencoders');
const pattern = '*/resid/delta_mlp=ae-resid-delta-mlp';
const autoencoders: Record<string, Autoencoder> = {};
for (let layer = 0; layer < xf.config.nLayers; layer++) {
  autoencoders[`${layer}/resid/delta_mlp`] = await Autoencoder.load(join(folder, 'resid_delta_mlp', `${layer}.pt`));
}

interface Told {
  prompt: string;
  tokens: { token: number; text: string }[];
  target: { token: number; text: string; logit: number };
  instead?: { token: number; text: string; logit: number };
  score: number;
  direction: string;
  groups: {
    kind: string;
    name: string;
    sum: number;
    strongest: (AttributedFeature & { token: number; text: string })[];
  }[];
}

async function told(...args: string[]): Promise<Told> {
  const { code, stdout, stderr } = await run(['attribute', '--json', ...args]);
  assert.is(code, 0, stderr);
  assert.match(stdout, /^\P{Cc}*\n$/u, 'one line, safe on a terminal');
  return JSON.parse(stdout);
}

// What a story of the demo's goes on with, and what else it could; and whether what heads do together is within a factor of
// two as well, for the logit and for the difference. It is not wherever a head changes more than a gradient can tell: the
// test of attribute() has the share among prompts that nobody chose.
const cases: [prompt: string, target: string, instead: string, heads: boolean][] = [
  ['When David and Tom went to the kitchen, David gave the box to', ' Tom', ' David', true],
  ['Leo counted: 8, 9, 10, 11,', ' 12', ' 13', true],
  ['Kate found a red', ' ball', ' box', true],
  ['Leo came from Paris, which is in', ' France', ' Germany', false],
  ['"I am happy," said Grace, and she', ' smiled', ' cried', false],
  ['There were four coins on the ground. Clara took one, and', ' three', ' four', false],
];

test('ablating each of those that it names moves the logit as it says', async () => {
  const ways: [direction: AttributionDirection | undefined, difference: boolean][] = [
    [undefined, false],
    [undefined, true],
    ['both', true],
  ];
  for (const [direction, difference] of ways) {
    const ofHeads: number[] = [];
    for (const [prompt, target, other, headsToo] of cases) {
      const given = [...(difference ? ['--instead', other] : []), ...(direction ? ['--direction', direction] : [])];
      const { groups, score, ...rest } = await told(prompt, '--target', target, ...given, '--autoencoder', pattern);
      const tokens = xf.enc.encode(prompt);
      const ends = { target: one(target), ...(difference && { instead: one(other) }) };
      close([score], [await scoreOf(xf, tokens, ends)], { rtol: 1e-4 });
      const found = await attribute(xf, tokens, { ...ends, autoencoders, ...(direction && { direction }) });
      const texts = tokens.map((token) => ({ token, text: xf.enc.decode([token]) }));
      assert.equal(rest, {
        ...{ prompt, tokens: texts, target: { token: ends.target, text: target, logit: found.targetLogit } },
        ...(difference && { instead: { token: one(other), text: other, logit: found.insteadLogit } }),
        direction: direction ?? 'for',
      });
      const named = found.groups.map(({ strongest, ...group }) => ({
        ...group,
        strongest: strongest.map((feature) => ({ ...feature, ...texts[feature.position] })),
      }));
      assert.equal(groups, named);
      assert.equal(
        groups.map(({ kind }) => kind),
        ['neuron', 'head', 'latent'],
      );
      for (const { kind, strongest } of groups) {
        const { count, signs, sizes, sides } = await agreementOf(xf, tokens, ends, strongest, autoencoders);
        const label = `${kind}s of '${prompt}${target}', ${given}: ${signs} of ${count}, ${sizes}, ${sides}`;
        assert.ok(count === 10 && signs >= 9, label);
        if (direction === undefined)
          assert.ok(
            strongest.every(({ attribution }) => attribution > 0),
            label,
          );
        if (kind === 'head') ofHeads.push(sizes);
        // the sums, of one side by default
        const near = direction === undefined ? sides : [sizes];
        if (kind !== 'head' || (headsToo && direction === undefined)) assert.ok(near.every(withinTwo), label);
      }
    }
    const heads = ofHeads.sort((a, b) => a - b);
    const middle = heads.slice(2, 4);
    assert.ok(middle.every(withinTwo), `${direction}: ${heads}`);
  }
});

test('tables: a line for each, and the logit', async () => {
  const [prompt, target, instead] = cases[0] as (typeof cases)[number];
  const args = ['attribute', prompt, '--target', target, '--top', '3', '--autoencoder', pattern];
  const { code, stdout, stderr } = await run([...args, '--instead', instead]);
  assert.is(code, 0, stderr);
  assert.is(stderr, '');
  const lines = stdout.split('\n');
  assert.is(lines.pop(), '');
  assert.match(
    lines[0] ?? '',
    /^logit of " Tom" minus that of " David", behind 14 tokens: (\d+\.\d{3}) \((-?\d+\.\d{3}) minus (-?\d+\.\d{3})\)$/,
  );
  assert.match(lines[1] ?? '', /^attribution: value times gradient/);
  const number = '[+-]?[\\d.]+(?:e-\\d+)?';
  for (const [i, [kind, name]] of [
    ['neuron', 'mlp/post_act'],
    ['head', 'attn/v_out'],
    ['latent', 'resid/delta_mlp/latents'],
  ].entries()) {
    const [title = '', header = '', ...rows] = lines.slice(2 + 5 * i, 7 + 5 * i);
    assert.match(title, new RegExp(`^${kind}s, ${name}: ${number} in all; those that speak for the target$`));
    assert.match(header, new RegExp(`^  location +token +position +${kind} +value +gradient +attribution$`));
    for (const row of rows) {
      assert.match(row, new RegExp(`^  \\d/${name} +" ?\\w+,?" +\\d+ +\\d+ +${number} +${number} +\\+[\\d.]+$`));
      assert.is(row.length, header.length, 'aligned');
    }
  }
  assert.is(lines.length, 17);
  const single = await run(args);
  assert.match(single.stdout, /^logit of " Tom", behind 14 tokens: \d+\.\d{3}\n/);
  const against = await run([...args, '--direction', 'against']);
  assert.match(against.stdout, /\nheads, attn\/v_out: .* in all; those that speak against the target\n/);
  const column = against.stdout.split('\n').filter((line) => line.startsWith('  ') && !/attribution$/.test(line));
  assert.is(column.length, 9);
  for (const row of column) assert.match(row, / -[\d.]+$/);
});

test('--at says where to look; a path names an autoencoder as well', async () => {
  const at = ['--at', '1/mlp/post_act', '--at', '*/resid/post_mlp', '--at', 'resid/post_emb'];
  const path = `*/resid/delta_mlp=${join(folder, 'resid_delta_mlp', '{layer}.pt')}`;
  const args = ['Leo came from Paris, which is in', '--target', ' France', '--top', '2'];
  const { groups } = await told(...args, ...at, '--autoencoder', path);
  assert.equal(
    groups.map(({ kind, name, strongest }) => `${kind} ${name} ${strongest.length}`),
    [
      'neuron mlp/post_act 2',
      'channel resid/post_mlp 2',
      'channel resid/post_emb 2',
      'latent resid/delta_mlp/latents 2',
    ],
  );
  const named = await told(...args, '--autoencoder', pattern, '--at', '2/resid/delta_mlp/latents');
  assert.equal(named.groups, groups.slice(3));
});

test('what is wrong with the command line is said', async () => {
  const paris = 'Leo came from Paris, which is in';
  const france = [paris, '--target', ' France'];
  const wrong: [args: string[], code: number, message: RegExp][] = [
    [[paris], 2, /required option '--target <token>' not specified/],
    [['', '--target', ' France'], 2, /attribute needs a prompt of one token at least/],
    [[`${paris} `.repeat(40), '--target', ' France'], 2, /the prompt has \d+ tokens, and the window of demo holds 256/],
    [
      [paris, '--target', 'Berlin'],
      2,
      /--target must be exactly one token, but "Berlin" is 2: "Ber", "lin"; with a space before it, " Berlin" is one/,
    ],
    [[paris, '--target', ' France '], 2, /but " France " is 2: " France", " "; with other spaces, " France" is one/],
    [
      [...france, '--instead', ' trembled'],
      2,
      /--instead must be exactly one token, but " trembled" is 2: " tremb", "led"\n/,
    ],
    [[paris, '--target', ''], 2, /--target must be exactly one token, but "" is none\n/],
    [[...france, '--instead', ' France'], 2, /--instead must be another token than --target/],
    [
      [...france, '--direction', 'up'],
      2,
      /'--direction <direction>' argument 'up' is invalid. It must be one of for, against, both/,
    ],
    [[...france, '--top', '0'], 2, /It must be a whole number of 1 or more/],
    [[...france, '--at', '1/mlp/middle'], 1, /location '1\/mlp\/middle' is not known; it must be LAYER\/NAME/],
    [[...france, '--at', '4/mlp/post_act'], 1, /location '4\/mlp\/post_act': the layer must be from 0 to 3/],
    [[...france, '--at', '1/attn/qk_probs'], 1, /must be a location of neurons .*, but is '1\/attn\/qk_probs'/],
    [
      [...france, '--at', '1/mlp/post_act/latents', '--autoencoder', '1/resid/delta_mlp=ae-resid-delta-mlp'],
      1,
      /but 1\/mlp\/post_act has no autoencoder \(those that do: 1\/resid\/delta_mlp\)/,
    ],
    [
      [...france, '--autoencoder', '1/resid/delta_mlp=nonesuch'],
      1,
      /attribute: the autoencoder 'nonesuch' for 1\/resid\/delta_mlp is no file \(nonesuch\) nor one of demo's .*ae-mlp-post-act/,
    ],
    [
      [...france, '--autoencoder', '1/resid/delta_attn=ae-resid-delta-mlp'],
      2,
      /ae-resid-delta-mlp: it was trained at LAYER\/resid\/delta_mlp, and not at 1\/resid\/delta_attn/,
    ],
    [
      [...france, '--autoencoder', `1/mlp/post_act=${join(folder, 'resid_delta_mlp', '1.pt')}`],
      1,
      /attribute: 1\/mlp\/post_act has 256 values per token, but the autoencoder .* takes 64/,
    ],
    [
      [...france, '--autoencoder', `*/resid/delta_mlp=${join(folder, 'resid_delta_mlp', '1.pt')}`],
      1,
      /attribute: \*\/resid\/delta_mlp means every layer, so its autoencoder must have \{layer\} in its path/,
    ],
    [
      [...france, '--autoencoder', '1/mlp/post_act=a', '--autoencoder', '*/mlp/post_act=b'],
      1,
      /attribute: 1\/mlp\/post_act can go through one autoencoder, not through a and b/,
    ],
    [[...france, '--autoencoder', 'x'], 2, /It must read LOCATION=NAME or LOCATION=FILE/],
  ];
  for (const [args, code, message] of wrong) {
    const outcome = await run(['attribute', ...args]);
    assert.match(outcome.stderr, message, args.join(' '));
    assert.is(outcome.code, code, args.join(' '));
    assert.is(outcome.stdout, '');
  }
});

test('a word without its space is taken as it is, with a word of warning', async () => {
  const { code, stdout, stderr } = await run(['attribute', 'Leo came from Paris, which is in', '--target', 'France']);
  assert.is(code, 0, stderr);
  assert.match(stdout, /^logit of "France", behind 9 tokens/);
  assert.is(stderr, 'sonde: --target "France" goes on with the last word; a new word is " France"\n');
});

test('control characters, numbers that are none, and groups in which nothing has an effect', () => {
  const feature = { location: '1/mlp/post_act', index: 3, position: 1, value: 1500, gradient: -1e-9, attribution: NaN };
  const shown: Attributed = {
    ...{ prompt: '\u001b[2Ja', tokens: [1, 2], target: 2, instead: undefined, score: 2, targetLogit: 2 },
    direction: 'both',
    textOf: (token) => (token === 1 ? 'a' : '\u001b\u009b"'),
    groups: [
      { kind: 'neuron', name: 'mlp/post_act', sum: NaN, strongest: [feature] },
      { kind: 'head', name: 'attn/v_out', sum: 0, strongest: [] },
    ],
  };
  assert.equal(attributionLines(shown).slice(2), [
    'neurons, mlp/post_act: NaN in all; the largest in size',
    '  location        token        position  neuron  value  gradient  attribution',
    `  1/mlp/post_act  "\\u001b\u009b\\""         1       3   1500     -1e-9          NaN`,
    'heads, attn/v_out: 0 in all; none has any effect',
  ]);
  const last = (direction: AttributionDirection) => attributionLines({ ...shown, direction }).at(-1);
  assert.is(last('for'), 'heads, attn/v_out: 0 in all; none speaks for the target');
  assert.is(last('against'), 'heads, attn/v_out: 0 in all; none speaks against the target');
  const line = attributionJson(shown);
  assert.match(line, /^\P{Cc}*$/u);
  const parsed = JSON.parse(line) as Told;
  assert.is(parsed.prompt, shown.prompt);
  assert.is(parsed.groups[0]?.strongest[0]?.attribution, null);
  assert.is(parsed.groups[0]?.strongest[0]?.text, '\u001b\u009b"');
});

test.run();
