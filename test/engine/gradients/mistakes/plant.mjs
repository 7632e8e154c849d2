// Plants mistakes that are easily made where gradients are recorded, one at a time: the tests have to find each, or their
// verdict is worth nothing.
//   node test/build.mjs --typescript && node test/engine/gradients/mistakes/plant.mjs [word]...
//   with words, only those whose title contains one of them
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..', '..', '..');

// title: { file: of src, from, to: the text and its replacement, test: of test, fails: a part of the title of a test that has
//   to fail }
const record = { file: 'engine/record', test: 'engine/gradients/record' };
const programs = { ...record, test: 'engine/gradients/programs', fails: 'leaves have the gradients' };
const storage = { file: 'engine/storage', test: 'engine/storage' };
/** An operation, by its file, and one of the files that test gradients of operations. */
const operation = (file, test) => ({ file: `engine/ops/${file}`, test: `engine/gradients/operations/${test}` });
const edits = { test: 'transformer/gradients/edits', fails: 'at each point: fused' };
const pass = { test: 'transformer/gradients/recorded_pass' };

export const mistakes = {
  'gradients: the last one takes the place of the others': {
    ...programs,
    from: 'this.at(window)?.add_(gradient);',
    to: 'this.at(window)?.copyFrom(gradient);',
  },
  'gradients: what was taken from a part stays': { ...programs, from: '    view.fill(0);\n', to: '' },
  'gradients: what was taken stays': {
    ...programs,
    from: 'this.#buffers.delete(storage);\n      return buffer.transferTo(shape, strides);',
    to: 'return buffer.window(shape, strides).clone();',
  },
  'gradients: what begins at the beginning counts as the whole': {
    ...programs,
    from: 'shape.reduce((product, n) => product * n, 1) === elements &&',
    to: 'elements > 0 &&',
  },
  'gradients: a part at any place counts as the beginning': {
    ...programs,
    from: 'this.#buffers.get(storage)?.window(shape, strides, offset)',
    to: 'this.#buffers.get(storage)?.window(shape, strides)',
  },
  'gradients: elements that are shown again are not added up': {
    ...programs,
    from: 'if (repeated.length > 0)',
    to: 'if (false)',
  },
  'gradients: a part is added to what lies in the memory': {
    ...programs,
    from: 'if (!isWhole(window)) buffer.fill(0);',
    to: 'buffer.fill(0.5);',
  },
  'gradients: a gradient in another order is taken as it lies': {
    ...programs,
    from: ' && gradient.isContiguous && isContiguous(shape, strides)',
    to: '',
  },
  'gradients: one in 16 bits is taken as it lies': {
    ...record,
    from: "gradient.dtype === 'float32' && sameShape",
    to: 'sameShape',
    fails: 'gradients become float32',
  },
  'walk: from the first operation to the last': {
    ...programs,
    from: 'this.#nodes.toReversed()',
    to: '[...this.#nodes]',
  },
  'walk: kept values are given up although the record stays': {
    ...record,
    from: 'if (!retain) release(node);',
    to: 'release(node);',
    fails: 'retain keeps the record',
  },
  'walk: the record ends although it is to stay': {
    ...record,
    from: 'else if (!retain) this.end(',
    to: 'else this.end(',
    fails: 'retain keeps the record',
  },
  'walk: the record stays': {
    ...record,
    from: 'else if (!retain) this.end(',
    to: 'else if (false) this.end(',
    fails: 'a record that has ended says why',
  },
  'walk: a record stays although a backward failed': {
    ...record,
    from: "if (!isDone) this.end('a backward() over it has failed');\n      else if",
    to: 'if',
    fails: 'a record that has ended says why',
  },
  'walk: two go over one record': {
    ...record,
    from: 'if (this.#isBusy) {',
    to: 'if (false) {',
    fails: 'a second backward() over a record is refused',
  },
  'walk: one begins inside another one': {
    ...record,
    from: 'if (modeOf()?.isBackward) throw',
    to: 'if (false) throw',
    fails: 'backward() inside a backward pass',
  },
  'walk: operations in hooks are recorded': {
    ...record,
    from: 'return inMode({ isBackward: true }, () =>',
    to: 'return ((_, run) => run())({ isBackward: true }, () =>',
    fails: 'backward() inside a backward pass',
  },
  'walk: the first gradient is not freed': {
    ...record,
    from: 'gradients.add(window, gradient, true);\n        gradient.dispose();',
    to: 'gradients.add(window, gradient, true);',
    fails: 'a leaf is a scalar to go backward from',
  },
  'walk: a refused one does not free what it was given': {
    ...record,
    from: 'for (const [, gradient] of from) gradient.dispose();',
    to: '',
    fails: 'a second backward() over a record is refused',
  },
  'walk: gradients that operations made are not freed': {
    ...programs,
    from: '[...given, ...made]) gradient?.dispose();',
    to: 'given) gradient?.dispose();',
  },
  'walk: an operation that does not count is gone over': {
    ...record,
    from: '  if (given.every((gradient) => gradient === undefined)) return;\n',
    to: '',
    fails: 'an operation of several outputs',
  },
  'hooks: what one returns is ignored': {
    ...record,
    from: '|| !sameWindow(result, given)) own.copyFrom(result);',
    to: '',
    fails: 'a hook sees the gradient',
  },
  'hooks: the tensor stays': {
    ...record,
    from: "given.release('the hook it was given to has ended; keep a clone()');",
    to: '',
    fails: 'a hook sees the gradient',
  },
  'hooks: one is called without a gradient': {
    ...record,
    from: 'if (!own) return;\n    const given = own.shared();',
    to: 'const given = own?.shared() ?? window.storage.device;',
    fails: 'a hook is not called',
  },
  'leaves: the last gradient takes the place of the sum': {
    ...record,
    from: 'this.gradient.add_(given);',
    to: 'this.gradient.copyFrom(given);',
    fails: 'gradients add up until zeroGrad()',
  },
  'leaves: one that has ended gets a gradient': {
    ...record,
    from: ' || storage.ended !== undefined) continue;',
    to: ') continue;',
    fails: 'a gradient ends with its leaf',
  },
  'leaves: a gradient that was disposed is added to': {
    ...record,
    from: 'if (this.gradient && this.gradient.ended === undefined)',
    to: 'if (this.gradient)',
    fails: 'a gradient that was disposed begins anew',
  },
  'leaves: the gradient outlives its leaf': {
    ...record,
    file: 'engine/ops/tensor',
    from: '      leafOf(this)?.clear();\n      this.storage',
    to: '      this.storage',
    fails: 'a gradient ends with its leaf',
  },
  'leaves: a view has the gradient of all': {
    ...record,
    from: 'return x.ownsAll ? gradient : gradient.window(x.shape, x.strides, x.offset);',
    to: 'return gradient;',
    fails: 'the gradient of a view of a leaf',
  },
  'leaves: one may be edited in place': {
    ...record,
    from: 'if (history && storage.history instanceof Leaf)',
    to: 'if (false)',
    fails: 'a leaf is not edited in place',
  },
  'leaves: a view may be one': { ...record, from: 'if (!x.ownsAll)', to: 'if (false)', fails: 'what cannot be a leaf' },
  'kept values: none is copied before it is overwritten': {
    ...programs,
    from: '    this.#tensor = own.clone();\n    own.dispose();\n',
    to: '',
  },
  'kept values: only recorded tensors are watched': {
    ...record,
    from: '  const { memory } = storage;\n',
    to: '  const { memory } = storage;\n  if (storage.history === undefined) return;\n',
    fails: 'a constant may change',
  },
  'kept values: what does not change is copied': {
    ...record,
    from: ' || !overlap(own, out)) return;',
    to: ') return;',
    fails: 'windows that do not overlap',
  },
  'kept values: they are forgotten after the first write': {
    ...record,
    from: 'return value?.liesIn(memory);',
    to: 'return false;',
    fails: 'a value that two operations keep',
  },
  'kept values: copied ones stay in the list': {
    ...record,
    from: 'return value?.liesIn(memory);',
    to: 'return true;',
    fails: 'a value that two operations keep',
  },
  'kept values: they are not given up': {
    ...programs,
    from: '    this.#tensor?.dispose();\n    this.#tensor = undefined;\n',
    to: '',
  },
  'kept values: the list is never cleared': {
    ...record,
    from: 'if (memory.kept.length > 2 * memory.heldBefore + 16)',
    to: 'if (false)',
    fails: 'does not pile up',
  },
  'kept values: a record holds them for ever': {
    ...record,
    from: 'memory.kept.push(new WeakRef(this));',
    to: 'memory.kept.push({ deref: () => this } as WeakRef<KeptValue>);',
    fails: 'memory is flat',
  },
  'records: the operations of one that is joined are lost': {
    ...programs,
    from: '    for (const node of b.#nodes) a.#nodes.push(node);\n',
    to: '',
  },
  'records: one that is being gone over is joined': {
    ...record,
    from: 'for (const record of [a, b]) if (record.#isBusy) throw new Error(busy);',
    to: '',
    fails: 'a second backward() over a record is refused',
  },
  'records: what one holds is lost when it is joined': {
    ...record,
    from: '    a.#held.push(...b.#held);\n',
    to: '',
    fails: 'what a record holds is freed',
  },
  'records: what one holds later is not freed': {
    ...record,
    from: 'this.root.#held.push(thing);',
    to: 'this.#held.push(thing);',
    fails: 'what a record holds is freed',
  },
  'records: what the second returns is lost': {
    ...record,
    from: '    a.#returned.push(...b.#returned);\n',
    to: '',
    fails: 'a record returns the gradients of what it watches',
  },
  'records: gradients of one name replace one another': {
    ...record,
    from: 'sum ? sum.add_(gradient) : gradient',
    to: 'gradient',
    fails: 'gradients of one name add up',
  },
  'records: leaves do not join that of the pass': {
    ...record,
    from: 'mode?.record?.root ?? new GradientRecord()',
    to: 'new GradientRecord()',
    fails: 'operations on leaves join the record of their pass',
  },
  'records: a pass without gradients is recorded': {
    ...record,
    from: '  if (mode && !mode.record) return undefined;\n',
    to: '',
    fails: 'a pass without gradients records nothing',
  },
  'records: one that has ended is gone on with': {
    ...record,
    from: 'else if (history?.ended !== undefined) return history;',
    to: 'else if (history?.ended !== undefined) continue;',
    fails: 'a record that has ended says why',
  },
  'history: a constant that is written stays one': {
    ...programs,
    from: '    else if (history) storage.history = history;\n',
    to: '',
  },
  'history: indices count as recorded': {
    ...record,
    from: 'isLive(history) && !isFloat(dtype) ? new Cut(operation) : history;',
    to: 'history;',
    fails: 'what has no derivatives is a constant',
  },
  'history: gradients of constants are computed': {
    ...record,
    from: '(isRecorded(input) ? input?.gradientWindow : undefined)',
    to: 'input?.gradientWindow',
    fails: 'an operation keeps what it needs only',
  },
  'storage: memory is given back with the first of two': {
    ...storage,
    from: 'if (--this.#storages > 0 || this.#buffer === undefined) return;',
    to: 'if (this.#buffer === undefined) return;',
    fails: 'memory that is shared',
  },
  'storage: what is shared is not counted': {
    ...storage,
    from: 'this.memory.share()',
    to: 'this.memory',
    fails: 'memory that is shared',
  },
  'storage: one that has ended gives its memory back again': {
    ...storage,
    from: 'if (this.#ended !== undefined || this.#isKept',
    to: 'if (this.#isKept',
    fails: 'memory that is shared',
  },
  'storage: what is detached gives the memory back': {
    ...storage,
    from: ' || this.#parent) return;',
    to: ') return;',
    fails: 'a detached storage',
  },
  'storage: what is detached outlives its owner': {
    ...storage,
    from: 'this.#ended ?? this.#parent?.ended',
    to: 'this.#ended',
    fails: 'a detached storage',
  },
  'storage: what is detached has the history of its owner': {
    ...record,
    file: 'engine/storage',
    from: 'return new Storage(this.device, this.bytes, this.memory, this);',
    to: 'return Object.assign(new Storage(this.device, this.bytes, this.memory, this), { history: this.history });',
    fails: 'detach() shares the memory',
  },
  'storage: kept memory is given back': {
    ...storage,
    from: ' || this.#isKept || ',
    to: ' || ',
    fails: 'memory that is kept',
  },
  'storage: a share that was collected holds the memory': {
    ...storage,
    from: '    collected.register(storage, this.memory, storage);\n',
    to: '',
    fails: 'a share that was collected',
  },
  'storage: a share is given back again when it is collected': {
    ...storage,
    from: '    if (this.#isShare) collected.unregister(this);\n',
    to: '',
    fails: 'a share that was released is not given back again',
  },
  'storage: a released one holds what the buffer is used for next': {
    ...storage,
    from: '    this.#buffer = undefined;\n',
    to: '',
    fails: 'memory that was released and given out again',
  },
  // ---- the backward of operations

  'mul: each side has the other one of the gradients': {
    ...operation('binary', 'arithmetic'),
    from: 'return (g) => [right && g?.mul(right()), left && g?.mul(left())];',
    to: 'return (g) => [left && g?.mul(left()), right && g?.mul(right())];',
    fails: 'mul: two tensors that broadcast',
  },
  'sub: what is subtracted has the sign of what it is subtracted from': {
    ...operation('binary', 'arithmetic'),
    from: 'ofX ? g?.neg() : undefined',
    to: 'ofX ? g : undefined',
    fails: 'sub: two tensors that broadcast',
  },
  'maximum: equal sides each have the whole': {
    ...operation('binary', 'arithmetic'),
    from: 'own((g as Tensor).mul(0.5))',
    to: '(g as Tensor)',
    fails: 'maximum and minimum share',
  },
  'mul_: what it overwrites is kept too late': {
    ...operation('binary', 'arithmetic'),
    from: `  recordWrite(operation, a, [a, other], (keep, needs) => backwardOf(kind, a, other, keep, needs));
  withSafeInput(a, other, (safe) => device.run('binary', a, a, safe, kinds[kind]));`,
    to: `  withSafeInput(a, other, (safe) => device.run('binary', a, a, safe, kinds[kind]));
  recordWrite(operation, a, [a, other], (keep, needs) => backwardOf(kind, a, other, keep, needs));`,
    fails: 'mul_: in all or a part',
  },
  'copy: it is not noted': {
    ...operation('copy', 'elementwise'),
    from: '  recordWrite(operation, out, [source], () => (g) => [g]);\n',
    to: '',
    fails: 'clone, and to other floats',
  },
  'fill: it is not noted': {
    ...operation('fill', 'elementwise'),
    from: "  recordWrite<Tensor>('fill', t, [], noGradients);\n",
    to: '',
    fails: 'copyFrom, with broadcasting, and fill',
  },
  'gelu: its slope is that of relu': {
    ...operation('unary', 'elementwise'),
    from: 'kept.tensor, kinds[kind]);',
    to: 'kept.tensor, kinds.relu);',
    fails: 'gelu',
  },
  'clamp: what lies outside has a gradient': {
    ...operation('unary', 'elementwise'),
    from: '.and_(own(x.le(high)))',
    to: '.or_(own(x.le(high)))',
    fails: 'clamp',
  },
  'where: the sides are exchanged': {
    ...operation('where', 'elementwise'),
    from: 'ofA ? where(kept.tensor, g as Tensor, 0)',
    to: 'ofA ? where(kept.tensor, 0, g as Tensor)',
    fails: 'where',
  },
  'mean: it is taken for the sum': {
    ...operation('reduce', 'reductions'),
    from: 'return (g) => [g?.reshape(keptShape).div(n)];',
    to: 'return (g) => [g?.reshape(keptShape)];',
    fails: 'mean, of one dimension',
  },
  'var: the correction is forgotten': {
    ...operation('reduce', 'reductions'),
    from: 'Math.max(0, n - correction)',
    to: 'n',
    fails: 'var, of one dimension',
  },
  'max: each of equals has the whole': {
    ...operation('reduce', 'reductions'),
    from: 'isExtreme.mul(own(gradient.div(count)))',
    to: 'isExtreme.mul(gradient)',
    fails: 'of equal extremes',
  },
  'cumsum: the sums go forward': {
    ...operation('cumsum', 'reductions'),
    from: '(_, i) => -1 - i',
    to: '(_, i) => i',
    fails: 'cumsum',
  },
  'softmax: what the others lose is forgotten': {
    ...operation('softmax', 'softmax'),
    from: 'value.mul(own(g.sub(sum(own(value.mul(g))))))',
    to: 'value.mul(g)',
    fails: 'softmax',
  },
  'crossEntropy: padding has a gradient': {
    ...operation('cross_entropy', 'softmax'),
    from: 'ignored?.tensor ?? null);',
    to: 'null);',
    fails: 'crossEntropy, with and without padding',
  },
  'sort: gradients stay in order': {
    ...operation('sort', 'order'),
    from: 'gradientOfGathered(x.shape, d, at.tensor, g as Tensor)',
    to: '(g as Tensor).clone()',
    fails: 'sort',
  },
  'topKMask: what relu has cut has a gradient': {
    ...operation('top_k', 'order'),
    from: 'own(kept.tensor.le(0)).where(0, g as Tensor)',
    to: 'own(kept.tensor.lt(-1)).where(0, g as Tensor)',
    fails: 'topKMask, with relu',
  },
  'linear: the residual has no gradient': {
    ...operation('linear', 'products'),
    from: `          ofBias ? sumOfRows(ofProduct) : undefined,
          g,
`,
    to: `          ofBias ? sumOfRows(ofProduct) : undefined,
`,
    fails: 'linear: any bias, residual',
  },
  'linear: the activation is forgotten where there is no bias': {
    ...operation('linear', 'products'),
    from: "activation !== 'none' && hasHistory(x, w, bias)",
    to: "activation !== 'none' && hasHistory(bias)",
    fails: 'linear: any bias, residual',
  },
  'matmul: the right side is multiplied as it is': {
    ...operation('matmul', 'products'),
    from: 'left ? matmul(left.tensor.transpose(-2, -1), product) : undefined',
    to: 'left ? matmul(product.transpose(-2, -1), left.tensor).transpose(-2, -1).clone().mul_(2) : undefined',
    fails: 'matmul',
  },
  'layerNorm: the gain gets the gradient of the bias': {
    ...operation('layer_norm', 'norms'),
    from: 'products && sumOfRows(products)',
    to: 'products && sumOfRows(g)',
    fails: 'layerNorm',
  },
  'addLayerNorm: the gradient of the sum is forgotten': {
    ...operation('add_layer_norm', 'norms'),
    from: 'eps, needs, ofSum);',
    to: 'eps, needs);',
    fails: 'addLayerNorm',
  },
  'attention: queries that are keys as well are taken for a joint projection': {
    ...operation('attention', 'large'),
    from: ' &&\n    tensors.every((_, i) => starts.has(i * width))',
    to: '',
    fails: 'attention: parts of a joint projection',
  },
  'kept values: they are overwritten while others need them': {
    file: 'engine/record',
    test: 'engine/gradients/operations/large',
    from: 'this.#isLastUse && !this.tensor.storage.memory.isShared',
    to: 'this.#isLastUse',
    fails: 'crossEntropy: gradients take the place',
  },
  'kept values: they are overwritten before the last use': {
    file: 'engine/record',
    test: 'engine/gradients/operations/large',
    from: 'this.#isLastUse && !this.tensor.storage.memory.isShared',
    to: '!this.tensor.storage.memory.isShared',
    fails: 'crossEntropy: gradients take the place',
  },
  'joint gradients: those that were there are lost': {
    file: 'engine/record',
    test: 'engine/gradients/operations/large',
    from: ' || this.#buffers.has(storage)) return false;',
    to: ') return false;',
    fails: 'attention: parts of a joint projection',
  },
  'attention: later keys are seen': {
    ...operation('attention', 'attention'),
    from: 'maskLogits(logits.unsqueeze(0), { causal,',
    to: 'maskLogits(logits.unsqueeze(0), { causal: false,',
    fails: 'attention: causal or not',
  },
  'attention: what the other keys lose is forgotten': {
    ...operation('attention', 'attention'),
    from: 'weighted.sub_(own(probs.mul(common)))',
    to: 'weighted',
    fails: 'attention: causal or not',
  },
  'indexCopy: what was overwritten has a gradient': {
    ...operation('index_copy', 'indexing'),
    from: 'return isLast.reshape([...shape]).where(slices, 0);',
    to: 'return isLast.reshape([...shape]).or(isLast.reshape([...shape]).not()).where(slices, 0);',
    fails: 'indexCopy: of equal indices',
  },
  'embedding: what rows are added to has no gradient': {
    ...operation('embedding', 'indexing'),
    from: 'gradientOfSelected(table.shape, 0, list, rows), g];',
    to: 'gradientOfSelected(table.shape, 0, list, rows)];',
    fails: 'embedding',
  },

  // ---- hooks, sections and passes

  'hooks: the first one sees the gradient first': {
    ...pass,
    file: 'transformer/hooks',
    from: 'for (const entry of this.entries) {\n      const alone',
    to: 'for (const entry of [...this.entries].reverse()) {\n      const alone',
    fails: 'backward hooks: the last one first',
  },
  'hooks: the gradient is that of the value before forward hooks': {
    ...pass,
    file: 'transformer/hooks',
    from: `      const value = await this.fwd.run(x, inner, where);
      this.bwd.attachTo(value, inner, where);`,
    to: `      this.bwd.attachTo(x, inner, where);
      const value = await this.fwd.run(x, inner, where);`,
    fails: 'between the hooks of fwd and those of fwd2',
  },
  'hooks: nothing is wanted where nothing was recorded before': {
    ...edits,
    file: 'transformer/hooks',
    from: '      if (this.bwd.watches(context.layer)) currentRecord()?.watch(x);\n',
    to: '',
  },
  'sections: gradients inside are not seen': {
    ...edits,
    file: 'transformer/graph',
    from: 'gradientPoint(hooks, point, layer))) return fused();',
    to: "point === 'logits')) return fused();",
  },
  'sections: padding ends with the pass': {
    ...pass,
    file: 'transformer/graph',
    from: 'for (const t of [this.#pad, ',
    to: 'for (const t of [',
    fails: 'with padding on either side',
  },
  'sections: positions end with the pass': {
    ...pass,
    file: 'transformer/graph',
    from: 'if (t && this.scope.has(t)) record.hold(this.scope.keep(t));',
    to: '',
    fails: 'with the context of forward hooks',
  },
  'sections: the heads are inside no product': {
    file: 'transformer/graph',
    test: 'transformer/heads',
    from: "sublayer === 'attn' ? ['attn.head_out', delta] : [delta];",
    to: '[delta];',
    fails: 'the gradient at each head',
  },
  'sections: the heads are inside no product without a residual': {
    file: 'transformer/graph',
    test: 'transformer/heads',
    from: "      [{ point: 'attn.head_out', layer }],",
    to: '      [],',
    fails: 'the gradient at each head',
  },
  'heads: one of them is left out of the sum': {
    file: 'transformer/graph',
    test: 'transformer/heads',
    from: 'const sum = this.#replace(heads, heads.sum(2));',
    to: 'const sum = this.#replace(heads, heads.slice(2, 1).sum(2));',
    fails: 'their sum is delta_attn',
  },
  'heads: hooks that change them are not waited for': {
    file: 'transformer/pass_plan',
    test: 'transformer/heads',
    from: "if (watchedPoint(hooks, 'attn.head_out', layer)) return 'open';",
    to: '',
    fails: 'what hooks make of them',
  },
  'chosen positions: backward hooks do not count': {
    file: 'transformer/pass_plan',
    test: 'transformer/chosen_logits',
    from: 'isWanted(point, layer) || gradientPoint(hooks, point, layer) !== undefined;',
    to: 'isWanted(point, layer);',
    fails: 'gradients at every point',
  },
  'chosen positions: the last update is not there before the final layer norm': {
    file: 'transformer/pass_plan',
    test: 'transformer/chosen_logits',
    from: "choosesAt: endSeen || sumSeen ? 'normed'",
    to: "choosesAt: endSeen ? 'normed'",
    fails: 'gradients at every point',
  },
  'chosen positions: hooks at the logits learn all of them': {
    file: 'transformer/graph',
    test: 'transformer/chosen_logits',
    from: 'if (chosen && this.#hasChosen) {',
    to: 'if (false) {',
    fails: 'hooks at the logits see the chosen positions',
  },
  "a layer to begin at: the residual stream is the caller's": {
    file: 'transformer/graph',
    test: 'transformer/from_layer',
    from: 's.add(from.residual.clone());',
    to: 'from.residual.slice(0);',
    fails: 'changed or disposed',
  },
  'a layer to begin at: without grad, what is made of a leaf is recorded': {
    file: 'transformer/transformer',
    test: 'transformer/from_layer',
    from: 'options.record || options.hooks || options.input.from\n',
    to: 'options.record || options.hooks\n',
    fails: 'without grad, nothing is recorded',
  },
  'a layer to begin at: caches count from layer 0': {
    file: 'transformer/kv_cache',
    test: 'transformer/from_layer',
    from: 'this.#layers[layer - this.firstLayer]',
    to: 'this.#layers[layer]',
    fails: 'caches hold the layers of their passes',
  },
  'a layer to begin at: backward hooks below are not seen': {
    file: 'transformer/hook_places',
    test: 'transformer/from_layer',
    from: 'if (!watchedPoint(hooks, point, layer) && !gradientPoint(hooks, point, layer)) return;',
    to: 'if (!watchedPoint(hooks, point, layer)) return;',
    fails: 'hooks below are refused',
  },
  'caches: gradients go into what earlier passes left': {
    ...pass,
    file: 'transformer/graph',
    from: 'const all = caches.extend(layer, k.detach(), v.detach());',
    to: 'const all = caches.extend(layer, k, v);',
    fails: 'tokens behind those of a cache',
  },
  'passes: without grad, leaves in hooks are recorded': {
    ...pass,
    file: 'transformer/transformer',
    from: 'options.record || options.hooks || options.input.from\n',
    to: 'options.record\n',
    fails: 'without grad nothing is recorded',
  },
  'passes: what was found is not freed where one fails': {
    file: 'transformer/gradients',
    test: 'transformer/gradients/gradients',
    from: '    found.dispose();\n    throw error;',
    to: '    throw error;',
    fails: 'memory: nothing is left',
  },
  'passes: values are constants in the scalar': {
    file: 'transformer/gradients',
    test: 'transformer/gradients/gradients',
    from: 'this.#values.set(name, x.clone());',
    to: 'this.#values.set(name, x.detach().clone());',
    fails: 'a scalar of values',
  },
  'positions: their context ends with the hook': {
    ...pass,
    file: 'transformer/at_positions',
    from: 'tensor && record.hold(scope.keep(tensor));',
    to: 'scope.free(tensor);',
    fails: 'an autoencoder at some positions',
  },
  'sections: hooks are those of the time of backward': {
    ...pass,
    file: 'transformer/graph',
    from: '...(own && { hooks: own })',
    to: '...(hooks && { hooks })',
    fails: 'hooks that change between forward and backward',
  },
  'parameters: queries, keys and values are exchanged': {
    file: 'transformer/weights/state_dict',
    test: 'transformer/goldens',
    from: 'const own = all && (third === undefined ? all : copied(thirdOf(all, third)));',
    to: 'const own = all && (third === undefined ? all : copied(thirdOf(all, (third + 1) % 3)));',
    fails: 'gradients of all parameters',
  },
};

