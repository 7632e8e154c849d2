// Counts the instructions of a kernel in the disassembly of the machine code that compile.sh keeps: ptxas -v reports registers
// and stack frames, but not whether an epilogue stores 32 bits at a time or calls a division. nvdisasm and cuobjdump
// come with some toolkits only, so no build depends on this: a failure here is reported in a sentence.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { objectFolder, parseCompilerLog, sourceNames } from './compiler_report.mjs';

const run = promisify(execFile);

// ---- reading

const tensorCore = new Set(['HMMA', 'HGMMA']);
// leaving a kernel and the reconvergence of diverged threads (BSSY, BSYNC) are no branches
const branch = new Set(['BRA', 'BRX', 'BRXU', 'JMP', 'JMX', 'JMXU']);
const globalStore = new Set(['STG', 'ST']);

const nothing = () => ({ instructions: 0, branches: 0, calls: 0, stores: {} });

/**
 * Counts the instructions in the output of `nvdisasm -c` or `cuobjdump -sass`. -> for each kernel { name (mangled), instructions,
 * tensor (HMMA and HGMMA), loads and stores (of local memory: LDL, STL), epilogue: { instructions, branches, calls, stores }, vectors:
 * { loads, stores }, steps: [{ instructions, tensor, branches }] }. Epilogue: what follows, by address, the last tensor-core instruction,
 * and its loop where that ends before results are stored; up to the code of another warpgroup, which begins by giving up registers.
 * Its stores are { bits: count }, of global memory. The functions that a kernel calls stand behind it and belong to it; the
 * instructions that pad the last line of the instruction cache do not. vectors: accesses to global memory of 128 bits, anywhere.
 * steps: the innermost loops that hold tensor-core instructions, by address, with the branches within them: not those back, of
 * loops that only copy, and not those that leave, also to wait for a barrier.
 */
