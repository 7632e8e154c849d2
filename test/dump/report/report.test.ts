// Oracle: the dump's own rows, counted by definition; and a real browser, where one is installed.
import { spawnSync } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import { findAutoencoderSpec } from '../../../src/context/registry.js';
import { type Dump, openDump } from '../../../src/dump/read/reader.js';
import { collate } from '../../../src/dump/report/collate.js';
import { type ReportOptions, report } from '../../../src/dump/report/report.js';
import { histogramOf, type LatentActivity, spread } from '../../../src/dump/report/report_data.js';
import { dump } from '../../../src/dump/run.js';
import { loadNeuronRecord } from '../../../src/files/neuron_record/neuron_record.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { run } from '../../cli/command.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { isInstalled } from '../../support/machine.js';
import { sampleText } from '../folders.js';
import { plantedAutoencoder, plantedModel, setAt } from '../planted.js';

const test = suite('report');
test.limit(120_000);
const model = await Transformer.load('demo');
const latents = '1/resid/delta_mlp/latents';
const neurons = '2/mlp/post_act';

async function withDump(corpus: string | AsyncIterable<string>, body: (made: Dump, out: string) => Promise<void>) {
  await withFolder(async (folder) => {
    const locations = [neurons, '1/resid/delta_mlp -> ae-resid-delta-mlp'];
    await dump({ model, corpus, locations, out: join(folder, 'dump'), context: 32, shardTokens: 512, limit: 3000 });
    await using made = await openDump(join(folder, 'dump'));
    await body(made, join(folder, 'report.html'));
  });
}

const pageOf = async (made: Dump, out: string, options: Partial<ReportOptions> = {}): Promise<string> => {
  await report(made, { out, ...options });
  return readFile(out, 'utf8');
};

/** The text of HTML without its tags. */
const plain = (html: string): string =>
  html
    .replace(/<[^>]*>/g, '')
    .replace(
      /&(lt|gt|quot|#39|amp);/g,
      (_, name: string) => ({ lt: '<', gt: '>', quot: '"', '#39': "'", amp: '&' })[name] ?? '',
    );

test('rates, extremes and examples are those of the dump', () =>
  withDump(sampleText, async (made, out) => {
    const page = await pageOf(made, out, { latents: 6, top: 3 });
    const { rowPtr, indices, values, shape } = await made.rows(latents);
    const [active, largest] = [new Map<number, number>(), new Map<number, number>()];
    indices.forEach((latent, i) => {
      active.set(latent, (active.get(latent) ?? 0) + 1);
      largest.set(latent, Math.max(largest.get(latent) ?? 0, values[i] as number));
    });
    const width = shape[2] as number;
    const bars = [...page.matchAll(/<div class="bar">.*<b>([\d,]+)<\/b>/g)].map(([, n]) => Number(n?.replace(',', '')));
    assert.is(
      bars.reduce((sum, n) => sum + n, 0),
      width,
    );
    assert.is(bars[0], width - active.size);
    assert.match(page, new RegExp(`>${Number((indices.length / 3000).toPrecision(3))} of 1,024 latents are active`));

    const order = [...active].sort(([a, m], [b, n]) => n - m || a - b);
    const table = /Most active<\/h3><table>(.*?)<\/table>/s.exec(page)?.[1] ?? '';
    const rows = [...table.matchAll(/<td>(\d+)<\/td><td class="n">([\d.]+) %<\/td><td class="n">([\d.]+)<\/td>/g)];
    assert.equal(
      rows.map(([, ...columns]) => columns.map(Number)),
      order.slice(0, 10).map(([latent, count]) => {
        return [
          latent,
          Number(((100 * count) / 3000).toPrecision(3)),
          Number((largest.get(latent) ?? 0).toPrecision(3)),
        ];
      }),
    );

    const shown = [...page.matchAll(/id="1\/resid\/delta_mlp\/latents\/(\d+)"/g)].map(([, n]) => Number(n));
    assert.is(shown.length, 6);
    assert.is(shown[0], order[0]?.[0]);
    const { tokens } = await made.tokens();
    for (const latent of shown) {
      let [best, at] = [0, -1];
      for (let position = 0; position + 1 < rowPtr.length; position++) {
        for (let i = Number(rowPtr[position]); i < Number(rowPtr[position + 1]); i++) {
          if (indices[i] === latent && (values[i] as number) > best) [best, at] = [values[i] as number, position];
        }
      }
      const feature = page.slice(page.indexOf(`id="${latents}/${latent}"`)).split('</section>')[0] as string;
      const first = /<div class="example">(.*?)<small> row (\d+)<\/small>/.exec(feature);
      assert.is(Number(first?.[2]), Math.floor(at / 32), `latent ${latent}`);
      const strongest = /<span style="[^"]*\/ 1\.00\)" title="([\d.e-]+)">(.*?)<\/span>/.exec(first?.[1] ?? '');
      assert.is(Number(strongest?.[1]), Number(best.toPrecision(3)));
      const token = gpt2Tokenizer()
        .decode([tokens[at] as number])
        .replaceAll('\n', '↵');
      assert.is(plain(strongest?.[2] ?? ''), token);
      assert.ok((feature.match(/class="example"/g) ?? []).length <= 3);
    }
  }));

