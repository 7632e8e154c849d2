// Loads another text in place of one module: node --import replace.mjs, with PLANTED_MODULE, the path of the module, and
// PLANTED_TEXT, the path of what is loaded.
import { readFileSync } from 'node:fs';
import { register } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

const { PLANTED_MODULE, PLANTED_TEXT } = process.env;

// this file is what starts the hooks, and what they run in their own thread
if (isMainThread) register(import.meta.url);

export async function load(url, context, next) {
  if (!url.startsWith('file:') || fileURLToPath(url) !== PLANTED_MODULE) return next(url, context);
  return { format: 'module', shortCircuit: true, source: readFileSync(PLANTED_TEXT, 'utf8') };
}
