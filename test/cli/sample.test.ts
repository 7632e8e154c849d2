// What sonde sample prints. Oracle: the library's texts and tokens, of the same seed; cut where an interruption left them.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { sampleView } from '../../src/cli/sample_view.js';
import { visible } from '../../src/cli/terminal.js';
import { gpt2Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import type { SampleOptions } from '../../src/transformer/sample_run.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { saveHuggingFace } from '../support/hugging_face.js';
import { main, run } from './command.js';

const test = suite('sonde sample');
const onCpu = ['sample', '--device', 'cpu'];
const enc = gpt2Tokenizer();
const { signal } = new AbortController();
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load('demo');
});

const lines = (prompts: string[], texts: string[]) => prompts.map((prompt, i) => `${prompt}${texts[i]}\n`).join('');
const parsed = (stdout: string) => {
  assert.ok(stdout === '' || stdout.endsWith('\n'));
  return stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
};

test('texts are those of the library: prompts, seeds, stop tokens, bytes of all kinds', async () => {
  const prompts = ['Kate found', 'Once there was a dog', 'Tom'];
  const stop = ['--stop', '.', '--stop', '<|endoftext|>', '--stop', '.'];
  const cases: [string[], SampleOptions][] = [
    [['--seed', '3'], { seed: 3, numTokens: 20 }],
    [['--seed', '3', ...stop], { seed: 3, numTokens: 20, stopTokens: [13, 50256] }],
    [
      ['--seed', '3', ...stop, '--min-tokens', '9', '--num-tokens', '60'],
      { seed: 3, numTokens: 60, stopTokens: [13, 50256], minTokens: 9 },
    ],
    [['--temperature', '1e9', '--num-tokens', '120', '--seed', '5'], { temperature: 1e9, numTokens: 120, seed: 5 }],
    [['--num-tokens', '0'], { numTokens: 0 }],
  ];
  for (const [args, options] of cases) {
    const { tokens, strings } = await xf.sample(prompts, options);
    if (args.includes('1e9')) assert.ok(/\ufffd/.test(strings.join('')) && /[^\P{Cc}\n\t]/u.test(strings.join('')));
    const { code, stdout, stderr } = await run([...onCpu, ...args, '--', ...prompts]);
    assert.is(code, 0, stderr);
    assert.is(stdout, lines(prompts, strings), args.join(' '));
    const json = await run([...onCpu, ...args, '--json', '--', ...prompts]);
    assert.is(json.code, 0, json.stderr);
    assert.not.match(json.stdout, /[^\P{Cc}\n]/u, 'safe on a terminal');
    const { numTokens = 0, stopTokens = [] } = options;
    assert.equal(
      parsed(json.stdout),
      prompts.map((prompt, i) => {
        const row = tokens[i] as number[];
        const stopped = stopTokens.includes(row.at(-1) as number);
        assert.ok(stopped || row.length === numTokens);
        return { prompt, text: strings[i], tokens: row, finishReason: stopped ? 'stop' : 'length' };
      }),
    );
  }
});

/** The writes to standard output while fn runs, which must not wait. */
function writesOf(fn: () => unknown): string[] {
  const { write } = process.stdout;
  const writes: string[] = [];
  process.stdout.write = ((text: string) => writes.push(text) > 0) as typeof write;
  try {
    fn();
  } finally {
    process.stdout.write = write;
  }
  return writes;
}

test('the first prompt that has not ended is streamed, those behind it wait for it', () => {
  const options = { numTokens: 3, stopTokens: [9], json: false, signal };
  const view = sampleView(['A', 'B', 'C', 'D'], options);
  const steps: [row: number, step: number, token: number, text: string, written: string[]][] = [
    [0, 0, 1, ' a', ['A a']],
    [1, 0, 9, ' b', []],
    [2, 0, 2, ' c', []],
    [3, 0, 9, ' d', []],
    [0, 1, 1, '', []], // part of a character
    [2, 1, 2, ' cc', []],
    [0, 2, 1, 'é.', ['é.\nB b\nC c cc']],
    [2, 2, 1, '\n', ['\n\nD d\n']],
  ];
  for (const [row, step, token, text, written] of steps) {
    assert.equal(
      writesOf(() => view.onToken({ row, step, token, text })),
      written,
      `row ${row}, step ${step}`,
    );
  }
  assert.equal(writesOf(() => view.end()).join(''), '');
  assert.equal(
    writesOf(() => view.fail()),
    [],
  );
});