test('the selected features are shown, neurons too, and nothing else', () =>
  withDump(sampleText, async (made, out) => {
    const selections = [
      { name: neurons, indices: [7, 200] },
      { name: latents, indices: [3] },
    ];
    const page = await pageOf(made, out, { selections });
    assert.equal([...page.matchAll(/<h3 id="([^"]*)"/g)].map(([, id]) => id).sort(), [
      `${latents}/3`,
      `${neurons}/200`,
      `${neurons}/7`,
    ]);
    assert.match(page, /Neuron 200<\/h3>/);
    assert.is(await pageOf(made, out, { selections }), page, 'the same page twice');
  }));

test('nothing in a text becomes part of the page', () => {
  async function* documents() {
    for (let i = 0; i < 40; i++)
      yield `<script>alert("${i}")</script> &amp; <img src=x onerror='go()'> \u0000\u001b[31m\n`;
  }
  return withDump(documents(), async (made, out) => {
    const page = await pageOf(made, out, { latents: 40 });
    assert.not.match(page, /<(script|img|link|iframe)/);
    assert.not.match(page.replaceAll('\n', ''), /\p{Cc}/u);
    assert.match(page, /default-src 'none'/);
    assert.match(plain(page), /<script>alert/);
    assert.match(plain(page), /&amp; <img src=x onerror='go\(\)'>/);
  });
});

test('wrong options are refused, and no file is written', () =>
  withDump(sampleText, async (made, out) => {
    const refused = (options: Partial<ReportOptions>, pattern: RegExp) =>
      rejects(report(made, { out, ...options }), pattern);
    await refused({ out: '' }, /report: out must be the path of a file/);
    await refused({ latents: 0 }, /report: latents must be a whole number from 1 to 2000, but is 0/);
    await refused({ top: 1.5 }, /report: top must be a whole number from 1 to 100, but is 1.5/);
    await refused(
      { selections: [{ name: 'nothing', indices: [0] }] },
      /dump has no "nothing"; it has 2\/mlp\/post_act, 1/,
    );
    await refused(
      { selections: [{ name: neurons, indices: [256] }] },
      /has indices from 0 to 255, but 256 is asked for/,
    );
    await refused({ signal: AbortSignal.abort(new Error('too late')) }, /too late/);
    await refused({ out: join(out, 'below', 'x.html') }, /report: cannot write .*x\.html/);
  }));

test('rates fall into half powers of ten; examples are spread over them', () => {
  const activity = (counts: number[], tokens: number): LatentActivity => ({
    ...{ name: latents, latents: counts.length, tokens },
    ...{ active: Float64Array.from(counts), largest: new Float32Array(counts.length) },
  });
  const { never, bins } = histogramOf(activity([0, 0, 1, 5, 10, 40, 100, 999, 1000], 1000));
  assert.is(never, 2);
  const filled = bins.filter(({ count }) => count > 0).map(({ from, count }) => [from, count]);
  assert.equal(filled, [
    [-3, 1],
    [-2.5, 1],
    [-2, 1],
    [-1.5, 1],
    [-1, 1],
    [-0.5, 2],
  ]);
  assert.equal(histogramOf(activity([0, 0], 10)), { never: 2, bins: [] });
  assert.equal(spread(activity([5, 100, 20, 9, 50, 30], 1000), 3), [1, 5, 2]);
  assert.equal(spread(activity([5, 100, 20], 1000), 1), [1]);
  assert.equal(spread(activity([5, 0, 7], 1000), 4), [2, 0]);
});

