// Runs the fixed program in a process of its own, with an instruction set or on an emulated processor, and compares its
// digests with those of the repository, digests.json.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/engine/native.js';

export const floats = ['float32', 'float16', 'bfloat16'] as const;
export type Float = (typeof floats)[number];

/** Digests by the name of what they are of. */
type Named = Record<string, string>;

export interface ProgramResult {
  /** The names of the device's arithmetic. */
  readonly arithmetic: Readonly<Record<Float, string>>;
  /** The operations of native/ops.h that were carried out. */
  readonly operations: readonly string[];
  /** For each dtype, the digests of what was computed in it. */
  readonly digests: Readonly<Record<string, Named>>;
}

/** digests.json: for each arithmetic, the digests of the dtypes that have it. */
export type Recorded = Record<string, Partial<Record<Float, Named>>>;

export const recordedPath = join(packageRoot, 'test', 'arithmetic', 'digests.json');
export const readRecorded = (): Recorded => JSON.parse(readFileSync(recordedPath, 'utf8'));

/** How a process is started that computes on a processor: what comes before the script, and the environment. */
export interface Processor {
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

/** The instruction sets that SONDE_ISA can name here. */
export const instructionSets: readonly string[] =
  process.arch === 'x64' ? ['avx512_bf16', 'avx512', 'avx2', 'portable'] : ['portable'];

export const withIsa = (isa: string): Processor => ({ environment: { SONDE_ISA: isa } });

async function output(
  { command = [process.execPath], environment }: Processor,
  args: readonly string[],
): Promise<string> {
  const [program, ...first] = command as [string, ...string[]];
  const child = spawn(program, [...first, ...args], {
    cwd: packageRoot,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const [said, errors] = [child.stdout, child.stderr].map((stream) => stream.setEncoding('utf8').toArray());
  const [code, signal] = await once(child, 'exit');
  if (code !== 0) throw new Error(`${(await (errors as Promise<string[]>)).join('')}\nit ended with ${signal ?? code}`);
  return (await (said as Promise<string[]>)).join('');
}

/** Why a processor cannot be used here, in one sentence; undefined when it can. */
export async function problemOf(processor: Processor): Promise<string | undefined> {
  const engine = JSON.stringify(new URL('../../src/engine/device.js', import.meta.url).href);
  const script = `import(${engine}).then(({ openDevice }) => openDevice('cpu')).then(() => {}, ({ message }) => console.log(message))`;
  return (await output(processor, ['-e', script])).trim() || undefined;
}

export async function runProgram(processor: Processor, threads: number): Promise<ProgramResult> {
  const program = fileURLToPath(new URL('program.js', import.meta.url));
  return JSON.parse(await output(processor, [program, `--threads=${threads}`]));
}

/** What differs, a line for each digest. */
export function differences(result: ProgramResult, recorded: Recorded): string[] {
  return floats.flatMap((dtype) => {
    const arithmetic = result.arithmetic[dtype];
    const known = recorded[arithmetic]?.[dtype];
    if (!known) return [`${arithmetic} has no digests of ${dtype}`];
    const found = result.digests[dtype] as Named;
    return [...new Set([...Object.keys(known), ...Object.keys(found)])]
      .filter((name) => known[name] !== found[name])
      .map((name) => `${arithmetic}, ${dtype}, ${name}: ${found[name] ?? 'none'}, and not ${known[name] ?? 'none'}`);
  });
}
