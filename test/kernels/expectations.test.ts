// What the machine code of the hot kernels has to be: on counts that are made up, and on the machine code of `npm run build:cuda`
// where that and a disassembler are there.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { suite } from '../support/harness.js';
import { build, type Code, disassembly, type Environment, expectations, type Kernel, report } from './scripts.js';

const { instructionsFor16, mostInstructions, productOf, shortcomings } = expectations;

const test = suite('kernels/expectations');

const gelu = '_ZN5sonde13hopper_kernelILb0ELb0ENS_8NoScalesENS_5DenseINS_4Bf16ELNS_10ActivationE2ELb0ELb0EEEEEvT1_';
const residual = '_ZN5sonde10mma_kernelILb1ELb1ENS_6ScalesILb0EEENS_5DenseIfLNS_10ActivationE0ELb1ELb0EEEEEvT1_';
const attention = '_ZN5sonde12_GLOBAL__N_116attention_kernelINS_8ElementsINS_4Bf16EEELi64ELb1EEEvT_';

const code = (name: string, changed: Partial<Code> = {}): Code => ({
  ...{ name, arch: 'sm_90a', instructions: 4000, tensor: 12, loads: 0, stores: 0 },
  epilogue: { instructions: 1600, branches: 9, calls: 0, stores: { 128: 16 } },
  ...{ vectors: { loads: 16, stores: 16 }, steps: [{ instructions: 400, tensor: 12, branches: 0 }] },
  ...changed,
});
const kernel = (name: string, registers: number): Kernel => ({
  ...{ name, arch: 'sm_90a', registers, stack: 0, stores: 0, loads: 0 },
});
const faults = (...of: Parameters<typeof shortcomings>) => shortcomings(...of).map(({ fault }) => fault);

test('names of product kernels', () => {
  assert.equal(productOf(gelu), { kind: 'hopper', values: 128, bytes: 2, gelu: true, residual: false, planes: false });
  assert.equal(productOf(residual), { kind: 'mma', values: 64, bytes: 4, gelu: false, residual: true, planes: false });
  assert.is(productOf(attention), undefined);
  assert.is(instructionsFor16(code(gelu), { values: 128 }), 200);
});

test('epilogues: how many instructions, and how wide their stores are', () => {
  assert.equal(faults([], [code(gelu), code(residual)]), []);
  const epilogue = { instructions: 2001, branches: 9, calls: 0, stores: { 32: 64 } };
  assert.equal(faults([], [code(gelu, { epilogue })]), [
    `251 instructions in the epilogue for 16 values, at most ${mostInstructions} expected`,
    '0 stores of 128 bits in the epilogue, 16 expected',
  ]);
  assert.equal(faults([], [code(residual, { vectors: { loads: 8, stores: 16 } })]), [
    '8 loads of 128 bits, 16 expected for the residual',
  ]);
  // kernels without code for an architecture
  assert.equal(faults([], [code(gelu, { tensor: 0, epilogue })]), []);
});

test('attention: a step without a branch, and wide stores; registers of Hopper', () => {
  assert.equal(faults([], [code(attention)]), []);
  const steps = [8, 2].map((branches) => ({ instructions: 400, tensor: 64, branches }));
  const slow = code(attention, { steps, vectors: { loads: 0, stores: 0 } });
  assert.equal(faults([], [slow]), ['2 branches in the step without a mask, none expected', 'no store of 128 bits']);
  assert.equal(faults([], [code(attention, { steps: [] })]), ['no step without a mask']);
  assert.equal(faults([], [code(attention.replace('Li64ELb1E', 'Li64ELb0E'), { steps })]), []);
  assert.equal(faults([kernel(gelu, 168)], [code(gelu)]), []);
  assert.equal(faults([kernel(gelu, 176)], [code(gelu)]), ['176 registers, at most 168 expected']);
});

// ---- the machine code itself

const env = process.env as Environment;
const folder = join(packageRoot, 'build-cuda');
const sources = readdirSync(join(packageRoot, 'kernels')).map((name) => join(packageRoot, 'kernels', name));
const library = join(folder, 'Release', 'libsonde_cuda.so');

/** Why the machine code cannot be looked at here; undefined if it can. */
function missing(): string | undefined {
  let nvcc: string;
  try {
    nvcc = build.findTools(env).nvcc;
  } catch (error) {
    return (error as Error).message;
  }
  if (!build.findDisassembler(env, nvcc)) return 'nvdisasm or cuobjdump was not found';
  if (!existsSync(library)) return 'npm run build:cuda has not run';
  const built = statSync(library).mtimeMs;
  if (sources.some((path) => statSync(path).mtimeMs > built))
    return 'npm run build:cuda ran before the kernels changed';
  return undefined;
}

const why = missing();
if (why) test.skip('the machine code of the kernels', why);
else {
  test(
    'the machine code of the kernels',
    async () => {
      const tool = build.findDisassembler(env, build.findTools(env).nvcc);
      const { code = [], note } = await disassembly.disassemble({ root: packageRoot, folder, tool, env });
      assert.is(note, undefined);
      assert.ok(code.filter(({ name }) => productOf(name)?.gelu).length >= 8, 'product kernels with GELU');
      assert.ok(code.filter(({ name }) => /hopper_attention_kernel/.test(name)).length >= 4, 'attention on Hopper');
      const objects = report.objectFolder(folder);
      const logs = readdirSync(objects).filter((name) => name.endsWith('.log'));
      const { kernels } = report.parseCompilerLog(
        logs.map((name) => readFileSync(join(objects, name), 'utf8')).join('\n'),
      );
      assert.equal(shortcomings(kernels, code), []);
      assert.is(report.localMemoryTable(kernels, code), '');
    },
    { limit: 280_000 },
  );
}

test.run();
