// Oracle: two small kernels, made to hold a bit of everything, as nvdisasm and cuobjdump print them, counted by hand; and shell
// scripts instead of the disassembler.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { type Code, disassembly, program } from './scripts.js';

const { disassemble, parseDisassembly } = disassembly;

const test = suite('kernels/disassembly');

const fixture = (name: string) => join(packageRoot, 'test/fixtures/disassembly', name);

// Addresses go up by 0x10: 0x000 to 0x300, HMMA at 0x1a0, half_of() from 0x2d0 on; 0x000 to 0x1a0, the last HGMMA at 0x100.
const counted: Code[] = [
  {
    name: '_Z6ampereP6float2PhPKji',
    instructions: 0x31,
    tensor: 1,
    loads: 1,
    stores: 1,
    epilogue: { instructions: 0x30 - 0x1a, branches: 1, calls: 1, stores: { 8: 1, 32: 1, 64: 1 } },
    ...{ vectors: { loads: 0, stores: 0 }, steps: [] },
  },
  {
    name: '_Z6hopperP6float4Ptmmi',
    instructions: 0x1b,
    tensor: 2,
    loads: 0,
    stores: 0,
    epilogue: { instructions: 0x1a - 0x10, branches: 0, calls: 0, stores: { 16: 1, 128: 1 } },
    ...{ vectors: { loads: 0, stores: 1 }, steps: [] },
  },
];

for (const tool of ['nvdisasm', 'cuobjdump']) {
  test(`the output of ${tool} is counted`, () => {
    assert.equal(parseDisassembly(readFileSync(fixture(`${tool}.txt`), 'utf8')), counted);
  });
}

test('branches, stores of all widths, and padding at the end', () => {
  const lines = [
    'BRX R2 -0x10 (*"BRANCH_TARGETS .L_x_1"*)',
    'JMP 0x40',
    '@!UP0 BRA.U 0x80',
    'BRA.DIV UR4, `(.L_x_3)',
    'BSSY B0, `(.L_x_2)',
    'BSYNC B0',
    'ST.E.S8 [R2], R4',
    'STG.E.EF.STRONG.SM desc[UR4][R2.64], R4',
    'STS.128 [R2], R4',
    '@P1 BRA 0x90',
    'BRA 0xb0',
    'NOP',
  ];
  const at = (i: number) => (i * 16).toString(16).padStart(4, '0');
  const text = lines.map((line, i) => `        /*${at(i)}*/                   ${line} ;`).join('\n');
  const [kernel] = parseDisassembly(`\t\tFunction : k\n${text}\n`);
  // a loop that waits, at 0x090, has a condition, and the branch at 0x0a0 goes somewhere
  assert.is(kernel?.instructions, 11);
  assert.equal(kernel?.epilogue, { instructions: 11, branches: 6, calls: 0, stores: { 8: 1, 32: 1 } });
  assert.is(parseDisassembly('\t\tFunction : k\n   /*0010*/  BRA 0x10;\n')[0]?.instructions, 0);
});

// instructions at 0x0000, 0x0010, ...
function kernelOf(lines: string[]): Code | undefined {
  const at = (i: number) => (i * 16).toString(16).padStart(4, '0');
  let i = 0;
  const text = lines.map((line) => (line.endsWith(':') ? line : `        /*${at(i++)}*/      ${line} ;`)).join('\n');
  return parseDisassembly(`\t\tFunction : k\n${text}\n`)[0];
}

test('an epilogue begins behind the loop of the last product, and ends where another warpgroup begins', () => {
  const loop = ['.L_x_1:', 'LDS R1, [R2]', 'HGMMA.64x8x16 R0', '@!P0 FADD R3, R4, R5', '@P1 BRA `(.L_x_1)'];
  const rest = ['FMUL R1, R2, R3', 'STG.E.128 desc[UR4][R2.64], R4'];
  const other = ['USETMAXREG.DEALLOC.CTAPOOL 0x18', 'UTMALDG.2D [UR8], [UR28]'];
  assert.equal(kernelOf([...loop, ...rest, ...other])?.epilogue, {
    ...{ instructions: 2, branches: 0, calls: 0, stores: { 128: 1 } },
  });
  // over tiles: the loop of products ends elsewhere, and results are stored before the branch back
  const tiles = ['.L_x_1:', 'HGMMA.64x8x16 R0', ...rest, '@P1 BRA `(.L_x_1)', 'EXIT'];
  assert.equal(kernelOf(tiles)?.epilogue, { instructions: 4, branches: 1, calls: 0, stores: { 128: 1 } });
});

test('steps: the innermost loops with products, and the branches in them', () => {
  const kernel = kernelOf([
    '.L_x_1:', // over tiles
    'LDG.E.128 R4, desc[UR4][R2.64]',
    '.L_x_2:', // without a mask: waits, and copies in a loop
    'SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR10+0x37020], R0',
    '@!P0 BRA `(.L_x_9)',
    '.L_x_3:',
    'LDS R1, [R2]',
    '@P0 BRA `(.L_x_3)',
    'HGMMA.64x8x16 R0',
    '@P1 BRA `(.L_x_2)',
    '.L_x_4:', // with a mask
    '@P2 BRA `(.L_x_5)',
    'FADD R1, R2, R3',
    '.L_x_5:',
    'HGMMA.64x8x16 R0',
    '@P1 BRA `(.L_x_4)',
    'STG.E.128 desc[UR4][R2.64], R4',
    '@P1 BRA `(.L_x_1)',
    'EXIT',
    '.L_x_9:',
    'BRA `(.L_x_2)',
  ]);
  assert.equal(kernel?.steps.slice(0, 2), [
    { instructions: 6, tensor: 1, branches: 0 },
    { instructions: 4, tensor: 1, branches: 1 },
  ]);
  assert.equal(kernel?.vectors, { loads: 1, stores: 1 });
});

