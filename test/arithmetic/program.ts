// A fixed program: every operation on awkward shapes and values, a pass of the references, dumps of the demo. Its results
// are the same bits wherever the arithmetic has the same name. Prints a ProgramResult as JSON.
//   node build-test/test/arithmetic/program.js [--threads=N] [--only=PART] [--any-nan]
//   --only     the parts whose name begins so: elementwise, integers, rows, products, gradients, references,
//              dumps
//   --any-nan  counts every NaN as the same one, to see whether more differs
import { parseArgs } from 'node:util';
import { openDevice } from '../../src/engine/device.js';
import { Digests } from './digests.js';
import { elementwise, integers } from './elementwise.js';
import { gradients } from './gradients.js';
import { dumps, references } from './models.js';
import { products } from './products.js';
import { rows } from './rows.js';
import { floats, type ProgramResult } from './runs.js';

const parts = { elementwise, integers, rows, products, gradients, references, dumps };

const { values } = parseArgs({
  options: { threads: { type: 'string' }, only: { type: 'string', default: '' }, 'any-nan': { type: 'boolean' } },
});
const device = openDevice('cpu', values.threads ? { threads: Number(values.threads) } : {});
const operations = new Set<string>();
const digests: Record<string, Record<string, string>> = {};
for (const dtype of floats) {
  const found = new Digests(device, dtype, { anyNaN: values['any-nan'] ?? false });
  for (const [name, part] of Object.entries(parts)) {
    if (!name.startsWith(values.only)) continue;
    for (const { operation } of await device.profile(() => part(found))) operations.add(operation);
  }
  digests[dtype] = found.result();
}
const { arithmetic } = device;
console.log(
  JSON.stringify({ arithmetic, operations: [...operations].sort(), digests } satisfies ProgramResult, null, 2),
);
