// Places of hooks: appends them at a location, and finds those that can never run in a pass of a model, at a layer or a
// position that it lacks, or at a point that is in no layer.
import { describe, wrong } from '../engine/check.js';
import { AtPositions } from './at_positions.js';
import { AtLayers, type Hook, HookCollection, Hooks, TransformerHooks } from './hooks.js';
import { finalPoints, firstPoint, isLayerPoint, layerPoints, type Point, parseLocation } from './location.js';
import { gradientPoint, placeOf, watchedPoint } from './pass_plan.js';
import type { TransformerConfig } from './weights/config.js';

/** Appends a hook at one location. Other layers keep their fused kernels. */
export function appendAt(hooks: TransformerHooks, location: string, list: 'fwd' | 'bwd' | 'fwd2', hook: Hook): void {
  const { point, layer } = parseLocation(location);
  hooks.appendToPath(`${point}.${list}`, layer === undefined ? hook : new AtLayers(layer as number).append(hook));
}

const points = [firstPoint, ...layerPoints, ...finalPoints];

interface Place {
  /** The hook point, and what is inside an autoencoder there. */
  readonly at: string;
  /** The layers at which hooks here may run. */
  readonly layers: readonly number[];
  /** Why they cannot run at others. */
  readonly because: string;
}

/**
 * Demands hooks, if they are given, that can run: all AtLayers of the tree name layers that the model has, each can run
 * somewhere, and all atPositions name positions within its context window. One that was appended to several points, as
 * appendAll() does, needs only one where it can. Where the pass begins at a layer, there must be none below.
 * @throws TypeError for what are no hooks; RangeError that names the hook point, the layer or position, and what the
 *   model has.
 */
export function checkHooks(
  operation: string,
  hooks: TransformerHooks | undefined,
  config: TransformerConfig,
  firstLayer?: number,
): void {
  if (hooks === undefined) return;
  if (!(hooks instanceof TransformerHooks)) {
    throw new TypeError(wrong(operation, 'hooks', 'TransformerHooks', describe(hooks)));
  }
  const { nLayers, ctxWindow } = config;
  const model = `the model has ${nLayers} layer${nLayers === 1 ? '' : 's'}`;
  const all = Array.from({ length: nLayers }, (_, layer) => layer);
  const idle = new Map<Hook, string>();
  const running = new Set<Hook>();
  const visit = (node: Hook | HookCollection, origin: Hook | undefined, place: Place): void => {
    let inside = place;
    if (node instanceof AtLayers) {
      const missing = node.layers.find((layer) => layer >= nLayers);
      if (missing !== undefined) {
        const expected = `from 0 to ${nLayers - 1}, as ${model}`;
        throw new RangeError(wrong(operation, `a layer of AtLayers at ${place.at}`, expected, String(missing)));
      }
      const layers = place.layers.filter((layer) => node.layers.includes(layer));
      const key = origin ?? node;
      if (layers.length > 0) running.add(key);
      else if (!idle.has(key))
        idle.set(key, `${operation}: ${node.title} at ${place.at} can never run: ${place.because}`);
      inside = { at: place.at, layers, because: `it is inside ${node.title}` };
    }
    if (node instanceof AtPositions) {
      const missing = node.positions.find((position) => position >= ctxWindow);
      if (missing !== undefined) {
        const expected = `from 0 to ${ctxWindow - 1}, as the model's context window is ${ctxWindow}`;
        throw new RangeError(wrong(operation, `a position of atPositions at ${place.at}`, expected, String(missing)));
      }
    }
    if (node instanceof Hooks) for (const { hook, origin } of node.inner) visit(hook, origin, inside);
    if (node instanceof HookCollection) {
      for (const [id, child] of node.children) {
        const list = child instanceof Hooks; // fwd, bwd or fwd2, which are no places of their own
        visit(child, undefined, list ? inside : { ...inside, at: `${inside.at}, autoencoder ${id}` });
      }
    }
  };
  for (const point of points) {
    const place = isLayerPoint(point)
      ? { at: point, layers: all, because: model }
      : { at: point, layers: [], because: `${point} is in no layer` };
    visit(hooks.at(point) as HookCollection, undefined, place);
  }
  for (const [hook, complaint] of idle) if (!running.has(hook)) throw new RangeError(complaint);
  if (firstLayer !== undefined) refuseBelow(operation, hooks, firstLayer);
}

function refuseBelow(operation: string, hooks: TransformerHooks, firstLayer: number): void {
  const refuse = (point: Point, layer?: number) => {
    if (!watchedPoint(hooks, point, layer) && !gradientPoint(hooks, point, layer)) return;
    const because = `the pass begins at layer ${firstLayer} (from)`;
    const advice = layer === undefined ? '' : '; AtLayers(…) names the layers of hooks';
    throw new RangeError(`${operation}: hooks at ${placeOf(point, layer)} would not be called, as ${because}${advice}`);
  };
  refuse(firstPoint);
  for (let layer = 0; layer < firstLayer; layer++) for (const point of layerPoints) refuse(point, layer);
}
