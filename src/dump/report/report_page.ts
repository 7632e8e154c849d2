// The HTML of a report. Everything in a dump may come from anywhere: all text is escaped, and the page itself forbids
// scripts and other files.
import { showBytes, threeDigits, withCommas } from '../../files/text.js';
import { latentsName } from '../format/layout.js';
import { bytesOf } from '../format/manifest.js';
import { nonFiniteLines } from '../format/non_finite.js';
import { textOf } from '../format/token_text.js';
import type { Dump } from '../read/reader.js';
import { type Example, type Feature, histogramOf, type LatentActivity } from './report_data.js';

const style = `
:root { color-scheme: light dark; --text: #1d2430; --faint: #667085; --line: #d8dde6; --back: #fff; --hot: 255 122 0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e7ee; --faint: #98a2b3; --line: #343b48; --back: #14181f; --hot: 255 140 40; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--text); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0; }
.faint { color: var(--faint); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.n, th.n { text-align: right; }
.facts th { width: 15rem; }
@media (max-width: 40rem) { .facts th { width: 8rem; } }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
.bar { display: grid; grid-template-columns: 10.5rem 1fr 3.5rem; gap: .5rem; align-items: center; font-size: .9rem; }
.bar i { display: block; height: .9rem; min-width: 1px; background: rgb(var(--hot) / .75); border-radius: 2px; }
.bar b { font-weight: 400; text-align: right; font-variant-numeric: tabular-nums; }
.example { margin: .35rem 0; padding: .4rem .6rem; border: 1px solid var(--line); border-radius: .4rem; line-height: 1.7;
  font-family: ui-monospace, monospace; font-size: .88rem; white-space: pre-wrap; }
.example span { border-radius: 2px; }
.example u { text-decoration: wavy underline; }
.example small { color: var(--faint); }
`;

/** The whole page, in parts: it may be longer than a string can be. */
export function* pageOf(
  dump: Dump,
  activities: readonly LatentActivity[],
  features: readonly Feature[],
): Generator<string> {
  const activityOf = new Map(activities.map((activity) => [activity.name, activity]));
  const names = [...new Set([...activityOf.keys(), ...features.map(({ name }) => name)])];
  yield `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(dump.manifest.model.name)}: a dump</title>
<style>${style}</style>
</head>
<body>
${overview(dump)}`;
  for (const name of names) {
    const own = features.filter((feature) => feature.name === name);
    yield* section(name, activityOf.get(name), own);
  }
  yield '\n</body>\n</html>\n';
}

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => entities[character] as string);

/** `2.3 %`, `0.004 %` */
const percent = (x: number): string => `${threeDigits(100 * x)} %`;

// ---- what is in the dump

function overview({ manifest, shards, rowCount, tokenCount, nonFinite }: Dump): string {
  const { model, corpus, context, locations, autoencoders, dtype, gradientOf, complete } = manifest;
  const bytes = bytesOf(shards);
  const facts: [string, string][] = [
    ['model', `${model.name}, ${model.dtype}, digest ${model.digest}`],
    ['corpus', corpus.map(({ kind, name }) => name ?? kind).join(', ')],
    [
      'rows',
      `${withCommas(rowCount)} of ${withCommas(context)} tokens, ${withCommas(tokenCount)} tokens without padding`,
    ],
    [
      'files',
      `${withCommas(shards.length)} ${shards.length === 1 ? 'shard' : 'shards'}, ${showBytes(bytes)}${complete ? '' : ', not complete'}`,
    ],
    ...locations.map(({ location, shape }): [string, string] => [location, `${dtype} [rows, ${shape.join(', ')}]`]),
    ...autoencoders.map(({ location, name, latents, threshold }): [string, string] => {
      return [latentsName(location), `${withCommas(latents)} latents of ${name}, those above ${threshold}`];
    }),
    ...(gradientOf
      ? [['gradients', `beside each: float32, of the ${gradientOf} of each row`] as [string, string]]
      : []),
    ...nonFiniteLines(nonFinite, shards.length).map((line): [string, string] => ['not finite', line]),
  ];
  const rows = facts.map(([what, text]) => `<tr><th>${escaped(what)}</th><td>${escaped(text)}</td></tr>`);
  return `<h1>${escaped(model.name)}: a dump</h1>\n<table class="facts">${rows.join('\n')}</table>`;
}

// ---- a location

function* section(name: string, activity: LatentActivity | undefined, features: readonly Feature[]): Generator<string> {
  yield `\n<h2>${escaped(name)}</h2>`;
  if (activity) yield `\n${rates(activity)}\n${extremes(activity)}`;
  for (const feature of features) yield `\n${featureOf(feature, activity)}`;
}

