// What tests read of the pages of documentation: sections, tables, and code that they run.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../src/engine/native.js';
import * as sonde from '../../src/index.js';

/** A page of assets/docs. */
export const docsPage = (name: string): string => readFileSync(join(packageRoot, 'assets/docs', name), 'utf8');

/** What stands below a heading of the second level, up to the next one. */
export function section(page: string, heading: string): string {
  const found = page.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  if (found === undefined) throw new Error(`the page has no heading '## ${heading}'`);
  return found;
}

/** The cells of each row of the tables in a text, without their heads. */
export function rows(text: string): string[][] {
  const lines = text.split('\n').filter((line) => line.startsWith('|'));
  return lines
    .map((line) =>
      line
        .slice(1, -1)
        .split('|')
        .map((cell) => cell.trim()),
    )
    .filter((cells, i, all) => !/^-+$/.test(cells[0] ?? '') && !/^-+$/.test(all[i + 1]?.[0] ?? ''));
}

/** The pieces of code in a cell. */
export const codeIn = (cell: string): string[] => [...cell.matchAll(/`([^`]*)`/g)].map(([, code = '']) => code);

/** The blocks of TypeScript in a text. */
export const blocksOf = (text: string): string[] =>
  [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = '']) => code);

const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor as new (
  ...parts: string[]
) => (...values: unknown[]) => Promise<unknown>;

/**
 * Runs statements of JavaScript, with all names that the library exports and those of `scope`. Gives the value of the last
 * one, or what it assigns.
 */
export async function runCode(code: string, scope: Readonly<Record<string, unknown>>): Promise<unknown> {
  const statements = code.split('; ');
  const last = (statements.pop() as string).replace(/^const (?:\w+|\{[^}]*\}|\[[^\]]*\]) = /, '');
  const { var: _, ...exported } = sonde; // a reserved word
  const names = { ...exported, ...scope };
  const body = `{ ${[...statements, `return ${last}`].join(';\n')} }`; // its names may hide those of the scope
  return new AsyncFunction(...Object.keys(names), body)(...Object.values(names));
}
