// Plants bounds that are a little too small in the filter of sparse_encode, one at a time: filter_test has to find each, or its
// verdict is worth nothing.
//   node test/native/filter_mistakes.mjs [word]...   only those whose title contains a word
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { compiler } from '../../native/build.mjs';
import { root } from './programs.mjs';

// title: [file, text, its replacement]. What stands for rounding is no less than an eighth larger than what rounding can do (its
// constant bounds the sum's rounding and that of the bound itself), so that only more than this can be missed.
export const mistakes = {
  'the error of a row is 1% too small': ['filter.h', '(sqrt(sum_lanes(error)) +', '(0.99 * sqrt(sum_lanes(error)) +'],
  // what stands for rounding makes up for 1% of steps of a 2047th
  'the fine error of a row is 2% too small': ['fine_bounds.h', 'double(norm) * row.', '0.98 * double(norm) * row.'],
  'the fine error of a column is 2% too small': ['fine_bounds.h', '(sqrt(sum) +', '(0.98 * sqrt(sum) +'],
  'the norm of a row is 1% too small': ['filter.h', 'rounded_up(held * kMargin)', 'rounded_up(0.99 * held * kMargin)'],
  'the error of a column is 1% too small': [
    'pack_filter.cc',
    'rounded_up(sqrt(left) * kMargin)',
    'rounded_up(0.99 * sqrt(left) * kMargin)',
  ],
  'the norm of a column is 1% too small': [
    'pack_filter.cc',
    'rounded_up(norm * kMargin)',
    'rounded_up(0.99 * norm * kMargin)',
  ],
  'lower bounds are 1% of the distance too high': ['filter.h', 'upper - 2 * kMargin *', 'upper - 1.98 * kMargin *'],
  'the rounding of a sum counts too little': ['filter.h', 'rounding(k) * (norm +', '0.87 * rounding(k) * (norm +'],
  'the rounding of a bias counts too little': ['filter.h', 'rounding(k) * (fabs(b)', '0.87 * rounding(k) * (fabs(b)'],
  'split channels do not count': ['filter.h', 'sqrt(sum_lanes(square) + apart)', 'sqrt(sum_lanes(square) + 0 * apart)'],
  'an infinite upper bound gives a lower one': ['filter.h', 'lower < INFINITY ?', 'lower == lower ?'],
};

/**
 * Builds filter_test in `folder`, with a mistake where a title is given, and runs it. Resolves to its message, or to null where
 * it found nothing.
 */
export async function find(title, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(join(root, 'native'), join(folder, 'native'), {
    recursive: true,
    filter: (path) => !path.endsWith('nodedir'),
  });
  if (title !== undefined) {
    const [file, from, to] = mistakes[title];
    const path = join(folder, 'native', 'cpu', file);
    const parts = readFileSync(path, 'utf8').split(from);
    if (parts.length !== 2) throw new Error(`${title}: ${file} does not have, once: ${from}`);
    writeFileSync(path, parts.join(to));
  }
  const program = join(folder, 'filter_test');
  // as the kernels are compiled (binding.gyp), for any processor
  const flags = ['-std=c++20', '-Wall', '-Wextra', '-Werror', '-O1', '-ffp-contract=off', '-fno-math-errno'];
  const source = join(root, 'test', 'native', 'filter_test.cc');
  const built = await run(compiler, [...flags, '-DSONDE_ISA=portable', `-I${folder}/native`, source, '-o', program]);
  if (built.code !== 0) throw new Error(`filter_test does not compile\n${built.errors}`);
  const { code, errors } = await run(program, []);
  return code === 0 ? null : errors.split('\n')[0] || `it ended with ${code}`;
}

async function run(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], timeout: 120_000 });
  const errors = child.stderr.setEncoding('utf8').toArray();
  const [code, signal] = await once(child, 'exit');
  return { code: code ?? signal, errors: (await errors).join('') };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const words = process.argv.slice(2);
  for (const title of Object.keys(mistakes)) {
    if (words.length > 0 && !words.some((word) => title.includes(word))) continue;
    const said = await find(title, join(root, 'build-test', 'filter-mistake'));
    console.log(`${said ? 'found    ' : 'NOT FOUND'} ${title}${said ? `: ${said}` : ''}`);
    if (!said) process.exitCode = 1;
  }
}