test('what an interruption and an error leave', () => {
  const begun = (json: boolean) => {
    const view = sampleView(['A', 'B', 'C'], { numTokens: 3, stopTokens: [9], json, signal });
    const written = writesOf(() => {
      void view.onToken({ row: 0, step: 0, token: 1, text: ' a' });
      void view.onToken({ row: 1, step: 0, token: 9, text: ' b' });
    });
    assert.is(written.join(''), json ? '' : 'A a');
    return view;
  };
  assert.equal(
    writesOf(() => begun(false).end()),
    ['\nB b\nC\n'],
  );
  assert.equal(
    writesOf(() => begun(false).fail()),
    ['\n'],
  );
  assert.equal(
    writesOf(() => begun(true).fail()),
    [],
  );
  assert.equal(parsed(writesOf(() => begun(true).end()).join('')), [
    { prompt: 'A', text: ' a', tokens: [1], finishReason: 'interrupted' },
    { prompt: 'B', text: ' b', tokens: [9], finishReason: 'stop' },
    { prompt: 'C', text: '', tokens: [], finishReason: 'interrupted' },
  ]);
  const idle = (json: boolean) => sampleView(['A'], { numTokens: 3, stopTokens: [], json, signal });
  assert.equal(
    writesOf(() => idle(false).fail()),
    [],
    'nothing was begun',
  );
  assert.equal(
    writesOf(() => idle(false).end()),
    ['A\n'],
  );
});

test('JSON holds no control characters, and still gives them back', () => {
  const text = 'a\u001b[2J\u007f\u009b\u0000\n\t\r\u2028';
  const view = sampleView(['\u0085'], { numTokens: 1, stopTokens: [], json: true, signal });
  const [line = ''] = writesOf(() => {
    void view.onToken({ row: 0, step: 0, token: 1, text });
    view.end();
  });
  assert.match(line, /^\P{Cc}*\n$/u);
  assert.equal(parsed(line), [{ prompt: '\u0085', text, tokens: [1], finishReason: 'length' }]);
});

test('control characters of a text become ? for a terminal, but not line feed and tab', () => {
  const text = 'a\u001b[2Jb\r\n\tc\u0007\u009b\u007f\u0000é😀\u00a0';
  assert.is(visible(text, true), 'a?[2Jb?\n\tc????é😀\u00a0');
  assert.is(visible(text, false), text);
});

test('on a terminal', async () => {
  const prompts = ['Kate found', 'Tom'];
  const numTokens = 120;
  const { strings } = await xf.sample(prompts, { temperature: 1e9, numTokens, seed: 5 });
  assert.match(strings.join(''), /[^\P{Cc}\n\t]/u);
  // runs the command with a terminal as its standard output, and prints what the terminal gets
  const program = `
import os, pty, subprocess, sys, tty
ours, theirs = pty.openpty()
tty.setraw(theirs)
child = subprocess.Popen(sys.argv[1:], stdout=theirs)
os.close(theirs)
while True:
    try:
        data = os.read(ours, 65536)
    except OSError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data)
sys.exit(child.wait())`;
  const sample = [...onCpu, '--temperature', '1e9', '--num-tokens', String(numTokens), '--seed', '5', '--', ...prompts];
  const child = spawn('python3', ['-c', program, process.execPath, main, ...sample]);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  assert.is(code, 0, stderr);
  assert.is(
    stdout,
    lines(
      prompts,
      strings.map((text) => text.replace(/[^\P{Cc}\n\t]/gu, '?')),
    ),
  );
});

// Long prompts, so that the texts do not fit the buffers between the processes. All but the last stop after a few tokens:
// then their lines are printed, and the command waits for a reader that reads no more until it has said that it was
// interrupted. So it cannot end before the signal comes, however slow one of the two is.
const long = 'ÃÂ'.repeat(32 * 150);
const slow = [...Array.from({ length: 23 }, () => `${long} Kate found`), `${long} Once there was`];
const slowArgs = [...onCpu, '--temperature', '0', '--stop', '.', '--num-tokens', '90'];

test('Ctrl-C leaves what is there, of each prompt, although nobody reads', async () => {
  assert.is(enc.encode(slow[0] as string).length, 152);
  const { tokens } = await xf.sample(slow, { temperature: 0, numTokens: 90, stopTokens: [13] });
  const first = (tokens[0] as number[]).length;
  assert.ok((tokens.at(-1) as number[]).length > first + 2 && first > 2, 'the last one goes on for longer');
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const once = (stdout: string) => stdout.includes('\n');
    const { code, stdout, stderr } = await run([...slowArgs, ...slow], { interrupt: { signal, once } });
    assert.is(code, 130, stderr);
    assert.is(stderr, 'sonde: interrupted\n');
    const given = stdout.split('\n');
    assert.is(given.pop(), '', 'the last line is ended');
    assert.is(given.length, slow.length);
    const counts = given.map((line, row) => {
      const all = tokens[row] as number[];
      const count = all.findIndex((_, i) => line === `${slow[row]}${enc.decode(all.slice(0, i + 1))}`) + 1;
      assert.ok(count > 0, `row ${row}: '${line.slice(long.length)}' is not the start of its text`);
      return count;
    });
    assert.is(counts[0], first, 'the first line was there');
    // a step gives its tokens row by row
    const behind = counts.slice(0, -1).findIndex((count) => count < first);
    const expected = counts.slice(0, -1).map((_, row) => (behind >= 0 && row >= behind ? first - 1 : first));
    assert.equal(counts.slice(0, -1), expected);
    assert.ok((counts.at(-1) as number) < (tokens.at(-1) as number[]).length, 'the last line is not whole');
  }
});