/** The text of a mistake's file with the mistake in it. */
export function planted(title) {
  const { file, from, to } = mistakes[title];
  const text = readFileSync(join(root, 'src', `${file}.ts`), 'utf8');
  if (text.split(from).length !== 2) throw new Error(`${title}: ${file}.ts does not have, once: ${from}`);
  return text.replace(from, () => to);
}

/** Runs a test file with a mistake planted; returns the titles of the tests that failed, or how the program ended. */
export function failures(title) {
  const { file, test } = mistakes[title];
  const folder = mkdtempSync(join(tmpdir(), 'sonde-mistake-'));
  try {
    const source = join(folder, 'planted.ts');
    writeFileSync(source, planted(title));
    const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const options = [
      '--target',
      'es2022',
      '--module',
      'esnext',
      '--moduleResolution',
      'bundler',
      '--verbatimModuleSyntax',
    ];
    spawnSync(process.execPath, [compiler, source, ...options, '--noResolve', '--noCheck', '--ignoreConfig'], {
      stdio: 'ignore',
    });
    const compiled = join(root, 'build-test');
    const hooks = pathToFileURL(join(here, 'replace.mjs')).href;
    const { status, signal, stdout } = spawnSync(
      process.execPath,
      ['--import', hooks, join(compiled, 'test', `${test}.test.js`)],
      {
        encoding: 'utf8',
        timeout: 120_000,
        env: {
          ...process.env,
          NO_COLOR: '1',
          PLANTED_MODULE: join(compiled, 'src', `${file}.js`),
          PLANTED_TEXT: join(folder, 'planted.js'),
        },
      },
    );
    if (status === 0) return [];
    const titles = [...stdout.matchAll(/^ *FAIL .*?"(.*)"$/gm)].map(([, failed]) => failed);
    return titles.length > 0 ? titles : [`it ended with ${signal ?? `exit code ${status}`}`];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const words = process.argv.slice(2);
  for (const [title, { fails }] of Object.entries(mistakes)) {
    if (words.length > 0 && !words.some((word) => title.includes(word))) continue;
    const failed = failures(title);
    const isFound = failed.some((name) => name.includes(fails));
    console.log(
      `${isFound ? 'found    ' : 'NOT FOUND'} ${title}${isFound ? '' : `: ${failed.join('; ') || 'nothing failed'}`}`,
    );
    if (!isFound) process.exitCode = 1;
  }
}
