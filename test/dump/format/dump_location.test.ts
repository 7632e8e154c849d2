// Oracle: the notation, written out by hand, for a model of two layers.
import * as assert from 'uvu/assert';
import {
  expandDumpLocations,
  layerOf,
  parseDumpLocation,
  showDumpLocation,
} from '../../../src/dump/format/dump_location.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('dump locations');

test('LOCATION and LOCATION -> AUTOENCODER are read and printed', () => {
  assert.equal(parseDumpLocation(' 5/mlp/post_act '), { location: '5/mlp/post_act' });
  const sparse = { location: '*/resid/delta_mlp', autoencoder: 'my ae/{layer}.pt' };
  for (const text of ['*/resid/delta_mlp -> my ae/{layer}.pt', '*/resid/delta_mlp->my ae/{layer}.pt']) {
    assert.equal(parseDumpLocation(text), sparse);
  }
  assert.is(showDumpLocation(sparse), '*/resid/delta_mlp -> my ae/{layer}.pt');
  assert.is(showDumpLocation({ location: 'logits' }), 'logits');
  throws(() => parseDumpLocation('-> x'), RangeError, /'-> x' must read LOCATION -> AUTOENCODER/);
  throws(() => parseDumpLocation('x ->'), RangeError, /on both sides of the arrow/);
  throws(() => parseDumpLocation(''), TypeError, /must be strings such as/);
  assert.is(layerOf('11/mlp/post_act'), 11);
  assert.is(layerOf('resid/post_emb'), undefined);
});

test('* is every layer, each location comes once, in the order of computing', async () => {
  const { config } = await Transformer.load('demo');
  const expand = (...patterns: string[]) => expandDumpLocations(patterns, config).map(showDumpLocation);
  assert.equal(expand('2/mlp/post_act', '1/mlp/post_act', '2/mlp/post_act'), ['1/mlp/post_act', '2/mlp/post_act']);
  assert.equal(expand('*/mlp/post_act -> a', '1/mlp/post_act'), [
    '1/mlp/post_act',
    ...[0, 1, 2, 3].map((layer) => `${layer}/mlp/post_act -> a`),
  ]);
  throws(() => expand(), RangeError, /must name one at least/);
  throws(() => expand('1/mlp/post_act -> a', '*/mlp/post_act -> b'), RangeError, /1\/mlp\/post_act can go through one/);
  throws(() => expand('9/nonsense'), Error, /nonsense/);
});

test.run();