test('the first words come while the rest is computed, and Ctrl-C ends it there', async () => {
  const prompts = Array.from({ length: 16 }, (_, i) => `Once there were ${i} dogs`);
  const numTokens = 240;
  const { tokens } = await xf.sample(prompts, { seed: 3, numTokens });
  const args = [...onCpu, '--seed', '3', '--num-tokens', String(numTokens), '--threads', '1', ...prompts];
  // the signal goes out at the first words, seconds before the last ones; a machine that holds up this process for so
  // long gets other chances
  let outcome = await run(args, { interrupt: { signal: 'SIGINT', once: () => true } });
  for (let tries = 1; outcome.code === 0 && tries < 5; tries++) {
    outcome = await run(args, { interrupt: { signal: 'SIGINT', once: () => true } });
  }
  const { code, stdout, stderr } = outcome;
  assert.equal([code, stderr], [130, 'sonde: interrupted\n']);
  const ofSteps = (steps: number) =>
    lines(
      prompts,
      tokens.map((row) => enc.decode(row.slice(0, steps))),
    );
  const steps = Array.from({ length: numTokens }, (_, i) => i).find((i) => stdout === ofSteps(i));
  assert.ok(steps, `not the texts of so many steps: ${stdout}`);
});

test('an error in the middle: what was streamed stays, and the message follows', () =>
  withFolder(async (folder) => {
    // the embedding of position 8 is NaN: the logits are, at a row of three tokens at step 6, at one of two at step 7
    const model = join(folder, 'model');
    await saveHuggingFace(xf, model, {
      edit: (tensors) => {
        const { data } = tensors['transformer.wpe.weight'] as unknown as { data: Float32Array };
        data.fill(Number.NaN, 8 * xf.config.dModel, 9 * xf.config.dModel);
      },
    });
    const prompts = ['Kate found', 'Kate found a'];
    using broken = await Transformer.load(model);
    const { strings } = await broken.sample(prompts, { temperature: 0, numTokens: 6 });
    const args = [...onCpu, '--model', model, '--temperature', '0', '--num-tokens', '12'];
    const { code, stdout, stderr } = await run([...args, ...prompts]);
    assert.is(code, 1);
    assert.is(stdout, `${prompts[0]}${strings[0]}\n`);
    assert.match(stderr, /^sonde: sample: logits must be finite, .* at row 1, step 6, they hold a NaN, at token 0\n$/);
    const json = await run([...args, '--json', ...prompts]);
    assert.equal([json.code, json.stdout, json.stderr], [1, '', stderr]);
  }));

test('wrong usage', async () => {
  const cases: [args: string[], code: number, pattern: RegExp][] = [
    [['--stop', 'hello world', 'x'], 2, /^sonde: --stop must be one token, but 'hello world' is 2\nTry --help/],
    [['--stop', '.', '--stop', '', 'x'], 2, /^sonde: --stop must be one token, but '' is 0\nTry --help/],
    [['--min-tokens', '21', 'x'], 2, /^sonde: --min-tokens 21 is more than --num-tokens 20\nTry --help/],
    [['--min-tokens', '-1', 'x'], 2, /It must be a whole number of 0 or more/],
    [['--json'], 2, /missing required argument 'prompt'/],
    [[''], 1, /^sonde: sample: prompts\[0\] must be at least one token, but is empty\n$/],
    [['x', ''], 1, /^sonde: sample: prompts\[1\] must be at least one token, but is empty\n$/],
    [['--num-tokens', '300', 'x'], 1, /^sonde: sample: a prompt and its new tokens must fit the context window of 256/],
  ];
  for (const [args, code, pattern] of cases) {
    const outcome = await run([...onCpu, ...args]);
    assert.is(outcome.code, code, `${args.join(' ')}: ${outcome.stderr}`);
    assert.match(outcome.stderr, pattern);
    assert.is(outcome.stdout, '');
  }
});

test.run();
