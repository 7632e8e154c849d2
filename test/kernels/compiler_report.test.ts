// Oracle: logs of nvcc 13.0, and tables read by eye.
import * as assert from 'uvu/assert';
import { suite } from '../support/harness.js';
import { type Code, report } from './scripts.js';

const { hotTable, localMemoryTable, parseCompilerLog } = report;

const test = suite('kernels/compiler_report');

const good = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_80'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 163 registers, used 1 barriers, 17408 bytes smem, 800 bytes cmem[0], 1064 bytes cmem[2]
ptxas info    : Compile time = 786.366 ms
sonde info    : 4 wgmma in good.compute_90a.ptx
`;
const spilling = `ptxas info    : Compiling entry function '_Z5spillILb1EEvPfi' for 'sm_90a'
ptxas info    : Function properties for _Z6calleef
    24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z5spillILb1EEvPfi
    16 bytes stack frame, 28 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 664 bytes cmem[0], 336 bytes cmem[2]
ptxas info    : Compile time = 462.823 ms
`;

test('the registers and spills of each kernel are read from ptxas -v', () => {
  const { kernels, warnings } = parseCompilerLog(good + spilling);
  assert.equal(kernels, [
    { name: '_Z4goodPf', arch: 'sm_80', registers: 163, stack: 0, stores: 0, loads: 0 },
    { name: '_Z6calleef', arch: 'sm_90a', registers: 0, stack: 24, stores: 0, loads: 0 },
    { name: '_Z5spillILb1EEvPfi', arch: 'sm_90a', registers: 255, stack: 16, stores: 28, loads: 32 },
  ]);
  assert.equal(warnings, []);
  assert.equal(parseCompilerLog(''), { kernels: [], warnings: [] });
});

const entries = (table: string) => table.split('\n').map((row) => row.split(/ {2,}/));
const code = (name: string, counts: Partial<Code>): Code => ({
  name,
  arch: 'sm_90a',
  instructions: 100,
  tensor: 0,
  loads: 0,
  stores: 0,
  epilogue: { instructions: 0, branches: 0, calls: 0, stores: {} },
  ...{ vectors: { loads: 0, stores: 0 }, steps: [] },
  ...counts,
});

test('the table of local memory holds the kernels that spill and the functions with a stack frame', () => {
  const { kernels } = parseCompilerLog(good + spilling);
  assert.is(localMemoryTable(parseCompilerLog(good).kernels), '');
  const [titles, callee, spill, ...more] = entries(localMemoryTable(kernels));
  assert.equal(titles, ['arch', 'registers', 'stack', 'stored', 'loaded', 'STL', 'LDL', 'kernel']);
  assert.equal(callee?.slice(0, 7), ['sm_90a', '-', '24', '0', '0', '-', '-']);
  assert.match(callee?.[7] ?? '', /^(callee|_Z6calleef)$/);
  assert.equal(spill?.slice(0, 7), ['sm_90a', '255', '16', '28', '32', '-', '-']);
  assert.match(spill?.[7] ?? '', /^(spill<true>|_Z5spillILb1EEvPfi)$/);
  assert.equal(more, []);
});

test('each kind of local memory is a fault by itself', () => {
  const none = { name: '_Z1kv', arch: 'sm_90a', registers: 9, stack: 0, stores: 0, loads: 0 };
  for (const some of [{ stack: 8 }, { stores: 4 }, { loads: 4 }]) {
    assert.is(entries(localMemoryTable([{ ...none, ...some }])).length, 2, JSON.stringify(some));
  }
  for (const some of [{ stores: 2 }, { loads: 2 }]) {
    assert.is(entries(localMemoryTable([none], [code('_Z1kv', some)])).length, 2, JSON.stringify(some));
  }
  assert.is(localMemoryTable([none], [code('_Z1kv', {})]), '');
  assert.is(localMemoryTable([none], [code('_Z1kv', { arch: 'sm_80', loads: 2 })]), '');
});

test('the instructions that load and store there are counted where the code is known', () => {
  const { kernels } = parseCompilerLog(spilling);
  const [, , spill] = entries(localMemoryTable(kernels, [code('_Z5spillILb1EEvPfi', { stores: 7, loads: 8 })]));
  assert.equal(spill?.slice(2, 7), ['16', '28', '32', '7', '8']);
});

test('the table of hot kernels: those with tensor-core instructions, newest architecture first, then by name', () => {
  const { kernels } = parseCompilerLog(good + spilling);
  const epilogue = { instructions: 30, branches: 4, calls: 1, stores: { 128: 2 } };
  const table = hotTable(kernels, [
    code('_Z4goodPf', { arch: 'sm_80', tensor: 16, epilogue: { ...epilogue, stores: { 8: 3, 64: 1 } } }),
    code('_Z5plainv', {}),
    code('_Z5spillILb1EEvPfi', { instructions: 5000, tensor: 4, epilogue }),
    code('_Z5otherv', { tensor: 1, epilogue }),
  ]);
  const [titles, other, first, second, ...more] = entries(table);
  const counts = ['arch', 'registers', 'all', 'mma', 'epilogue', 'branches', 'calls'];
  assert.equal(titles, [...counts, 'st8', 'st64', 'st128', 'kernel']);
  assert.equal(other?.slice(0, 4), ['sm_90a', '-', '100', '1']);
  assert.equal(first?.slice(0, -1), ['sm_90a', '255', '5000', '4', '30', '4', '1', '0', '0', '2']);
  assert.equal(second?.slice(0, -1), ['sm_80', '163', '100', '16', '30', '4', '1', '3', '1', '0']);
  assert.equal(more, []);
  assert.is(hotTable(kernels, [code('_Z5plainv', {})]), '');
});

const serialized =
  "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function '_Z2wgPf'";
const said: [string, string][] = [
  ['nvcc', 'kernels/gelu.cu(2): warning #177-D: variable "y" was declared but never referenced'],
  ['the host compiler', 'kernels/gelu.cu:12:7: warning: unused variable ‘y’ [-Wunused-variable]'],
  ['ptxas', 'ptxas warning : Value of threads per SM for entry _Z1kPf is out of range'],
  ['nvcc itself', 'nvcc warning : The -std=c++11 flag is not supported with the configured host compiler'],
  ['ptxas, that serializes wgmma', serialized],
  ['ptxas, that waits for wgmma', 'ptxas info    : (C7517) warpgroup.wait is injected in around line 5713 by compiler'],
];
for (const [tool, line] of said) {
  test(`a warning of ${tool} is seen, once`, () => {
    assert.equal(parseCompilerLog(`${good}${line}\n  ^\n\n${spilling}${line}\n`).warnings, [line]);
  });
}

test.run();
