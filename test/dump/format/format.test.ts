// Oracle: the layout of safetensors, read by fifteen lines of Python with numpy alone, against openDump.
import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';
import { sampleText } from '../folders.js';

const test = suite('dump format');

const python = `
import json, struct, sys
import numpy as np

def load(path):
    with open(path, 'rb') as f:
        data = f.read()
    (n,) = struct.unpack('<Q', data[:8])
    kinds = {'I64': '<i8', 'I32': '<i4', 'U16': '<u2', 'F16': '<f2', 'F32': '<f4'}
    tensors, end = {}, 0
    for name, entry in json.loads(data[8:8 + n]).items():
        a, b = entry['data_offsets']
        assert a == end, (name, a, end)
        end = b
        tensors[name] = np.frombuffer(data[8 + n + a:8 + n + b], kinds[entry['dtype']]).reshape(entry['shape'])
    assert 8 + n + end == len(data) and (8 + n) % 8 == 0
    return tensors

for path in sys.argv[1:]:
    t = load(path)
    print(json.dumps({name: [list(a.shape), str(a.dtype), float(a.astype('f8').sum())] for name, a in t.items()}))
`;

const numpy = spawnSync('python3', ['-c', 'import numpy'], { encoding: 'utf8' });
const title = 'numpy alone reads a shard, and finds the same values';

if (numpy.status !== 0) test.skip(title, 'python3 with numpy is not installed');
else {
  test(title, () =>
    withFolder(async (folder) => {
      const out = join(folder, 'out');
      const locations = ['1/mlp/post_act', '0/resid/delta_mlp -> ae-resid-delta-mlp'];
      const model = await Transformer.load('demo');
      await dump({ model, corpus: sampleText, locations, out, limit: 1500, context: 32, shardTokens: 1024 });
      await using made = await openDump(out);
      await writeFile(join(folder, 'load.py'), python);
      const paths = made.shards.map(({ file }) => join(out, file));
      const { stdout, stderr, status } = spawnSync('python3', [join(folder, 'load.py'), ...paths], {
        encoding: 'utf8',
      });
      assert.is(status, 0, stderr);
      const shards = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      assert.is(shards.length, 2);
      let row = 0;
      for (const [i, shard] of shards.entries()) {
        const { rows } = made.shards[i] as { rows: number };
        const dense = await made.rows('1/mlp/post_act', row, row + rows);
        const sparse = await made.rows('0/resid/delta_mlp/latents', row, row + rows);
        const tokens = await made.tokens(row, row + rows);
        const sum = (values: Iterable<number>) => [...values].reduce((a, b) => a + b, 0);
        const name = '0/resid/delta_mlp/latents';
        const expected: [string, number[], string, number][] = [
          ['tokens', [rows, 32], 'int32', sum(tokens.tokens)],
          ['document', [rows, 32], 'int32', sum(tokens.document)],
          ['1/mlp/post_act', dense.shape, 'float16', sum(dense.data)],
          [`${name}.row_ptr`, [rows * 32 + 1], 'int64', sum([...sparse.rowPtr].map(Number))],
          [`${name}.indices`, [sparse.indices.length], 'uint16', sum(sparse.indices)],
          [`${name}.values`, [sparse.indices.length], 'float16', sum(sparse.values)],
        ];
        assert.equal(Object.keys(shard).sort(), expected.map(([key]) => key).sort());
        for (const [key, shape, dtype, total] of expected) {
          assert.equal(shard[key].slice(0, 2), [shape, dtype]);
          close([shard[key][2]], [total], { rtol: 1e-9, atol: 1e-6, label: key });
        }
        row += rows;
      }
    }),
  );
}

test.run();
