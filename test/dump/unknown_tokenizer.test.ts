// A model whose tokens have no known texts. Oracle: its tokens by their numbers, and the dump of the same model with the
// tokenizer of GPT-2.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { indexCorpus } from '../../src/dump/index_corpus.js';
import { openDump } from '../../src/dump/read/reader.js';
import { collate } from '../../src/dump/report/collate.js';
import { report } from '../../src/dump/report/report.js';
import { dump, planOf } from '../../src/dump/run.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { loadNeuronRecord } from '../../src/files/neuron_record/neuron_record.js';
import type { Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import type { SubjectModel } from '../../src/transformer/subject_model.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { run } from '../cli/command.js';
import { testDevice } from '../support/device.js';
import { withDuckDB } from '../support/duckdb.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { sampleText } from './folders.js';

const test = suite('unknown tokenizer');
test.limit(120_000);
const model = await Transformer.load('demo', { device: testDevice() });
const reason = 'the checkpoint has 50257 tokens of its own, whose texts are not known';

/** The demo model with members of another one. */
const modelWith = (enc: object): SubjectModel =>
  new Proxy(model, {
    get(target, member) {
      if (member === 'enc') return enc;
      const value = Reflect.get(target, member, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });

const refuse = () => {
  throw new Error(reason);
};

const unknown = modelWith({ ...model.enc, name: 'unknown', encode: refuse, decode: refuse });

async function* tokens() {
  yield [5, 50_256, 7, 8];
  yield [9, 10];
}

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model: unknown, corpus: tokens(), out, context: 4, shardTokens: 64, parquet: true },
  ...{ locations: ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp'], ...changes },
});

test('text is refused with the reason before anything is computed', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const jsonl = join(folder, 'a.jsonl');
    await writeFile(jsonl, '{"text": "a"}\n');
    for (const corpus of [sampleText, [jsonl], '-'] as const) {
      const refused = new RegExp(`^dump: (stories-sample\\.txt|a\\.jsonl|standard input) is text, .*: ${reason}$`);
      for (const call of [dump, planOf]) await rejects(call(request(out, { corpus: corpus as never })), Error, refused);
    }
    async function* texts() {
      yield 'a text';
    }
    await rejects(dump(request(out, { corpus: texts() })), Error, new RegExp(`^corpus, item 0: ${reason}$`));
    await rejects(
      dump(request(out, { drop: ['endoftext'] })),
      RangeError,
      /drop cannot name endoftext: the tokenizer of demo is not known/,
    );
  }));

test('tokens are taken, and shown by their numbers', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await dump(request(at('out')));
    await dump(request(at('gpt2'), { model, corpus: tokens() }));
    await using made = await openDump(at('out'));
    assert.is(made.manifest.tokenizer, 'unknown');
    assert.equal(await made.verify(), []);
    await using same = await openDump(at('gpt2'));
    assert.equal(await made.rows('1/mlp/post_act'), await same.rows('1/mlp/post_act'));
    await rejects(
      dump(request(at('out'), { model, corpus: tokens() })),
      /holds a dump with tokenizer unknown, but gpt2 was asked for/,
    );
    // In a file, no token is known to end a document.
    await writeFile(at('a.bin'), new Uint8Array(Uint16Array.from([5, 50_256, 7]).buffer));
    await dump(request(at('file'), { corpus: at('a.bin') }));
    await using file = await openDump(at('file'));
    assert.equal([...(await file.tokens()).document], [0, 0, 0, -1]);

    const latent = 3;
    const selections = [{ name: '1/mlp/post_act', indices: [latent] }];
    await collate(made, { selections, out: at('records'), top: 1, random: 2 });
    const record = await loadNeuronRecord(at('records/mlp_post_act/1/3.json'));
    const texts = record.randomSample.map((sample) => sample.tokens.join('|')).sort();
    assert.equal(texts, ['<|5|>|<|50256|>|<|7|>|<|8|>', '<|9|>|<|10|>'].sort());
    await report(made, { selections, out: at('page.html') });
    assert.match(await readFile(at('page.html'), 'utf8'), /&lt;\|(50256|10)\|&gt;/);
    const { stdout, code } = await run(['inspect', at('out')]);
    assert.is(code, 0);
    assert.match(stdout, /^tokenizer unknown/m);
    assert.match(stdout, /^first row "<\|5\|><\|50256\|><\|7\|><\|8\|>"$/m);
    const parquet = at('out/shard-00000.1_resid_delta_mlp_latents.parquet');
    const rows = await withDuckDB((query) => query(`select distinct token, text from '${parquet}' order by token`));
    assert.ok(rows.length > 2);
    for (const { token, text } of rows) assert.is(text, `<|${token}|>`);
  }));

test('an index is of the tokenizer of GPT-2: beside it, a dump with another one, or of what is no file, is refused', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await indexCorpus({ corpus: sampleText, out, context: 4, shardTokens: 64 });
    const own = modelWith({ ...model.enc, encode: (text: string) => [...Buffer.from(text)] });
    const named = /out\/index\.jsonl is the index of a corpus of files with GPT-2's tokenizer.*Remove it/;
    await rejects(dump(request(out, { model: own, corpus: sampleText, parquet: false })), Error, named);
    await rejects(dump(request(out)), Error, named);
    assert.equal(await readdir(out), ['index.jsonl']);
  }));

test('a tokenizer without a name counts as GPT-2s, and one of another name is not known', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const { name: _, ...nameless } = model.enc;
    for (const [enc, tokenizer] of [
      [nameless, 'gpt2'],
      [{ ...model.enc, name: 'gpt2' }, 'gpt2'],
      [{ ...model.enc, name: 'words' }, 'unknown'],
    ] as [Partial<Tokenizer>, string][]) {
      const plan = await planOf(request(at('out'), { model: modelWith(enc), corpus: sampleText }));
      assert.is(plan.settings.tokenizer, tokenizer);
    }
    // A mark that is several tokens of a tokenizer ends no document.
    const bytes = modelWith({ ...model.enc, name: 'bytes', encode: (text: string) => [...Buffer.from(text)] });
    await writeFile(at('a.bin'), new Uint8Array(Uint16Array.from([60, 1, 60, 2]).buffer));
    await dump(request(at('out'), { model: bytes, corpus: at('a.bin') }));
    await using made = await openDump(at('out'));
    assert.equal([...(await made.tokens()).document], [0, 0, 0, 0]);
  }));

test.run();
