// Names, shapes and properties of weights, activations and dimensions. Oracle: components.json, written by the
// original's own model_component_registry.py and inference_engine_type_registry.py.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import {
  ActivationLocationType,
  activationExistsByDefault,
  activationHasNoLayers,
  activationLocationTypes,
  activationLocationWithinLayer,
  activationNodeType,
  activationOfLocation,
  activationShapeSpec,
  locationOfActivation,
} from '../../src/context/activation_locations.js';
import {
  Dimension,
  isAutoencoderLatent,
  isModelIntrinsic,
  isParameterizedDimension,
  isSequenceTokenDimension,
  LocationWithinLayer,
  locationOfNodeType,
  NodeType,
  nodeTypeOfDimension,
  PassType,
} from '../../src/context/dimensions.js';
import {
  dimensionIndex,
  isMlpWeight,
  WeightLocationType,
  weightHasNoLayers,
  weightLocationTypes,
  weightShapeSpec,
} from '../../src/context/weight_locations.js';
import { packageRoot } from '../../src/engine/native.js';
import { suite, throws } from '../support/harness.js';

const test = suite('components');
const original = JSON.parse(readFileSync(join(packageRoot, 'test/context/components.json'), 'utf8'));

type Names = Record<string, Record<string, unknown>>;
const camel = (name: string): string => name.toLowerCase().replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const values = (names: Names): Record<string, unknown> =>
  Object.fromEntries(Object.entries(names).map(([name, { value }]) => [camel(name), value]));
/** The result of a call, null for undefined, or the name of the original's error where it throws. */
const attempt = (call: () => unknown, error: string): unknown => {
  try {
    return call() ?? null;
  } catch {
    return error;
  }
};

test('dimensions', () => {
  assert.equal({ ...Dimension }, values(original.dimensions));
  for (const known of Object.values(original.dimensions as Names)) {
    const dimension = known.value as Dimension;
    assert.is(isSequenceTokenDimension(dimension), known.is_sequence_token_dimension, dimension);
    assert.is(isParameterizedDimension(dimension), known.is_parameterized_dimension, dimension);
    assert.is(isModelIntrinsic(dimension), known.is_model_intrinsic, dimension);
    assert.is(nodeTypeOfDimension(dimension) ?? null, known.node_type, dimension);
  }
});

test('types of nodes, passes, locations within a layer', () => {
  assert.equal({ ...NodeType }, values(original.node_types));
  for (const known of Object.values(original.node_types as Names)) {
    const nodeType = known.value as NodeType;
    assert.is(isAutoencoderLatent(nodeType), known.is_autoencoder_latent, nodeType);
    const where = attempt(() => locationOfNodeType(nodeType), 'ValueError');
    assert.is(where, known.location_within_layer, nodeType);
  }
  const named = (names: Record<string, unknown>) =>
    Object.fromEntries(Object.entries(names).map(([name, value]) => [camel(name), value]));
  assert.equal({ ...LocationWithinLayer }, named(original.locations_within_layer));
  assert.equal({ ...PassType }, named(original.pass_types));
});

test('weights', () => {
  assert.equal({ ...WeightLocationType }, values(original.weights));
  assert.equal([...weightLocationTypes].sort(), Object.values(WeightLocationType).sort());
  for (const known of Object.values(original.weights as Names)) {
    const type = known.value as WeightLocationType;
    assert.equal(weightShapeSpec(type), known.shape, type);
    assert.is(weightHasNoLayers(type), known.has_no_layers, type);
    assert.is(isMlpWeight(type), known.is_mlp_specific, type);
    for (const [i, dimension] of (known.shape as Dimension[]).entries()) assert.is(dimensionIndex(type, dimension), i);
    throws(() => dimensionIndex(type, Dimension.layers), RangeError, /and layers is not one of them/);
  }
  throws(
    () => weightShapeSpec('nonsense' as never),
    RangeError,
    /'nonsense' is not known; it must be one of mlp\.to_hidden/,
  );
  throws(() => weightShapeSpec('__proto__' as never), RangeError, /is not known/);
});

test('activations', () => {
  assert.equal({ ...ActivationLocationType }, values(original.activations));
  assert.equal([...activationLocationTypes].sort(), Object.values(ActivationLocationType).sort());
  for (const known of Object.values(original.activations as Names)) {
    const type = known.value as ActivationLocationType;
    assert.equal(activationShapeSpec(type), known.shape, type);
    assert.is(activationHasNoLayers(type), known.has_no_layers, type);
    assert.is(activationExistsByDefault(type), known.exists_by_default, type);
    assert.is(
      attempt(() => activationNodeType(type), 'NotImplementedError'),
      known.node_type,
      type,
    );
    assert.is(
      attempt(() => activationLocationWithinLayer(type), 'ValueError'),
      known.location_within_layer,
      type,
    );
  }
  throws(() => activationShapeSpec('nonsense' as never), RangeError, /'nonsense' is not known/);
});

test('activations and locations of hook points', () => {
  for (const known of Object.values(original.activations as Names)) {
    const type = known.value as ActivationLocationType;
    // the original has no location for the final norm's output, which its transformer does have a hook point for
    const name = type === ActivationLocationType.residPostFinalLayerNorm ? 'resid/post_ln_f' : known.hook_location;
    const layer = known.has_no_layers ? undefined : 7;
    if (name === null) {
      throws(() => locationOfActivation(type, layer), RangeError, /is at no hook point/);
      continue;
    }
    const location = layer === undefined ? name : `7/${name}`;
    assert.is(locationOfActivation(type, layer), location);
    assert.equal(activationOfLocation(location as string), { type, layer });
  }
  throws(() => locationOfActivation('mlp.pre_act'), RangeError, /mlp\.pre_act needs a layer/);
  throws(() => locationOfActivation('logits', 1), RangeError, /is in no layer, so none can be given/);
  throws(() => activationOfLocation('3/attn/qk_softmax_denominator'), RangeError, /has no name among the original's/);
  throws(() => activationOfLocation('*/mlp/post_act'), RangeError, /stands for every layer/);
  throws(() => activationOfLocation('3/mlp/none'), Error, /location '3\/mlp\/none' is not known/);
});

test.run();
