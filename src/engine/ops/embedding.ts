// Looks rows up in a table.
import { checkDType, checkedShape, checkFloat, checkOperands, checkOptions, checkShape, wrong } from '../check.js';
import { hasHistory, type Prepare, record, recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { gradientOfSelected } from './index_select.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

/**
 * table[indices]: indices int32 [...], table [rows, width] -> [..., width].
 * With `addTo` (a contiguous tensor of that shape and dtype) the rows are added to it, and it is returned.
 * An index outside the table fails the operation: the next read() or synchronize() rejects.
 */
export function embedding(indices: Tensor, table: Tensor, options: { addTo?: Tensor } = {}): Tensor {
  checkOptions('embedding', options, { addTo: true });
  const { addTo } = options;
  const device = checkOperands('embedding', { indices, table }, { optional: { addTo } });
  checkDType('embedding', 'indices', indices, 'int32');
  checkFloat('embedding', 'table', table);
  if (table.shape.length !== 2) {
    throw new RangeError(wrong('embedding', 'table', '[rows, width]', showShape(table.shape)));
  }
  const shape = checkedShape('embedding', [...indices.shape, table.shape[1] as number]);
  if (addTo) {
    checkShape('embedding', 'addTo', addTo.shape, shape, 'the indices and the width of the table');
    checkDType('embedding', 'addTo', addTo, table.dtype);
    checkWritable('embedding', 'addTo', addTo);
    if (!addTo.isContiguous) throw new RangeError(wrong('embedding', 'addTo', 'contiguous', 'a strided view'));
  }
  const out = addTo ?? table.make(shape);
  const prepare: Prepare<Tensor> = (keep, [ofTable]) => {
    const chosen = ofTable ? keep(indices) : undefined;
    return (g) =>
      withTemporaries((own) => {
        const list = chosen && own(chosen.tensor.reshape(indices.size));
        const rows = list && own((g as Tensor).reshape(indices.size, table.shape[1] as number));
        return [list && rows && gradientOfSelected(table.shape, 0, list, rows), g];
      });
  };
  if (addTo) recordWrite('embedding', addTo, [table, addTo], prepare);
  withContiguous([table], (rows) => device.run('embedding', out, indices, rows, addTo !== undefined));
  if (!addTo && hasHistory(table)) record('embedding', [out], [table], prepare);
  return out;
}