export function parseDisassembly(text) {
  const kernels = [];
  let kernel;
  let label = '';
  let labels = new Map(); // of the kernel, and their addresses
  for (const line of text.split('\n')) {
    const name = /^\s*(?:\.section\s+\.text\.|Function : )([^\s,]+)/.exec(line)?.[1];
    if (name) {
      labels = new Map();
      kernel = { name, instructions: 0, tensor: 0, loads: 0, stores: 0, epilogue: nothing(), code: [], labels };
      kernels.push(kernel);
      continue;
    }
    const instruction = /^\s*\/\*([0-9a-f]{4,})\*\/\s+(@\S+\s+)?([A-Z][\w.]*)([^;]*);/.exec(line);
    if (instruction && kernel) {
      const [, hexadecimal, condition, operation, operands] = instruction;
      const address = Number.parseInt(hexadecimal, 16);
      if (label) labels.set(label, address);
      const target = /(?:^|, ?) ?`\((\S+)\)|(?:^|, ?) ?0x([0-9a-f]+)/.exec(operands);
      const to = target && (target[1] ? labels.get(target[1]) : Number.parseInt(target[2], 16));
      const padding = operation === 'NOP' || (operation === 'BRA' && !condition && to === address);
      if (!padding) count(kernel, { operation, address, target: to, label: target?.[1] });
    }
    label = /^(\.L\w+):/.exec(line)?.[1] ?? '';
  }
  return kernels.map(({ name, instructions, tensor, loads, stores, epilogue, code, labels }) => {
    for (const branch of code) branch.target ??= labels.get(branch.label); // of a label further down
    const vectors = (kind) => code.filter(({ operation }) => kind.test(operation) && /\.128\b/.test(operation)).length;
    const global = { loads: vectors(/^LDG?\./), stores: vectors(/^STG?\./) };
    return { name, instructions, tensor, loads, stores, epilogue, vectors: global, steps: innermostLoops(code) };
  });
}

const isTensor = ({ operation }) => tensorCore.has(operation.split('.')[0]);
const isBranch = ({ operation }) => branch.has(operation.split('.')[0]);

function count(kernel, instruction) {
  const { operation, address, target } = instruction;
  const [name, ...suffixes] = operation.split('.');
  kernel.code.push(instruction);
  kernel.instructions++;
  if (name === 'LDL') kernel.loads++;
  if (name === 'STL') kernel.stores++;
  if (tensorCore.has(name)) {
    kernel.tensor++;
    Object.assign(kernel, { epilogue: nothing(), last: address, behind: false });
    return;
  }
  if (kernel.tensor > 0 && name === 'USETMAXREG') kernel.behind = true;
  if (kernel.behind) return;
  const { epilogue } = kernel;
  epilogue.instructions++;
  if (branch.has(name)) epilogue.branches++;
  if (name === 'CALL') epilogue.calls++;
  if (globalStore.has(name)) {
    const width = suffixes.map((suffix) => /^[US]?(8|16|64|128|256)$/.exec(suffix)?.[1]).find(Boolean) ?? 32;
    epilogue.stores[width] = (epilogue.stores[width] ?? 0) + 1;
  }
  // A branch back across the tensor-core instruction ends its loop, or the loop over tiles of a kernel whose inner loop ends elsewhere.
  if (branch.has(name) && target <= kernel.last && Object.keys(epilogue.stores).length === 0) {
    kernel.epilogue = nothing();
  }
}

function innermostLoops(code) {
  const back = code.map((instruction, end) => ({ end, start: startOf(code, instruction, end) }));
  const loops = back.filter(({ start, end }) => start >= 0 && code.slice(start, end).some(isTensor));
  const inside = (a, b) => a !== b && a.start >= b.start && a.end <= b.end;
  const innermost = loops.filter((loop) => !loops.some((other) => inside(other, loop)));
  return innermost.map(({ start, end }) => {
    const body = code.slice(start, end + 1);
    const within = ({ address, target }) => target === undefined || (target > address && target <= body.at(-1).address);
    const branches = body.filter((instruction) => isBranch(instruction) && within(instruction)).length;
    return { instructions: body.length, tensor: body.filter(isTensor).length, branches };
  });
}

// The place in the code to which a branch at `end` goes back; -1 where it is none.
function startOf(code, instruction, end) {
  if (!isBranch(instruction) || !(instruction.target <= instruction.address)) return -1;
  const start = code.findIndex(({ address }) => address >= instruction.target);
  return start <= end ? start : -1;
}

// ---- running

/**
 * Counts the kernels whose machine code compile.sh kept, of the package at root, built in folder, with the disassembler `tool`.
 * The counts of files that did not change are remembered in build-cuda/disassembly.json. -> { code }, which is the result of
 * parseDisassembly(), with `arch`; or { note }, the reason in one line why there is none.
 */
export async function disassemble({ root, folder, tool, env }) {
  const notShown = 'the code of the hot kernels is not shown';
  if (!tool) return { note: `${notShown}: that needs nvdisasm or cuobjdump, which were not found` };
  try {
    const store = join(folder, 'disassembly.json');
    const counted = await countAll(machineCode(root, folder), readJson(store), tool, env);
    writeFileSync(store, JSON.stringify(counted));
    return { code: Object.values(counted).flat() };
  } catch (error) {
    const why = (error.stderr?.trim() || error.message).split('\n')[0].replaceAll(`${root}/`, '').slice(0, 200);
    return { note: `${notShown}: ${basename(tool)} failed (${why})` };
  }
}

// The machine code that was kept of each file and architecture, and the kernels in it.
function machineCode(root, folder) {
  const objects = sourceNames(root).map((name) => join(objectFolder(folder), `${name}.o`));
  return objects.flatMap((object) => {
    const kept = existsSync(`${object}.kept`) ? readdirSync(`${object}.kept`) : [];
    if (kept.length === 0) return [];
    // a function that is called, which has no registers of its own, is no kernel
    const kernels = parseCompilerLog(readFileSync(`${object}.log`, 'utf8')).kernels.filter(
      ({ registers }) => registers > 0,
    );
    return kept.map((name) => {
      // NAME.compute_90a.cubin, NAME.compute_80.sm_80.cubin, or NAME.cubin where nvcc compiles for one architecture alone
      const named = /(?:sm|compute)_(\d+[a-z]?)\.cubin$/.exec(name)?.[1];
      const arch = named ? `sm_${named}` : kernels[0]?.arch;
      const own = kernels.filter((kernel) => kernel.arch === arch);
      return { path: join(`${object}.kept`, name), arch, names: own.map((kernel) => kernel.name) };
    });
  });
}

async function countAll(files, before, tool, env) {
  const counted = {};
  const left = [...files];
  const worker = async () => {
    for (let file = left.pop(); file; file = left.pop()) {
      const key = digest(tool, file.path);
      counted[key] = before[key] ?? (await countOne(file, tool, env));
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return counted;
}

async function countOne({ path, arch, names }, tool, env) {
  // cuobjdump looks for nvdisasm on the PATH
  const PATH = [dirname(tool), env.PATH].filter(Boolean).join(delimiter);
  const how = basename(tool) === 'cuobjdump' ? '-sass' : '-c';
  const { stdout } = await run(tool, [how, path], { env: { ...env, PATH }, maxBuffer: 2 ** 29, encoding: 'utf8' });
  const kernels = parseDisassembly(stdout);
  const readable = (name) => kernels.some((kernel) => kernel.name === name && kernel.instructions > 0);
  const unread = names.find((name) => !readable(name));
  if (unread) throw new Error(`it says nothing that is understood about ${unread}`);
  return kernels.map((kernel) => ({ ...kernel, arch }));
}

// This file is part of the hash: another way of counting gives other numbers.
function digest(tool, path) {
  const hash = createHash('sha256')
    .update(tool)
    .update(readFileSync(fileURLToPath(import.meta.url)));
  return hash.update(path).update(readFileSync(path)).digest('hex');
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return {}; // the first time, or cut off
  }
}
