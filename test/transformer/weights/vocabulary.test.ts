// Which models take a text: those whose files have GPT-2's vocabulary. Oracle: what the files were made of.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { describeModel } from '../../../src/transformer/weights/model_files.js';
import { vocabularyOf } from '../../../src/transformer/weights/vocabulary_files.js';
import { BlobServer } from '../../support/blobs/blob_server.js';
import { testDevice } from '../../support/device.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { saveHuggingFace, type Tensors } from '../../support/hugging_face.js';
import { gpt2Files } from '../../support/models/gpt2_files.js';

const test = suite('vocabulary');
const device = testDevice();
const { vocab, merges, tokenizer } = gpt2Files();
let model: Transformer; // of GPT-2's vocabulary
test.before(async () => {
  model = await Transformer.load('random:tiny', { device });
});
test.after(() => model.dispose());

/** Another embedding: `rows` rows. */
const rows = (count: number) => ({
  config: { vocab_size: count },
  edit: (tensors: Tensors) => {
    for (const name of ['transformer.wte.weight', 'lm_head.weight']) {
      const { shape, data } = tensors[name] as Tensors[string];
      const width = shape[1] as number;
      const more = new Float32Array(count * width);
      more.set((data as Float32Array).subarray(0, more.length));
      tensors[name] = { dtype: 'float32', shape: [count, width], data: more };
    }
  },
});

