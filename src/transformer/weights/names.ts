// The models that can be loaded by name, and the addresses of their files (model_registry.py of the original).
import { join } from 'node:path';
import { packageRoot } from '../../engine/native.js';

const published = 'az://openaipublic/neuron-explainer/subject-models';

/** The published models. */
export const modelNames: readonly string[] = ['gpt2-small', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'];

/** `gpt2/small` and `gpt2-small` are one model; other names are as they are. */
export function canonicalModelName(name: string): string {
  const dashed = name.replace('/', '-');
  return modelNames.includes(dashed) ? dashed : name;
}

/** A model's name in messages and manifests: without a query, which may hold a signature. */
export const shownModelName = (name: string): string =>
  /^https?:/i.test(name) ? (name.split('?')[0] as string) : canonicalModelName(name);

/** The folder or address of a model's files, by its name; a folder or an address stays as it is. */
export function modelBase(name: string): string {
  if (name === 'demo') return join(packageRoot, 'assets', 'demo');
  const canonical = canonicalModelName(name);
  return modelNames.includes(canonical) ? `${published}/${canonical.replace('-', '/')}` : name;
}
