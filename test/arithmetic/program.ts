// A fixed program whose results decide the arithmetic's version. Prints the digests as JSON when it is run.
//   node build-test/test/arithmetic/program.js [--any-nan] [--threads=N] [--only=WORD]
import { pathToFileURL } from 'node:url';
import { openDevice } from '../../src/engine/device.js';
import { Digests } from './digests.js';
import { elementwise, integers } from './elementwise.js';
import { dumps, references } from './models.js';
import { products } from './products.js';
import { rows } from './rows.js';
import type { Float } from './values.js';

const dtypes: readonly Float[] = ['float32', 'float16', 'bfloat16'];
const parts = { elementwise, integers, rows, products, references, dumps };

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const threads = Number(/--threads=(\d+)/.exec(process.argv.join(' '))?.[1] ?? 2);
  const only = /--only=(\w+)/.exec(process.argv.join(' '))?.[1] ?? '';
  const device = openDevice('cpu', { threads });
  const result: Record<string, Record<string, string>> = {};
  for (const dtype of dtypes) {
    const digests = new Digests(device, dtype, { anyNaN: process.argv.includes('--any-nan') });
    for (const [name, part] of Object.entries(parts)) {
      if (!name.includes(only) || (name === 'integers' && dtype !== 'float32')) continue;
      const start = performance.now();
      await part(digests);
      if (process.env.TIMES) console.error(dtype, name, Math.round(performance.now() - start));
    }
    result[dtype] = digests.result();
  }
  console.log(JSON.stringify(result, null, 2));
}