const withFiles = async (
  files: Record<string, unknown>,
  body: (enc: Transformer['enc'], folder: string, xf: Transformer) => unknown,
  options: Parameters<typeof saveHuggingFace>[2] = {},
) =>
  withFolder(async (folder) => {
    await saveHuggingFace(model, folder, options);
    for (const [name, content] of Object.entries(files)) {
      await writeFile(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
    }
    using xf = await Transformer.load(folder, { device });
    assert.is((await describeModel(folder)).enc.name, xf.enc.name);
    await body(xf.enc, folder, xf);
  });

test("GPT-2's files, all or some, or none", async () => {
  const settings = { tokenizer_class: 'GPT2Tokenizer', model_max_length: 1024, add_prefix_space: false };
  for (const files of [
    {},
    { 'tokenizer.json': tokenizer },
    { 'vocab.json': vocab, 'merges.txt': merges },
    { 'vocab.json': vocab, 'merges.txt': merges, 'tokenizer.json': tokenizer, 'tokenizer_config.json': settings },
  ]) {
    await withFiles(files, (enc) => {
      assert.is(enc, gpt2Tokenizer());
      assert.is(enc.name, 'gpt2');
    });
  }
});

test('a vocabulary of its own: a text is refused with the reason, tokens are not, and texts of tokens are placeholders', async () => {
  const swapped = { ...vocab, a: vocab.b, b: vocab.a };
  const padded = { model: 'x'.repeat(2 ** 24 + 1) };
  for (const [files, reason] of [
    [{ 'vocab.json': swapped, 'merges.txt': merges }, /FOLDER\/vocab\.json has a as 65, which is GPT-2's token 64/],
    [{ 'vocab.json': vocab, 'merges.txt': 'a b\n' }, /FOLDER\/merges\.txt has the merge a b where GPT-2 has/],
    [{ 'vocab.json': swapped, 'tokenizer.json': tokenizer }, /FOLDER\/vocab\.json has/],
    [
      { 'tokenizer.json': { ...tokenizer, model: { ...tokenizer.model, vocab: swapped } } },
      /FOLDER\/tokenizer\.json has a as 65/,
    ],
    [{ 'tokenizer.json': '{' }, /FOLDER\/tokenizer\.json is not JSON/],
    [{ 'tokenizer.json': '['.repeat(100_000) }, /FOLDER\/tokenizer\.json is not JSON/],
    [{ 'tokenizer.json': padded }, /FOLDER\/tokenizer\.json: has \d+ bytes, more than 16777216/],
    [{ 'vocab.txt': '[PAD]\n' }, /FOLDER\/vocab\.txt is of another tokenizer/],
    [{ 'tokenizer_config.json': { tokenizer_class: 'BertTokenizer' } }, /has the tokenizer_class BertTokenizer/],
    [
      { 'tokenizer.json': tokenizer, 'tokenizer_config.json': { add_prefix_space: true } },
      /tokenizer_config\.json has add_prefix_space/,
    ],
    [{ 'added_tokens.json': { '<|endoftext|>': 50257 } }, /added_tokens\.json has <\|endoftext\|> as 50257/],
  ] as const) {
    await withFiles(files, async (enc, folder, xf) => {
      assert.is(enc.name, 'unknown');
      assert.is(enc.nVocab, 50_257);
      const expected = new RegExp(reason.source.replace('FOLDER', folder));
      throws(() => enc.encode('Hello'), Error, expected);
      throws(
        () => enc.encode('Hello'),
        Error,
        /^encode: the model takes tokens, but no text, as its vocabulary is not/,
      );
      throws(() => enc.encode(5 as never), TypeError, /text must be a string, but is 5/);
      await rejects(xf.sample('Hello', { numTokens: 1 }), Error, expected);
      const { tokens, strings } = await xf.sample([[5, 6]], { numTokens: 2, temperature: 0 });
      assert.equal(strings, [tokens[0]?.map((token) => `<|${token}|>`).join('')]);
      assert.is(enc.decode([0, 50_256]), '<|0|><|50256|>');
      throws(() => enc.decode([50_257]), RangeError, /token 0 must be a whole number from 0 to 50256/);
    });
  }
});

test('a saved model keeps that its vocabulary is unknown', () =>
  withFiles({ 'vocab.json': {} }, (_, folder, xf) =>
    withFolder(async (copy) => {
      await xf.saveCheckpoint(copy);
      using again = await Transformer.load(copy, { device });
      assert.is(again.enc.name, 'unknown');
      throws(() => again.enc.encode('x'), Error, /config\.json has the enc unknown/);
      assert.ok(folder !== copy);
      await writeFile(
        join(copy, 'config.json'),
        (await readFile(join(copy, 'config.json'), 'utf8')).replace('unknown', 'gpt2'),
      );
      assert.is((await describeModel(copy)).enc, gpt2Tokenizer());
    }),
  ));

test('tokens beyond GPT-2 have placeholders, and no text gives them', async () => {
  await withFiles(
    {},
    async (enc, _, xf) => {
      assert.is(enc.name, 'gpt2');
      assert.is(enc.nVocab, 50_304);
      assert.is(enc.decode([31373, 50_300, 995]), 'hello<|50300|> world');
      assert.equal(enc.decodeBatch([[50_257], [50_256]]), ['<|50257|>', '<|endoftext|>']);
      assert.is(Buffer.from(enc.decodeBytes([50_303])).toString(), '<|50303|>');
      assert.equal(enc.encode('<|50300|>'), gpt2Tokenizer().encode('<|50300|>'));
      throws(() => enc.decode([50_304]), RangeError, /a whole number from 0 to 50303, but is 50304/);
      await rejects(xf.sample([[50_304]]), RangeError, /prompts\[0\]\[0\] must be a token from 0 to 50303/);
      using only = Tensor.zeros([50_304], { device }); // the model's likeliest token is the last one but three
      const { TransformerHooks } = await import('../../../src/transformer/hooks.js');
      const hooks = new TransformerHooks();
      only.slice(0, 50_300, 50_301).fill(1e6);
      hooks.logits.appendFwd((x) => void x.add_(only));
      const { tokens, strings } = await xf.sample('Hello', { numTokens: 2, temperature: 0, hooks });
      assert.equal([tokens, strings], [[[50_300, 50_300]], ['<|50300|><|50300|>']]);
    },
    rows(50_304),
  );
  const pad = { id: 50_257, content: '<|pad|>', special: true };
  for (const files of [
    { 'tokenizer.json': { ...tokenizer, added_tokens: [...tokenizer.added_tokens, pad] } },
    { 'added_tokens.json': { '<|pad|>': 50_257 } },
    { 'tokenizer_config.json': { added_tokens_decoder: { 50257: { content: '<|pad|>' } } } },
  ]) {
    await withFiles(
      files,
      (enc) => {
        assert.is(enc.name, 'gpt2');
        assert.equal(enc.encode('hello world<|endoftext|>'), [31373, 995, 50_256]);
        throws(() => enc.encode('hello<|pad|>'), Error, /the text holds "<\|pad\|>", which is the token 50257 that/);
        assert.is(enc.decode([50_257]), '<|50257|>');
      },
      rows(50_258),
    );
  }
});

test('without files of a tokenizer, the rows of the embedding decide', async () => {
  for (const [count, name] of [
    [50_256, 'unknown'],
    [51_200, 'gpt2'],
    [51_201, 'unknown'],
  ] as const) {
    await withFiles({}, (enc) => assert.is(enc.name, name), rows(count));
  }
  await withFiles({ 'tokenizer.json': tokenizer }, (enc) => assert.is(enc.name, 'gpt2'), rows(52_000));
});

test('from a server; what it does not answer is a reason, unless another file shows the vocabulary', () =>
  withFolder(async (folder) => {
    await saveHuggingFace(model, folder, {});
    await using server = await BlobServer.start();
    const { address } = server;
    const put = async (base: string, files: Record<string, unknown>) => {
      for (const name of ['config.json', 'model.safetensors'])
        server.put(`${base}/${name}`, await readFile(join(folder, name)));
      for (const [name, content] of Object.entries(files))
        server.put(`${base}/${name}`, Buffer.from(JSON.stringify(content)));
    };
    const before = process.env.SONDE_CACHE;
    process.env.SONDE_CACHE = join(folder, 'cache');
    try {
      for (const [base, files, name] of [
        ['models/a', {}, 'gpt2'],
        ['models/b', { 'tokenizer.json': tokenizer }, 'gpt2'],
        ['models/c', { 'vocab.json': {} }, 'unknown'],
      ] as const) {
        await put(base, files);
        assert.is((await describeModel(`${address}/${base}?sig=secret`)).enc.name, name, base);
      }
      const { enc } = await describeModel(`${address}/models/c?sig=secret`);
      throws(() => enc.encode('x'), Error, /models\/c\/vocab\.json has no !/);
      await server[Symbol.asyncDispose]();
      const ofB = await vocabularyOf(`${address}/models/b`, {}, 50_257);
      assert.is(ofB.differs, undefined); // its tokenizer.json is in the cache
      const ofA = await vocabularyOf(`${address}/models/a`, {}, 50_257);
      assert.match(ofA.differs ?? '', /models\/a\/\w+\.(json|txt): .*without a network only what is in the cache/);
    } finally {
      if (before === undefined) delete process.env.SONDE_CACHE;
      else process.env.SONDE_CACHE = before;
      await rm(join(folder, 'cache'), { recursive: true, force: true });
    }
  }));

test.run();