test('sonde report', () =>
  withDump(sampleText, async (made, out) => {
    const { code, stdout, stderr } = await run(['report', made.folder, '--out', out, '--select', `${neurons}=1-3`]);
    assert.is(code, 0, stderr);
    assert.match(stdout, /report\.html: 3 neurons and latents with their texts\n$/);
    const wrong = await run(['report', made.folder, '--out', `${out}2`, '--select', 'x=1']);
    assert.is(wrong.code, 1);
    assert.match(wrong.stderr, /sonde: .*dump has no "x"/);
    assert.not((await readdir(join(out, '..'))).includes('report.html2'));
  }));

test('values that are not finite: NaN ranks below all others, and both are marked', () =>
  withFolder(async (folder) => {
    const [rows, context] = [6, 32];
    async function* documents() {
      for (let row = 0; row < rows; row++) yield Array.from({ length: context }, (_, i) => 1000 * row + i + 1);
    }
    // neuron 7: NaN in every row but 3, where it is 5; neuron 8: infinite in row 4, NaN in row 5; latents of rows 2 and 5
    const planted = plantedModel(model, (tokens, activations) => {
      const post = activations.get(neurons);
      for (const [at, own] of tokens.entries()) {
        const row = Math.floor((own[0] as number) / 1000);
        post?.select(0, at).slice(1, 7, 9).fill(1);
        if (row !== 3) setAt(post, at, 9, 7, Number.NaN);
        else setAt(post, at, 9, 7, 5);
        if (row === 4) setAt(post, at, 2, 8, Infinity);
        if (row === 5) setAt(post, at, 3, 8, Number.NaN);
      }
    });
    const spec = findAutoencoderSpec('demo', 'ae-resid-delta-mlp')?.path.replace('{layer}', '1') as string;
    using autoencoder = await Autoencoder.load(spec, { strict: false });
    // of each latent, the largest value becomes NaN
    const ae = plantedAutoencoder(autoencoder, ({ indices, values }) => {
      const largest = new Map<number, number>();
      indices.forEach((latent, i) => {
        if ((values[i] as number) > (values[largest.get(latent) ?? -1] ?? 0)) largest.set(latent, i);
      });
      for (const i of largest.values()) values[i] = Number.NaN;
    });
    const locations = [neurons, '1/resid/delta_mlp -> ae'];
    const request = {
      model: planted,
      corpus: documents(),
      locations,
      autoencoders: { ae },
      context,
      shardTokens: 4096,
    };
    await dump({ ...request, dtype: 'float32', out: join(folder, 'dump') });
    await using made = await openDump(join(folder, 'dump'));
    const { rowPtr, indices, values } = await made.rows(latents);
    const active = new Map<number, number>();
    for (const latent of indices) active.set(latent, (active.get(latent) ?? 0) + 1);
    assert.ok(rowPtr.length > 0 && values.some(Number.isNaN));

    const selections = [{ name: neurons, indices: [7, 8] }];
    const page = await pageOf(made, join(folder, 'a.html'), { selections, top: 3 });
    const facts = [...page.matchAll(/<th>not finite<\/th><td>(.*?)<\/td>/g)].map(([, text]) => text);
    assert.equal(facts.length, 2);
    assert.is(facts[0], `${neurons}: 7 of 49,152 values are not finite: 6 NaN, 1 infinite or too large for the dtype`);
    const part = (index: number) =>
      page.slice(page.indexOf(`id="${neurons}/${index}"`)).split('</section>')[0] as string;
    const shown = (index: number) => [...part(index).matchAll(/ row (\d+)<\/small>/g)].map(([, row]) => Number(row));
    assert.equal(
      [shown(7), shown(8)],
      [
        [3, 0, 1],
        [4, 0, 1],
      ],
    );
    assert.match(part(7), /NaN on average, 5 at most/);
    assert.match(part(8), /NaN on average, Infinity at most/);
    assert.is((part(7).match(/<u title="NaN">/g) ?? []).length, 2);
    assert.match(part(8), /<u title="Infinity">/);
    assert.match(part(8), /<span style="background:rgb\(var\(--hot\) \/ 1\.00\)" title="1">/);
    assert.not.match(page, /var\(--hot\) \/ NaN/);
    const table = /Most active<\/h3><table>(.*?)<\/table>/s.exec(page)?.[1] ?? '';
    const largest = [...table.matchAll(/<td class="n">([^<]*)<\/td><\/tr>/g)].map(([, text]) => text);
    assert.equal(largest, new Array(10).fill('NaN'), 'the largest of a latent that is NaN somewhere');

    await collate(made, { selections, out: join(folder, 'records'), top: 2, random: 1 });
    const record = await loadNeuronRecord(join(folder, 'records', 'mlp_post_act', '2', '7.json'));
    assert.equal([record.mean, record.variance], [null, null]); // JSON has no NaN
    assert.equal(
      record.mostPositiveActivationRecords.map(({ activations }) => activations.map((x) => (x === 1 ? 1 : x))[9]),
      [5, NaN],
    );

    const look = await run(['inspect', made.folder]);
    assert.is(look.code, 0, look.stderr);
    assert.match(look.stdout, /2\/mlp\/post_act .* on average, standard deviation [\d.]+; 1 of 8192 not finite\n/);
    const first = indices.subarray(0, Number(rowPtr[context]));
    const numbers = [...values.subarray(0, first.length)].filter((x) => !Number.isNaN(x));
    const strongest = numbers.reduce((a, b) => Math.max(a, b));
    const odd = first.length - numbers.length;
    const tail = odd > 0 ? `, ${odd} of ${first.length} not finite` : '';
    assert.match(look.stdout, new RegExp(`the strongest \\d+:${Number(strongest.toPrecision(3))}${tail}\n`));
    assert.match(look.stdout, /values that are not finite, in all shards\n {2}2\/mlp\/post_act: 7 of 49,152 /);
  }));

