// The files of the package, for tests that read them.
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { packageRoot } from '../../src/engine/native.js';

/** The files below a folder of the package, as paths from its root. */
export const filesBelow = (folder: string): string[] =>
  readdirSync(join(packageRoot, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(packageRoot, join(entry.parentPath, entry.name)))
    .sort();

/** The pages of documentation, as paths from the package's root. */
export const pages: readonly string[] = [
  ...readdirSync(packageRoot),
  ...['assets', 'bench', 'test'].flatMap(filesBelow),
].filter((name) => name.endsWith('.md'));
