// Ablations given as text, `3/mlp/post_act/300`: hooks that set features of an activation to 0.
import { checkInteger, describe, wrong } from '../engine/check.js';
import { appendAt } from './hook_places.js';
import { type HookFunction, TransformerHooks } from './hooks.js';
import { expandLocations, locationShape } from './location.js';
import type { SubjectModel } from './subject_model.js';
import { checkSizes } from './weights/config.js';

/**
 * Hooks that set to 0 the features that texts name: a location and an index of its last dimension,
 * `3/mlp/post_act/300`, or a span of indices, `3/mlp/post_act/0-127`; `*` stands for every layer.
 * @throws Error that says what is wrong with a text, and what the model has.
 */
export function ablationHooks(
  ablations: readonly string[],
  model: Pick<SubjectModel, 'config' | 'nVocab'>,
): TransformerHooks {
  if (!Array.isArray(ablations)) {
    const expected = "an array of texts, as in ['3/mlp/post_act/300']";
    throw new TypeError(wrong('ablationHooks', 'ablations', expected, describe(ablations)));
  }
  if (typeof model !== 'object' || model === null) {
    throw new TypeError(wrong('ablationHooks', 'model', 'a model with config and nVocab', describe(model)));
  }
  checkSizes('ablationHooks', model.config, ['nLayers', 'dModel', 'nHeads', 'mAttn', 'mMlp']);
  checkInteger('ablationHooks', 'model.nVocab', model.nVocab, 1);
  const hooks = new TransformerHooks();
  for (const [i, text] of ablations.entries()) {
    if (typeof text !== 'string') {
      throw new TypeError(wrong('ablationHooks', `ablations[${i}]`, 'a text', describe(text)));
    }
    const [, pattern = '', first = '', last = first] = /^(.+)\/(\d{1,9})(?:-(\d{1,9}))?$/.exec(text.trim()) ?? [];
    if (pattern === '') {
      throw new Error(`ablation '${text}' must read LOCATION/INDEX or LOCATION/FIRST-LAST, as in 3/mlp/post_act/300`);
    }
    const [from, to] = [Number(first), Number(last) + 1];
    for (const location of expandLocations([pattern], model.config)) {
      const size = locationShape(location, model.config, model.nVocab, 1, 1).at(-1) as number;
      if (from >= to || to > size) {
        throw new Error(
          `ablation '${text}': indices of ${location} must be from 0 to ${size - 1}, the lower one first`,
        );
      }
      const clear: HookFunction = (x) => {
        x.slice(-1, from, to).fill(0);
      };
      appendAt(hooks, location, 'fwd', clear);
    }
  }
  return hooks;
}