test('text without any kernel', () => {
  assert.equal(parseDisassembly(''), []);
  assert.equal(parseDisassembly('        /*0000*/                   EXIT ;\n'), []);
});

// ---- running

const log = `ptxas info    : Compiling entry function '_Z6ampereP6float2PhPKji' for 'sm_90a'
ptxas info    : Function properties for _Z6ampereP6float2PhPKji
    128 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 128 bytes cumulative stack size
ptxas info    : Function properties for _Z7half_off
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
`;

/** A package that was built, with machine code of one file, and a disassembler that notes how it was run and prints `text`. */
function packageAt(root: string, { tool = 'nvdisasm', cubin = 'own.compute_90a.cubin', prints = '' } = {}) {
  const folder = join(root, 'build-cuda');
  const objects = join(folder, 'CMakeFiles/sonde_cuda.dir');
  mkdirSync(join(root, 'kernels'), { recursive: true });
  mkdirSync(join(objects, 'own.cu.o.kept'), { recursive: true });
  mkdirSync(join(objects, 'removed.cu.o.kept'), { recursive: true });
  writeFileSync(join(root, 'kernels/own.cu'), '');
  writeFileSync(join(objects, 'own.cu.o.log'), log);
  const machineCode = join(objects, 'own.cu.o.kept', cubin);
  writeFileSync(machineCode, 'machine code');
  writeFileSync(join(objects, 'removed.cu.o.kept/removed.compute_90a.cubin'), 'of a file that is there no more');
  const calls = join(root, 'calls');
  const show = prints || `while read -r line; do echo "$line"; done <'${fixture(`${tool}.txt`)}'`;
  const path = program(join(root, 'toolkit', tool), `echo "$1 $2 $PATH" >>'${calls}'\n${show}`);
  const options = { root, folder, tool: path, env: { PATH: '/usual' } };
  const ran = () => (existsSync(calls) ? readFileSync(calls, 'utf8').trimEnd().split('\n') : []);
  return { options, machineCode, ran };
}

for (const [tool, option] of [
  ['nvdisasm', '-c'],
  ['cuobjdump', '-sass'],
] as const) {
  test(`${tool} is asked about the machine code of each file, once`, () =>
    withFolder(async (root) => {
      const { options, machineCode, ran } = packageAt(root, { tool });
      const expected = { code: counted.map((kernel) => ({ ...kernel, arch: 'sm_90a' })) };
      assert.equal(await disassemble(options), expected);
      assert.equal(ran(), [`${option} ${machineCode} ${join(root, 'toolkit')}:/usual`]);
      assert.equal(await disassemble(options), expected);
      assert.is(ran().length, 1);
      writeFileSync(machineCode, 'other machine code');
      assert.equal(await disassemble(options), expected);
      assert.is(ran().length, 2);
      writeFileSync(join(options.folder, 'disassembly.json'), '{ cut o');
      assert.equal(await disassemble(options), expected);
      assert.is(ran().length, 3);
    }));
}

test('the architecture is in the name of the file, or the only one in the log of the compiler', async () => {
  for (const [cubin, arch] of [
    ['own.cubin', 'sm_90a'],
    ['own.compute_80.sm_86.cubin', 'sm_86'],
  ] as const) {
    await withFolder(async (root) => {
      const { code } = await disassemble(packageAt(root, { cubin }).options);
      assert.equal(
        code?.map((kernel) => kernel.arch),
        [arch, arch],
      );
    });
  }
});

const notShown = 'the code of the hot kernels is not shown';
const failures: [string, string, RegExp][] = [
  ['fails', 'echo "nvdisasm fatal   : Unknown flag" >&2; exit 255', /\(nvdisasm fatal {3}: Unknown flag\)$/],
  ['fails without a message', 'exit 1', /\(Command failed: toolkit\/nvdisasm -c build-cuda\/[^\n]*\)$/],
  ['prints an unknown format', 'echo "a new format"', /\(it says nothing that is understood about _Z6ampere[^\n]*\)$/],
  ['names kernels without code', 'echo "Function : _Z6ampereP6float2PhPKji"', /understood about _Z6ampere[^\n]*\)$/],
];
for (const [what, prints, says] of failures) {
  test(`a disassembler that ${what} is reported in one line, and asked again`, () =>
    withFolder(async (root) => {
      const { options, ran } = packageAt(root, { prints });
      const { code, note } = await disassemble(options);
      assert.is(code, undefined);
      assert.match(note ?? '', new RegExp(`^${notShown}: nvdisasm failed \\([^\n]+\\)$`));
      assert.match(note ?? '', says);
      await disassemble(options);
      assert.is(ran().length, 2);
    }));
}

test('no disassembler, and one that is gone', () =>
  withFolder(async (root) => {
    const { options } = packageAt(root);
    const { code, note } = await disassemble({ ...options, tool: undefined });
    assert.is(code, undefined);
    assert.is(note, `${notShown}: that needs nvdisasm or cuobjdump, which were not found`);
    rmSync(options.tool);
    assert.match((await disassemble(options)).note ?? '', /nvdisasm failed \([^\n]*ENOENT\)$/);
  }));

test.run();
