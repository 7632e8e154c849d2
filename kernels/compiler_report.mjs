// The compiler's report on each kernel, read from the output of nvcc and ptxas -v, and the tables that `npm run build:cuda`
// prints.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The folder of build-cuda/ that holds CMake's objects and, of each, compile.sh's NAME.cu.o.log and NAME.cu.o.kept. */
export const objectFolder = (folder) => join(folder, 'CMakeFiles', 'sonde_cuda.dir');

/** The .cu files of the package: the objects of others are left over from an earlier build. */
export const sourceNames = (root) => readdirSync(join(root, 'kernels')).filter((name) => name.endsWith('.cu'));

/**
 * Reads the output of nvcc and ptxas -v. -> kernels: { name (mangled), arch, registers, stack, stores, loads }, the last three in
 * bytes; functions that a kernel calls are among them, with 0 registers. warnings: each once, with those that ptxas calls
 * information: that it serialized the Hopper products.
 */
export function parseCompilerLog(log) {
  const kernels = [];
  const warnings = [];
  let arch = '';
  let entry = '';
  let current;
  for (const line of log.split('\n')) {
    const compiling = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line);
    const properties = /Function properties for (\S+)/.exec(line);
    const bytes = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    const registers = /Used (\d+) registers/.exec(line);
    if (compiling) [, entry, arch] = compiling;
    else if (properties) {
      current = { name: properties[1], arch, registers: 0, stack: 0, stores: 0, loads: 0 };
      kernels.push(current);
    } else if (bytes && current) {
      const [stack, stores, loads] = bytes.slice(1).map(Number);
      Object.assign(current, { stack, stores, loads });
    } else if (registers) {
      const own = kernels.findLast((kernel) => kernel.name === entry && kernel.arch === arch);
      if (own) own.registers = Number(registers[1]);
    } else if (/\bwarning\b *[:#]|\bwarning #?\d|\(C75\d\d\)/i.test(line)) warnings.push(line.trim());
  }
  return { kernels, warnings: [...new Set(warnings)] };
}

/** The report on all kernels, also those that this build did not compile: compile.sh keeps nvcc's messages on each file. wgmma:
 *  the number of Hopper's asynchronous products in the code for sm_90a; undefined when there is no such code. */
export function compilerReport(root, folder) {
  const logs = sourceNames(root).map((name) => join(objectFolder(folder), `${name}.o.log`));
  const messages = logs
    .filter((path) => existsSync(path))
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n');
  const { kernels } = parseCompilerLog(messages);
  const { warnings } = parseCompilerLog(`${messages}\n${readFileSync(join(folder, 'build.log'), 'utf8')}`); // the linker's, too
  const counts = Array.from(messages.matchAll(/^sonde info +: (\d+) wgmma/gm), ([, count]) => Number(count));
  return { kernels, warnings, wgmma: counts.length > 0 ? counts.reduce((a, b) => a + b) : undefined };
}

// ---- tables

const keyOf = ({ arch, name }) => `${arch} ${name}`;

/**
 * The functions that keep something in local memory, which is slow: stack frames and spills as ptxas reports them, in bytes, and
 * the instructions that store and load there, where there is a disassembly (code). '' when there are none.
 */
export function localMemoryTable(kernels, code = []) {
  const known = new Map(code.map((kernel) => [keyOf(kernel), kernel]));
  const instructions = (kernel) => known.get(keyOf(kernel)) ?? { loads: 0, stores: 0 };
  const faulty = kernels.filter((kernel) => {
    const { loads, stores } = instructions(kernel);
    return kernel.stack + kernel.stores + kernel.loads + loads + stores > 0;
  });
  if (faulty.length === 0) return '';
  const rows = faulty.map((kernel) => {
    const { loads, stores } = known.get(keyOf(kernel)) ?? { loads: '-', stores: '-' };
    // a function that is called has the registers of its caller
    return [
      kernel.arch,
      kernel.registers || '-',
      kernel.stack,
      kernel.stores,
      kernel.loads,
      stores,
      loads,
      kernel.name,
    ];
  });
  return table(['arch', 'registers', 'stack', 'stored', 'loaded', 'STL', 'LDL', 'kernel'], rows);
}

/**
 * The kernels with tensor-core instructions, the newest architecture first and then by name, and the counts of their
 * epilogues, the code that follows the last tensor-core instruction. '' when there are none.
 */
export function hotTable(kernels, code) {
  const registers = new Map(kernels.map((kernel) => [keyOf(kernel), kernel.registers]));
  const generation = ({ arch }) => Number.parseInt(arch.slice(3), 10);
  const order = (a, b) => generation(b) - generation(a) || (a.name < b.name ? -1 : 1);
  const hot = code.filter(({ tensor }) => tensor > 0).sort(order);
  if (hot.length === 0) return '';
  const widths = [...new Set(hot.flatMap(({ epilogue }) => Object.keys(epilogue.stores)))].map(Number);
  widths.sort((a, b) => a - b);
  const rows = hot.map((kernel) => {
    const { instructions, branches, calls, stores } = kernel.epilogue;
    const counts = widths.map((width) => stores[width] ?? 0);
    const all = [kernel.arch, registers.get(keyOf(kernel)) ?? '-', kernel.instructions, kernel.tensor];
    return [...all, instructions, branches, calls, ...counts, kernel.name];
  });
  const columns = widths.map((width) => `st${width}`);
  return table(['arch', 'registers', 'all', 'mma', 'epilogue', 'branches', 'calls', ...columns, 'kernel'], rows);
}

/** What kernels/expectations.mjs found, a line each. '' when it found nothing. */
export function shortcomingsTable(found) {
  if (found.length === 0) return '';
  return table(
    ['arch', 'not as expected', 'kernel'],
    found.map(({ arch, name, fault }) => [arch, fault, name]),
  );
}

// Aligns the first column and the last, which is a mangled name, to the left, and numbers to the right.
function table(titles, rows) {
  const names = demangle(rows.map((row) => row.at(-1)));
  const texts = [titles, ...rows.map((row, i) => [...row.slice(0, -1).map(String), names[i]])];
  const last = titles.length - 1;
  const widths = titles.map((_, column) => Math.max(...texts.map((row) => row[column].length)));
  const aligned = (text, i) => (i === last ? text : i ? text.padStart(widths[i]) : text.padEnd(widths[i]));
  return texts.map((row) => row.map(aligned).join('  ')).join('\n');
}

// Demangled names without their common namespaces, return type and parameters. Without c++filt, they stay as they are.
function demangle(names) {
  const { stdout, status } = spawnSync('c++filt', { input: names.join('\n'), encoding: 'utf8' });
  if (status !== 0) return names;
  const plain = stdout.trimEnd().replaceAll(/\(anonymous namespace\)::|\bsonde::/g, '');
  return plain.split('\n').map((name) => name.replace(/^void /, '').replace(/\([^()]*\)$/, ''));
}