function rates(activity: LatentActivity): string {
  const { never, bins } = histogramOf(activity);
  const active = activity.active.reduce((sum, count) => sum + count, 0);
  const most = Math.max(never, ...bins.map(({ count }) => count));
  const bar = (label: string, count: number) => {
    const width = most > 0 ? (100 * count) / most : 0;
    return `<div class="bar"><span>${label}</span><i style="width:${width.toFixed(1)}%"></i><b>${withCommas(count)}</b></div>`;
  };
  const label = (from: number) => `${percent(10 ** from)} to ${percent(10 ** (from + 0.5))}`;
  return [
    `<p>${threeDigits(active / activity.tokens)} of ${withCommas(activity.latents)} latents are active at a token, on average.`,
    'How many latents are active at how many of the tokens:</p>',
    ...(never > 0 ? [bar('never', never)] : []),
    ...bins.map(({ from, count }) => bar(label(from), count)),
  ].join('\n');
}

const listed = 10;

function extremes(activity: LatentActivity): string {
  const { active } = activity;
  const activeLatents = Array.from(active.keys()).filter((i) => (active[i] as number) > 0);
  activeLatents.sort((a, b) => (active[b] as number) - (active[a] as number) || a - b);
  if (activeLatents.length === 0) return '';
  const least = activeLatents.slice(listed).slice(-listed).reverse();
  return [
    '<div class="tables">',
    tableOf('Most active', activity, activeLatents.slice(0, listed)),
    ...(least.length > 0 ? [tableOf('Least active', activity, least)] : []),
    '</div>',
  ].join('\n');
}

function tableOf(title: string, { active, largest, tokens }: LatentActivity, latents: readonly number[]): string {
  const rows = latents.map((i) => {
    const rate = percent((active[i] as number) / tokens);
    return `<tr><td>${i}</td><td class="n">${rate}</td><td class="n">${threeDigits(largest[i] as number)}</td></tr>`;
  });
  const head = '<tr><th>latent</th><th class="n">of the tokens</th><th class="n">largest</th></tr>';
  return `<div><h3>${title}</h3><table>${head}${rows.join('\n')}</table></div>`;
}

// ---- a neuron or latent

function featureOf({ name, index, mean, tokenizer, examples }: Feature, activity: LatentActivity | undefined): string {
  const tokens = activity?.active[index];
  const rate =
    tokens === undefined ? '' : `active at ${percent(tokens / (activity as LatentActivity).tokens)} of the tokens, `;
  const largest = Math.max(0, ...examples.map(({ activations }) => largestOf(activations)));
  const finite = Math.max(0, ...examples.map(({ activations }) => largestOf(activations.filter(Number.isFinite))));
  return [
    `<section><h3 id="${escaped(`${name}/${index}`)}">${activity ? 'Latent' : 'Neuron'} ${index}</h3>`,
    `<p class="faint">${rate}${threeDigits(mean)} on average, ${threeDigits(largest)} at most</p>`,
    ...examples.map((example) => exampleOf(example, finite, tokenizer)),
    ...(examples.length === 0 ? ['<p>It is active nowhere.</p>'] : []),
    '</section>',
  ].join('\n');
}

// Math.max(...) would fail here: rows may be long. NaN does not count.
const largestOf = (activations: Float32Array): number => activations.reduce((most, x) => (x > most ? x : most), 0);

const before = 40; // tokens that are shown around the strongest one
const after = 15;

/** `largest`: the finite activation that is shown strongest. Those that are not finite are underlined. */
function exampleOf({ row, tokens, activations }: Example, largest: number, tokenizer: Feature['tokenizer']): string {
  const peak = activations.indexOf(largestOf(activations));
  const from = Math.max(0, peak - before);
  const to = Math.min(tokens.length, Math.max(peak, 0) + after + 1);
  const spans: string[] = [];
  for (let i = from; i < to; i++)
    spans.push(tokenOf(textOf(tokens[i] as number, tokenizer), activations[i] as number, largest));
  const cut = (there: boolean) => (there ? '…' : '');
  return `<div class="example">${cut(from > 0)}${spans.join('')}${cut(to < tokens.length)}<small> row ${row}</small></div>`;
}

function tokenOf(shown: string, activation: number, largest: number): string {
  const text = escaped(shown.replaceAll('\n', '↵').replace(/\p{Cc}/gu, '\uFFFD'));
  if (!Number.isFinite(activation)) return `<u title="${activation}">${text}</u>`;
  if (!(activation > 0)) return text;
  const strength = Math.min(1, activation / largest).toFixed(2);
  return `<span style="background:rgb(var(--hot) / ${strength})" title="${threeDigits(activation)}">${text}</span>`;
}
