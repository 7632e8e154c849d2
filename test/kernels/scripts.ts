// The scripts that build sonde, with their types, for the tests of this folder.
import { chmodSync, cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../src/engine/native.js';

export type Environment = Record<string, string>;

export interface Kernel {
  name: string;
  arch: string;
  registers: number;
  stack: number;
  stores: number;
  loads: number;
}

/** The counts of a kernel's disassembly. */
export interface Code {
  name: string;
  arch?: string;
  instructions: number;
  tensor: number;
  loads: number;
  stores: number;
  epilogue: { instructions: number; branches: number; calls: number; stores: Record<string, number> };
  vectors: { loads: number; stores: number };
  steps: { instructions: number; tensor: number; branches: number }[];
}

interface ProductKernel {
  kind: string;
  values: number;
  bytes: number;
  gelu: boolean;
  residual: boolean;
  planes: boolean;
}

export interface Status {
  built: boolean;
  reason?: string;
  nvcc?: string;
  seconds: number;
}

interface Built extends Status {
  kept: boolean;
  warnings?: string[];
  kernels?: Kernel[];
  wgmma?: number;
  disassembler?: string;
}

export interface Options {
  root: string;
  env?: Environment;
  usual?: string[];
  platform?: string;
  say?: (line: string) => void;
  beat?: number;
}

interface BuildScript {
  buildCuda(options: Options): Promise<Built>;
  findDisassembler(env: Environment, nvcc: string): string | undefined;
  findTools(
    env: Environment,
    locations?: Pick<Options, 'usual' | 'platform'>,
  ): Record<'nvcc' | 'nvccVersion' | 'cmake' | 'cmakeVersion', string>;
  firstError(output: string): string | undefined;
  progressOf(line: string): { reached: string; file: string } | undefined;
  verdict(
    built: { nvcc: string; seconds: number; kernels: Kernel[]; warnings: string[]; wgmma?: number },
    code: { code?: Code[]; note?: string },
  ): { lines: string[]; faulty: boolean };
}

interface ExpectationsScript {
  mostInstructions: number;
  productOf(name: string): ProductKernel | undefined;
  instructionsFor16(code: Code, product: Pick<ProductKernel, 'values'>): number;
  shortcomings(kernels: Kernel[], code: Code[]): { arch?: string; name: string; fault: string }[];
}

interface ReportScript {
  objectFolder(folder: string): string;
  parseCompilerLog(log: string): { kernels: Kernel[]; warnings: string[] };
  localMemoryTable(kernels: Kernel[], code?: Code[]): string;
  hotTable(kernels: Kernel[], code: Code[]): string;
}

interface DisassemblyScript {
  parseDisassembly(text: string): Code[];
  disassemble(options: {
    root: string;
    folder: string;
    tool: string | undefined;
    env: Environment;
  }): Promise<{ code?: Code[]; note?: string }>;
}

/** The folders that seesGpu() searches. */
export interface Machine {
  proc: string;
  dev: string;
  wsl: string;
}

interface NativeScript {
  compiler: string;
  installCuda(
    options: Omit<Options, 'root'> & { from: string } & Partial<Machine>,
  ): Promise<{ line: string; failed: boolean }>;
  seesGpu(machine: Machine): boolean;
}

const load = (path: string) => import(pathToFileURL(join(packageRoot, path)).href);
export const build: BuildScript = await load('kernels/build.mjs');
export const report: ReportScript = await load('kernels/compiler_report.mjs');
export const disassembly: DisassemblyScript = await load('kernels/disassembly.mjs');
export const expectations: ExpectationsScript = await load('kernels/expectations.mjs');
export const native: NativeScript = await load('native/build.mjs');

/** The scripts of kernels/ for a package at root. */
export function copyScripts(root: string): void {
  const names = readdirSync(join(packageRoot, 'kernels')).filter((name) => name.endsWith('.mjs'));
  for (const name of names) cpSync(join(packageRoot, 'kernels', name), join(root, 'kernels', name));
}

/** Writes a shell script that can be run; returns its path. */
export function program(path: string, text: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}