const browser = ['chromium', 'chromium-browser', 'google-chrome'].find(isInstalled);
const onPhones = 'a browser shows it on a phone and on a desktop, without scrolling sideways';
if (!browser) test.skip(onPhones, 'no Chromium is installed');
else {
  test(onPhones, () =>
    withDump(sampleText, async (made, out) => {
      await pageOf(made, out);
      const frames = [360, 1200].map((width) => `<iframe width="${width}" height="800" src="report.html"></iframe>`);
      const script = `addEventListener('load', () => {
        document.title = [...document.querySelectorAll('iframe')].map(({ contentDocument: page, width }) => {
          const hot = page.querySelector('.example span');
          const color = page.defaultView.getComputedStyle(hot).backgroundColor;
          const bar = Math.max(...[...page.querySelectorAll('.bar i')].map((bar) => bar.getBoundingClientRect().width));
          return [width, page.documentElement.scrollWidth, page.querySelectorAll('section').length, color, bar > 60].join(' ');
        }).join('; ');
      });`;
      const harness = join(out, '..', 'frames.html');
      await writeFile(harness, `<!doctype html>${frames.join('')}<script>${script}</script>`);
      const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files'];
      const { stdout } = spawnSync(
        browser,
        [...flags, '--virtual-time-budget=5000', '--dump-dom', `file://${harness}`],
        {
          encoding: 'utf8',
        },
      );
      const title = /<title>(.*?)<\/title>/.exec(stdout)?.[1] ?? stdout;
      const views = title.split('; ').map((view) => view.split(' '));
      assert.is(views.length, 2, title);
      for (const [width, scroll, sections, ...rest] of views) {
        assert.ok(Number(scroll) <= Number(width), `at ${width} px it is ${scroll} px wide`);
        assert.is(sections, '12');
        assert.match(rest.join(' '), /^rgba?\(255,? (122|140),? (0|40).*\) true$|^color\(srgb 1 .*\) true$/, title);
      }
    }),
  );
}

test.run();
