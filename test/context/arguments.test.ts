// Every function and method of models, hooks and contexts, called with what is no argument: the library's own error, with
// the operation's name in front, and never one of V8's. Oracle: the texts of V8's errors, and the names of the calls.
import { join } from 'node:path';
import { inspect } from 'node:util';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import * as sonde from '../../src/index.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('arguments that are none');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
let xf: sonde.Transformer;
let context: sonde.ModelContext;
let autoencoders: sonde.AutoencoderContext;
let autoencoder: sonde.Autoencoder;
test.before(async () => {
  xf = await sonde.Transformer.load(tiny);
  context = await sonde.ModelContext.fromModelType(tiny);
  autoencoders = sonde.makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-mlp-post-act' });
  autoencoder = await autoencoders.getAutoencoder(0);
});

/** What V8 and Node say themselves. */
const foreign =
  /cannot (read|set|destructure|mix|convert|access|assign|create)|is not (a function|iterable|defined|a constructor|an object)|not iterable|call stack|reduce of empty|must be (of type|an instance)|circular|invalid (array|count|typed|value)|unexpected token|\bBigInts?\b|ERR_|\[object/i;

const circular: unknown[] = [];
circular.push(circular);
const garbage: unknown[] = [
  null,
  {},
  5,
  -1,
  1.5,
  'x',
  '',
  [],
  Number.NaN,
  Number.POSITIVE_INFINITY,
  1n,
  true,
  Symbol('s'),
  () => undefined,
  Object.create(null),
  new Date(0),
  [null],
  [undefined],
  [1n],
  ['x'],
  [1.5],
  [[]],
  [[1n]],
  [['x']],
  [[null]],
  [[1.5]],
  [[-1]],
  [[[1]]],
  [[1], [1, 2]],
  [[1], null],
  new Array(2),
  Object.assign(new Array(2), { 1: [1] }),
  [Object.assign(new Array(2), { 1: 1 })],
  [{}],
  [Symbol('s')],
  circular,
  new Int32Array([1, 2]),
  new BigInt64Array([1n]),
  [new Int32Array([1])],
  [new Float32Array([1.5])],
  new Map(),
  new Set([1]),
  { length: 2 },
  { top_p: 0.5 },
  { device: null },
  { device: 'cpu' },
  { hooks: null },
  { hooks: {} },
  { pad: null },
  { pad: [[0]] },
  { kvCaches: null },
  { kvCaches: {} },
  { seeds: [1n] },
  { seed: '1' },
  { temperature: 1n },
  { topP: 1n },
  { numTokens: 1n },
  { stopTokens: 5 },
  { stopTokens: [1n] },
  { stopTokens: [Symbol('s')] },
  { minTokens: 1n },
  { minTokens: '1' },
  { onToken: 5 },
  { onToken: null },
  { layer: 1n },
  { layer: Symbol('s') },
  { dtype: 'x' },
  { dtype: Symbol('s') },
  { onProgress: 5 },
  { signal: {} },
  { simplify: 'yes' },
  { normalizeDim: 'x' },
  { preserveIndices: 0 },
  { config: null },
  { config: {} },
  { config: { dst: 'x' } },
  { config: { dst: 'mlp_post_act', pathByLayerIndex: [] } },
  { config: { dst: 'mlp_post_act', pathByLayerIndex: new Map([['x', 'y']]) } },
  { config: { dst: 'mlp_post_act', pathByLayerIndex: new Map([[1, 5]]) } },
  { config: { dst: 'mlp_post_act', pathByLayerIndex: new Map([[1, 'x']]), normalise: true } },
  { encode: 5 },
  { modelName: 5, autoencoderName: 'x' },
  { modelName: 'demo', autoencoderName: Symbol('s') },
  { layers: 'x' },
];

/** A call, its operation, arguments that it takes, and which of the values above it takes besides. */
interface Call {
  operation: string;
  call: (...given: never[]) => unknown;
  args: unknown[];
  takes: (value: unknown) => boolean;
}

/** Kinds of values that some calls take. */
const is = {
  nothing: () => false,
  missing: (value: unknown) => value === undefined,
  function: (value: unknown) => typeof value === 'function',
  text: (value: unknown) => typeof value === 'string',
  whole: (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0,
  object: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
  /** An object without a key, as options may be. */
  options: (value: unknown) => value === undefined || (is.object(value) && Object.keys(value as object).length === 0),
  /** An array without elements. */
  empty: (value: unknown) => Array.isArray(value) && value.length === 0,
  tokens: (value: unknown) =>
    value instanceof Int32Array || (value instanceof Set && value.has(1)) || (value instanceof Map && value.size === 0),
  layers: (value: unknown) => is.whole(value) || value instanceof Int32Array || (value instanceof Set && value.has(1)),
  ragged: (value: unknown) => inspect(value) === '[ [ 1 ], [ 1, 2 ] ]',
  texts: (value: unknown) => inspect(value) === "[ 'x' ]",
  positions: (value: unknown) => ['[ [] ]', '[ [ -1 ] ]'].includes(inspect(value)),
};
const any =
  (...kinds: ((value: unknown) => boolean)[]) =>
  (value: unknown): boolean =>
    kinds.some((kind) => kind(value));

const hooksOf = () => new sonde.AutoencoderHooks({ encode: (x) => x.clone(), decode: (x) => x.clone() });
const x = sonde.Tensor.zeros([1, 2]);
const f = () => undefined;
const clone = (t: sonde.Tensor) => t.clone();
/** Texts that are no location, and files that are not there, are named themselves. */
const text = /^(location|ablation) '|^x\/config\.json: /;

const spread =
  <Rest extends unknown[]>(call: (...given: Rest) => unknown) =>
  (...given: never[]): unknown =>
    call(...(given as unknown as Rest));

function calls(): Call[] {
  const list: Call[] = [];
  const of = (
    operation: string,
    takes: (value: unknown) => boolean,
    call: (...given: never[]) => unknown,
    ...args: unknown[]
  ) => list.push({ operation, takes, call, args });
  const { nothing, missing, options, empty, whole } = is;
  const stub = () => new sonde.StubModelContext({ layers: 2 });
  const set = () => sonde.MultiAutoencoderContext.fromAutoencoderContextList([autoencoders]);
  const { nLatents } = autoencoder;

  of('Transformer.load', options, spread(sonde.Transformer.load), tiny, {});
  of('forward', options, (...given) => xf.forward(...(given as unknown as [number[][]])), [[1, 2]], {});
  of('forward', any(missing, is.positions), (logitsAt) => xf.forward([[1, 2]], { logitsAt }), 'last');
  of('forward', missing, (from) => xf.forward([[1, 2]], { from }), undefined);
  of('activations', missing, (from) => xf.activations([[1, 2]], ['logits'], { from }), undefined);
  of(
    'activations',
    any(options, empty),
    (...given) => xf.activations(...(given as unknown as [number[][], string[]])),
    [[1, 2]],
    ['logits'],
    {},
  );
  of(
    'sample',
    any(options, empty, is.ragged, is.texts, is.text),
    (...given) => xf.sample(...(given as unknown as [number[]])),
    [1, 2],
    { numTokens: 1 },
  );
  of('weight', nothing, (name) => xf.weight(name), 'unembed.weight');
  of('saveCheckpoint', is.text, (folder) => folder !== ('x' as never) && xf.saveCheckpoint(folder), '/dev/null/none');
  of('prepInputAndPad', any(missing, is.ragged), spread(sonde.prepInputAndPad), [[1]], 'left', xf.device);
  of('derivedSeeds', whole, spread(sonde.derivedSeeds), 1, 2);
  of('attribute', nothing, spread(sonde.attribute), xf, [1, 2], { target: 3 });
  of('attribute', any(missing, is.object), (autoencoders) => sonde.attribute(xf, [1], { target: 3, autoencoders }), {});
  of('attribute', missing, (at) => sonde.attribute(xf, [1], { target: 3, at }), ['1/mlp/post_act']);
  of('ablationHooks', empty, spread(sonde.ablationHooks), ['1/mlp/post_act/3'], xf);
  of('parseLocation', nothing, spread(sonde.parseLocation), 'logits');
  of('expandLocations', empty, spread(sonde.expandLocations), ['logits'], xf.config);
  of('locationShape', whole, spread(sonde.locationShape), 'logits', xf.config, 1, 2, 3);

  const running = any(is.object, missing, is.text); // contexts, and the places of errors
  of('append', is.function, (hook) => new sonde.Hooks().append(hook), f);
  of(
    'Hooks.run',
    running,
    spread((...given: [sonde.Tensor]) => new sonde.Hooks().run(...given)),
    x,
    {},
    'here',
  );
  of('bind', is.object, (values) => new sonde.Hooks().bind(values), { by: 1 });
  of('unbind', empty, (names) => new sonde.Hooks().unbind(names), []);
  of('ConditionalHooks', is.function, (condition) => new sonde.ConditionalHooks(condition), f);
  const conditional = () => new sonde.ConditionalHooks(() => true);
  of(
    'ConditionalHooks.run',
    running,
    spread((...given: [sonde.Tensor]) => conditional().run(...given)),
    x,
    {},
    'here',
  );
  of('AtLayers', is.layers, (layers) => new sonde.AtLayers(layers), 1);
  of('appendAll', is.function, (hook) => new sonde.TransformerHooks().appendAll(hook), f);
  const toPath = (...given: [string, sonde.Hook]) => new sonde.TransformerHooks().appendToPath(...given);
  of('appendToPath', is.function, spread(toPath), 'logits.fwd', f);
  of('appendFwd', is.function, (hook) => new sonde.TransformerHooks().logits.appendFwd(hook), f);
  of('appendBwd', is.function, (hook) => new sonde.TransformerHooks().logits.appendBwd(hook), f);
  of('appendFwd2', is.function, (hook) => new sonde.TransformerHooks().logits.appendFwd2(hook), f);
  of('bind', is.object, (values) => new sonde.TransformerHooks().bind(values), { by: 1 });
  of('unbind', empty, (names) => new sonde.TransformerHooks().unbind(names), []);
  of('AutoencoderHooks', nothing, (given) => new sonde.AutoencoderHooks(given), { encode: clone, decode: clone });
  of(
    'AutoencoderHooks.run',
    running,
    spread((...given: [sonde.Tensor]) => hooksOf().run(...given)),
    x,
    {},
    'here',
  );

  of('ModelContext.fromModelType', options, spread(sonde.ModelContext.fromModelType), tiny, {});
  of('StandardModelContext.load', options, spread(sonde.StandardModelContext.load), tiny, {});
  of('StubModelContext', options, (sizes) => new sonde.StubModelContext(sizes), { layers: 1 });
  const getWeight = (...given: ['embedding']) => context.getWeight(...given);
  of('getWeight', options, spread(getWeight), 'embedding', {});
  of('getDimSize', nothing, (dimension) => context.getDimSize(dimension), 'layers');
  of('getDimSize', nothing, (dimension) => stub().getDimSize(dimension), 'layers');
  of('getShapeFromSpec', empty, (spec) => context.getShapeFromSpec(spec), ['layers']);
  of('getOrCreateModel', options, (given) => context.getOrCreateModel(given), {});
  of('encode', is.text, (given) => context.encode(given), 'a');
  of('decode', any(empty, is.tokens), (tokens) => context.decode(tokens), [1]);
  of('decodeToken', whole, (token) => context.decodeToken(token), 1);
  of('decodeTokenList', any(empty, is.tokens), (tokens) => context.decodeTokenList(tokens), [1]);
  of('encodeTokenStr', is.text, (given) => context.encodeTokenStr(given), 'a');
  of('encodeTokenStrList', any(empty, is.texts), (texts) => context.encodeTokenStrList(texts), ['a']);
  of('getUnembeddingWithLnGain', nothing, spread(sonde.getUnembeddingWithLnGain), context);
  of('getEmbedding', nothing, spread(sonde.getEmbedding), context);

  const { config } = autoencoders;
  of('AutoencoderContext', nothing, (given) => new sonde.AutoencoderContext(given), { config });
  of('getAutoencoder', nothing, (layer) => autoencoders.getAutoencoder(layer), 0);
  const isMap = (value: unknown) => value instanceof Map;
  of('MultiAutoencoderContext', isMap, (given) => new sonde.MultiAutoencoderContext(given), new Map());
  const multi = 'MultiAutoencoderContext';
  const { fromContextOrMultiContext, fromAutoencoderContextList } = sonde.MultiAutoencoderContext;
  of(`${multi}.fromContextOrMultiContext`, missing, spread(fromContextOrMultiContext), autoencoders);
  of(`${multi}.fromAutoencoderContextList`, empty, spread(fromAutoencoderContextList), [autoencoders]);
  of('getAutoencoderContext', missing, (nodeType) => set().getAutoencoderContext(nodeType), 'mlp_neuron');
  const getAutoencoder = (...given: [number]) => set().getAutoencoder(...given);
  of('getAutoencoder', missing, spread(getAutoencoder), 0, 'mlp_autoencoder_latent');
  const named = { modelName: 'demo', autoencoderName: 'ae-mlp-post-act' };
  of('makeAutoencoderContext', nothing, spread(sonde.makeAutoencoderContext), named);
  of('countDeadLatents', nothing, spread(sonde.countDeadLatents), autoencoder);
  const omit = (given: sonde.Autoencoder, kept: number, how: object) =>
    sonde.omitLeastActiveLatents(given, typeof kept === 'number' && kept > 0 ? kept + nLatents : kept, how);
  of('omitLeastActiveLatents', any(options, whole), spread(omit), autoencoder, 1, {});

  of('listAutoencoderNames', any(missing, is.text), spread(sonde.listAutoencoderNames), 'demo');
  of('isSequenceTokenDimension', nothing, spread(sonde.isSequenceTokenDimension), 'layers');
  of('isParameterizedDimension', nothing, spread(sonde.isParameterizedDimension), 'layers');
  of('isModelIntrinsic', nothing, spread(sonde.isModelIntrinsic), 'layers');
  of('isAutoencoderLatent', nothing, spread(sonde.isAutoencoderLatent), 'layer');
  of('nodeTypeOfDimension', nothing, spread(sonde.nodeTypeOfDimension), 'layers');
  of('locationOfNodeType', nothing, spread(sonde.locationOfNodeType), 'layer');
  of('activationShapeSpec', nothing, spread(sonde.activationShapeSpec), 'logits');
  of('activationHasNoLayers', nothing, spread(sonde.activationHasNoLayers), 'logits');
  of('activationExistsByDefault', nothing, spread(sonde.activationExistsByDefault), 'logits');
  of('activationNodeType', nothing, spread(sonde.activationNodeType), 'logits');
  of('activationLocationWithinLayer', nothing, spread(sonde.activationLocationWithinLayer), 'attn.q');
  of('locationOfActivation', whole, spread(sonde.locationOfActivation), 'attn.q', 1);
  of('activationOfLocation', nothing, spread(sonde.activationOfLocation), 'logits');
  of('weightShapeSpec', nothing, spread(sonde.weightShapeSpec), 'embedding');
  of('weightHasNoLayers', nothing, spread(sonde.weightHasNoLayers), 'embedding');
  of('isMlpWeight', nothing, spread(sonde.isMlpWeight), 'embedding');
  of('dimensionIndex', nothing, spread(sonde.dimensionIndex), 'embedding', 'vocab_size');
  return list;
}

const shown = (value: unknown): string => inspect(value, { depth: 2 }).slice(0, 80);

/** What is wrong with the outcome of a call with a value in some place; undefined when nothing is. */
async function complaint(
  { operation, call, takes }: Call,
  given: unknown[],
  value: unknown,
): Promise<string | undefined> {
  try {
    const result: unknown = await call(...(given as never[]));
    if (result instanceof sonde.Transformer && result !== (await context.getOrCreateModel())) result.dispose();
    return takes(value) ? undefined : 'is taken';
  } catch (thrown) {
    if (!(thrown instanceof Error)) return `threw ${shown(thrown)}`;
    const { message } = thrown;
    if (foreign.test(message)) return `threw what is not the library's: ${message}`;
    return message.startsWith(`${operation}: `) || text.test(message)
      ? undefined
      : `threw without its name: ${message}`;
  }
}

test(
  'every argument of every call',
  async () => {
    const complaints: string[] = [];
    let tried = 0;
    for (const each of calls()) {
      const { operation, args } = each;
      const plain = await complaint({ ...each, takes: () => true }, args, args);
      if (plain && operation !== 'saveCheckpoint') complaints.push(`${operation}: ${plain}`);
      for (const i of args.keys()) {
        for (const value of [...garbage, undefined]) {
          const given = args.map((arg, j) => (i === j ? value : arg));
          const wrong = await complaint(each, given, value);
          if (wrong) complaints.push(`${operation}, argument ${i}: ${shown(value)} ${wrong}`);
          tried++;
        }
      }
    }
    assert.ok(tried > 5000, String(tried));
    assert.equal(complaints, []);
  },
  { limit: 300_000 },
);

test('an unknown option is named, with the nearest one', async () => {
  const named = 'ae-mlp-post-act';
  const { config } = autoencoders;
  for (const [call, message] of [
    [() => xf.sample([1], { top_p: 0.5 } as object), "sample: 'top_p' is no option; the nearest one is 'topP'"],
    [
      () => xf.sample([1], { numTokns: 3 } as object),
      "sample: 'numTokns' is no option; the nearest one is 'numTokens'",
    ],
    [
      () => xf.forward([[1]], { kv_caches: 1 } as object),
      "forward: 'kv_caches' is no option; the nearest one is 'kvCaches'",
    ],
    [
      () => xf.activations([[1]], ['logits'], { hook: 1 } as object),
      "activations: 'hook' is no option; the nearest one is 'hooks'",
    ],
    [
      () => sonde.Transformer.load(tiny, { simplfy: true } as object),
      "Transformer.load: 'simplfy' is no option; the nearest one is 'simplify'",
    ],
    [
      () => context.getOrCreateModel({ onProgres: f } as object),
      "getOrCreateModel: 'onProgres' is no option; the nearest one is 'onProgress'",
    ],
    [
      () => context.getWeight('embedding', { normalize_dim: 'x' } as object),
      "getWeight: 'normalize_dim' is no option; the nearest one is 'normalizeDim'",
    ],
    [
      () => sonde.ModelContext.fromModelType(tiny, { dev: 1 } as object),
      "ModelContext.fromModelType: 'dev' is no option; the nearest one is 'device'",
    ],
    [
      () => new sonde.AutoencoderHooks({ encode: clone, decode: clone, add_error: true } as never),
      "AutoencoderHooks: 'add_error' is no option; the nearest one is 'addError'",
    ],
    [
      () => new sonde.AutoencoderContext({ config, omitDeadLatent: true } as never),
      "AutoencoderContext: 'omitDeadLatent' is no option; the nearest one is 'omitDeadLatents'",
    ],
    [
      () => new sonde.AutoencoderContext({ config: { ...config, normalise: true } as never }),
      "AutoencoderContext: 'normalise' is no option of config; the nearest one is 'normalize'",
    ],
    [
      () => sonde.makeAutoencoderContext({ modelName: 'demo', autoencoderName: named, dev: 1 } as never),
      "makeAutoencoderContext: 'dev' is no option; the nearest one is 'device'",
    ],
    [
      () => sonde.omitLeastActiveLatents(autoencoder, 1, { preserve: true } as object),
      "omitLeastActiveLatents: 'preserve' is no option; the nearest one is 'preserveIndices'",
    ],
    [
      () => new sonde.StubModelContext({ nLayers: 3 } as never),
      "StubModelContext: 'nLayers' is no option of sizes; the nearest one is 'layers'",
    ],
  ] as [() => unknown, string][]) {
    const error = await rejects((async () => call())(), TypeError, /./);
    assert.is(error.message, message);
  }
});

test('tokens that are no integers are named as what they are', async () => {
  for (const [tokens, said] of [
    [[[1n]], 'tokens[0][0] must be an integer from 0 to 100, but is 1n'],
    [[[1.5]], 'tokens[0][0] must be an integer from 0 to 100, but is 1.5'],
    [[[1], ['2']], "tokens[1][0] must be an integer from 0 to 100, but is '2'"],
    [
      [[1], null],
      'tokens must be an int32 tensor [batch, seq] or an array of rows of numbers, but is an array with null as its row 1',
    ],
    [
      [[1], [1, 2]],
      'tokens must be rows of one length, but row 0 has 1 and row 1 has 2; prepInputAndPad makes them so',
    ],
    [
      new BigInt64Array([1n]),
      'tokens must be an int32 tensor [batch, seq] or an array of rows of numbers, but is a BigInt64Array',
    ],
  ] as [never, string][]) {
    assert.is((await rejects(xf.forward(tokens), Error, /./)).message, `forward: ${said}`);
    assert.is((await rejects(xf.activations(tokens, ['logits']), Error, /./)).message, `activations: ${said}`);
  }
  for (const [prompts, said] of [
    [[1n], 'prompts[0][0] must be a token from 0 to 100, but is 1n'],
    [[[1], [2, 3n]], 'prompts[1][1] must be a token from 0 to 100, but is 3n'],
    [[[1], null], 'prompts[1] must be a text or an array of tokens, but is null'],
    [[[1], new BigInt64Array([1n])], 'prompts[1] must be a text or an array of tokens, but is a BigInt64Array'],
    [new BigInt64Array([1n]), 'prompts must be a text, texts, tokens or rows of tokens, but is a BigInt64Array'],
  ] as [never, string][]) {
    assert.is((await rejects(xf.sample(prompts), Error, /./)).message, `sample: ${said}`);
  }
  const padded = throws(() => sonde.prepInputAndPad([[1n]] as never, 'left'), RangeError, /./);
  assert.is(padded.message, 'prepInputAndPad: prompts[0][0] must be an integer of 0 or more, but is 1n');
});

test.run();
