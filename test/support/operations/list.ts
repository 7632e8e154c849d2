// The operations of native/ops.h, and the name that the files of each one have.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../../src/engine/native.js';

export interface Operation {
  readonly name: string;
  readonly parameters: readonly { readonly type: string; readonly name: string }[];
  /** The names that its comment says may be left out. */
  readonly optional: readonly string[];
}

/** Operations that share their files, by the name of the files. */
export const families: Record<string, readonly string[]> = {
  binary: ['binary', 'binary_scalar'], // one arithmetic, of two tensors or of a tensor and a number
  compare: ['compare', 'compare_scalar'], // one comparison, with a tensor and with a number
  top_k: ['top_k', 'top_k_mask'], // one selection, given back in two forms
  pack_weights: ['pack_weights', 'unpack_weights'], // one layout, written and read
  // an operation and its gradients
  unary: ['unary', 'unary_backward'],
  cross_entropy: ['cross_entropy', 'cross_entropy_backward'],
  layer_norm: ['layer_norm', 'layer_norm_backward'],
  attention: ['attention', 'attention_backward'],
  linear: ['linear', 'linear_backward'],
};

/** Each `OP(name, Type parameter, ...)` of the list, and the comment before it. */
export const operations: readonly Operation[] = [
  ...readFileSync(join(packageRoot, 'native', 'ops.h'), 'utf8').matchAll(
    /(?:^ {2}\/\*((?:(?!\*\/)[\s\S])*)\*\/ *\\\n)?^ {2}OP\((\w+), ([^)]*)\)/gm,
  ),
].map(([, comment = '', name, list]) => ({
  name: name as string,
  parameters: (list as string)
    .replace(/\s*\\\n\s*/g, ' ')
    .split(', ')
    .map((parameter) => {
      const [type, own] = parameter.split(' ') as [string, string];
      return { type, name: own };
    }),
  optional: [...comment.replace(/\s*\\?\n\s*/g, ' ').matchAll(/(\w+(?:(?:, | and )\w+)*) may be left out/g)].flatMap(
    ([, names]) => (names as string).split(/, | and /),
  ),
}));

/** The name that an operation's files have: its own or its family's. */
export const fileOf = (operation: string): string =>
  Object.keys(families).find((family) => families[family]?.includes(operation)) ?? operation;

export const operationFiles: readonly string[] = [...new Set(operations.map(({ name }) => fileOf(name)))];

export const camelCase = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
