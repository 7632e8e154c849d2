// Configs: files that are read and files that are refused. The oracle is the original's arithmetic, int(d_model * m).
import * as assert from 'uvu/assert';
import { configFromJson, configToJson, dAttn, dFf, dHead, sizes } from '../../../src/transformer/weights/config.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('config');
const json = { enc: 'gpt2', ctx_window: 32, d_model: 48, n_layers: 3, m_attn: 1, n_heads: 4, m_mlp: 4 };

test('a written config is read again, and widths may be fractions of d_model', () => {
  for (const config of Object.values(sizes)) assert.equal(configFromJson(configToJson(config), 'c'), config);
  const narrow = configFromJson({ ...json, m_attn: 0.35, m_mlp: 1.1 }, 'c');
  assert.equal([dAttn(narrow), dHead(narrow), dFf(narrow)], [16, 4, 52]);
});

test('a hostile file is refused at once, by field', () => {
  const refused = (changes: object, pattern: RegExp) =>
    throws(() => configFromJson({ ...json, ...changes }, 'config.json'), Error, pattern);
  refused({ n_layers: 1e6 }, /config\.json: n_layers must be a whole number above 0 and at most 10000, but is 1000000/);
  for (const name of ['ctx_window', 'd_model', 'n_layers', 'n_heads', 'm_attn', 'm_mlp']) {
    for (const value of [0, -1, '4', null, undefined, [], Number.NaN, 1e300]) {
      refused({ [name]: value }, new RegExp(`config\\.json: ${name} must be a`));
    }
  }
  refused({ d_model: 48.5 }, /d_model must be a whole number/);
  refused({ m_attn: 1e-9 }, /n_heads must divide the attention width 0/);
  refused({ m_mlp: 1e-9 }, /m_mlp times d_model must be 1 or more/);
  refused({ enc: 'cl100k_base' }, /enc must be gpt2, but is "cl100k_base"/);
  for (const value of [null, [], 'x', 5]) {
    throws(() => configFromJson(value, 'config.json'), Error, /config\.json: must be an object with ctx_window/);
  }
});

test.run();
