// Oracle: JSON.parse, on random documents, on all of their beginnings, and on documents with a mistake.
import * as assert from 'uvu/assert';
import { isCutJson, isJsonLines, jsonStart, parseJson } from '../../../src/dump/corpus/json_start.js';
import { suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('the start of JSON');

function value(r: Random, depth: number): unknown {
  const leaves = [null, true, false, 0, -1.5e-7, 12, '', 'a"b', 'ü\n\\', '{', '],'];
  if (depth === 0 || r.next() < 0.3) return r.pick(leaves);
  const entries = Array.from({ length: r.integer(0, 4) }, () => value(r, depth - 1));
  return r.next() < 0.5 ? entries : Object.fromEntries(entries.map((entry, i) => [`k"${i}`, entry]));
}

const parses = (text: string): boolean => {
  try {
    return typeof JSON.parse(text) === 'object' && JSON.parse(text) !== null;
  } catch {
    return false;
  }
};

test('objects and arrays, their beginnings, and mistakes', () => {
  const r = random(5);
  let mistakes = 0;
  for (let round = 0; round < 200; round++) {
    const text = JSON.stringify([value(r, 3), { a: value(r, 3) }], null, r.pick([0, 2]));
    assert.is(jsonStart(text), 'whole', text);
    assert.is(jsonStart(` ${text}\n${text}\n`), 'whole', text);
    for (let at = 1; at < text.length; at++) assert.is(jsonStart(text.slice(0, at)), 'begun', text.slice(0, at));
    const at = r.integer(0, text.length);
    const wrong = text.slice(0, at) + r.pick([',', ':', '}', ']', 'x', '"', '{']) + text.slice(at);
    if (parses(wrong)) continue;
    mistakes++;
    assert.is.not(jsonStart(wrong), 'whole', wrong);
  }
  assert.ok(mistakes > 100);
});

test('other text', () => {
  for (const text of [
    '',
    ' \n',
    'It was',
    '"text"',
    '5',
    'null',
    '[1, 2] show that',
    '{name} said',
    '[1',
    '{"a": 1} x',
  ]) {
    assert.is(jsonStart(text), text === '[1' ? 'begun' : 'none', text);
  }
});

test('a JSON object on each line', () => {
  const isLines = (text: string, isWhole = true) => isJsonLines(text, isWhole);
  assert.ok(isLines('{"text": "a"}'));
  assert.ok(isLines('{"text": "a"}\n\n {"b": [1]}\r\n'));
  assert.ok(isLines('{"text": "a"}\n{"text": "b', false));
  assert.ok(isLines(`{"text": "${'a'.repeat(70_000)}`, false));
  for (const text of [
    '',
    '\n',
    'a',
    '{"a": 1}\nb',
    '{"a": 1}\n{b',
    '{"a',
    '{',
    'a\n{"a": 1}\n{"a": 1}',
    '[1]\n[2]',
    '{\n"a": 1\n}',
    '"a"\n"b"',
  ]) {
    assert.not(isLines(text), text);
  }
  assert.not(isLines('{"a": 1}\n{b', false));
  // Most lines are enough; the last one may be cut.
  assert.ok(isLines('{"a": 1}\n{"b'));
  assert.ok(isLines('{"a": 1}\n{"b": 1}\nThe end.'));
  assert.ok(isLines('{"a": 1}\n{"b": "c" "d"}\n\n{"a": 1}\n'));
  assert.ok(isLines('{"a": NaN}\n{"b": [Infinity, -Infinity, "NaN"]}'));
  assert.not(isLines('{"a": 1}\nOne\n{"a": 1}\nTwo'));
  assert.not(isLines('{"a": Nan}'));
});

test('NaN and Infinity, as Python writes them, are null; other mistakes stay', () => {
  assert.equal(parseJson('{"text": "NaN, \\"-Infinity\\"", "a": NaN, "b": [-Infinity, Infinity]}'), {
    text: 'NaN, "-Infinity"',
    a: null,
    b: [null, null],
  });
  for (const text of ['{"a": NaNs}', '{"a": 5NaN}', '{NaN: 1}', '{"a": "NaN}', '{"a": --Infinity}']) {
    assert.throws(() => parseJson(text), /JSON/);
  }
  assert.is(jsonStart('[NaN, -Infinity, Infinity]'), 'whole');
  for (const text of ['[N', '[Na', '[-I', '[Infini']) assert.is(jsonStart(text), 'begun');
});

test('JSON that is cut has a key or an item', () => {
  for (const text of ['[{"text":"a"},{"te', '{"text": "wor', '{\n "a": {"b', '["one", "tw'])
    assert.ok(isCutJson(text), text);
  for (const text of ['{', '[', '[1', '["one', '{ "a', '{"a": 1}', '[Verse 1]']) assert.not(isCutJson(text), text);
});

test.run();
