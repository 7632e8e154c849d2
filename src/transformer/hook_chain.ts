// What surrounds the calls of hooks: the place that errors name, and the tensors that hooks make on the way.
import { describe } from '../engine/check.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { Scope } from '../engine/scope.js';
import type { PartialHookContext } from './hooks.js';

/** One value's way through the hooks of a point. */
export interface Chain {
  /** The hook point and the layer, as errors name them. */
  readonly where: string;
  /** What was made on the way. */
  readonly scope: Scope;
  /** Errors that name their place already. */
  readonly placed: WeakSet<Error>;
}

// A chain is found by the context that its hooks receive. A hook that calls other hooks with its context thereby lets
// them take part.
const chains = new WeakMap<PartialHookContext, Chain>();

export const chainOf = (context: PartialHookContext): Chain | undefined => chains.get(context);

/** A context with more values, of the same chain. */
export function extended(context: PartialHookContext, values: PartialHookContext): PartialHookContext {
  const all = { ...context, ...values };
  const chain = chains.get(context);
  if (chain) chains.set(all, chain);
  return all;
}

/**
 * Runs hooks in a chain of their own. The result is x, a view of x, or a new tensor, which is the caller's to free, or
 * the chain's where this one is part of another. Whatever else was made on the way is freed.
 */
export async function inNewChain(
  x: Tensor,
  context: PartialHookContext,
  where: string,
  run: (context: PartialHookContext, chain: Chain) => Promise<Tensor>,
): Promise<Tensor> {
  const outer = chains.get(context);
  const chain: Chain = { where, scope: new Scope(), placed: outer?.placed ?? new WeakSet() };
  const inner = { ...context };
  chains.set(inner, chain);
  try {
    const result = await run(inner, chain);
    if (result.storage === x.storage) return result;
    const own = chain.scope.has(result) ? chain.scope.keep(result) : result.clone(); // a view of what is freed here
    return outer ? outer.scope.add(own) : own;
  } finally {
    chain.scope.end();
  }
}

/** Runs hooks in the chain that the context belongs to, or else in a new one. */
export async function inChain(
  x: Tensor,
  context: PartialHookContext,
  where: string,
  run: (context: PartialHookContext, chain: Chain) => Promise<Tensor>,
): Promise<Tensor> {
  const chain = chains.get(context);
  return chain ? run(context, chain) : inNewChain(x, context, where, run);
}

/** An error that names its place, so that no hooks around this one add theirs. */
export function placed<E extends Error>(error: E, chain: Chain | undefined): E {
  chain?.placed.add(error);
  return error;
}

/** Calls a function of the user. What it throws becomes the cause of an error that says where. */
export async function calling<T>(
  chain: Chain | undefined,
  where: string,
  what: string,
  call: () => T | Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (cause instanceof Error && chain?.placed.has(cause)) throw cause;
    throw placed(failure(where, what, cause), chain);
  }
}

/** The error for what a function of the user threw. */
export function failure(where: string, what: string, cause: unknown): Error {
  const said = cause instanceof Error ? `${cause.name}: ${cause.message}` : describe(cause);
  return new Error(`${where}: ${what} threw ${said}`, { cause });
}
