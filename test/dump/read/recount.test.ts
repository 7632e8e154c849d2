// Oracle: one value that is not finite, at a known place, among finite ones, which come close to the limit.
import * as assert from 'uvu/assert';
import type { DumpSettings } from '../../../src/dump/format/settings.js';
import { QuickLook } from '../../../src/dump/read/recount.js';
import type { ShardReader } from '../../../src/dump/read/shard_reader.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('recount');

const bits = {
  float32: {
    odd: [0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0xffff_ffff],
    finite: [0x7f7f_ffff, 0xff7f_ffff],
  },
  float16: { odd: [0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff], finite: [0x7bff, 0xfbff, 0x8000] },
  bfloat16: { odd: [0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff], finite: [0x7f7f, 0xff7f, 0x8000] },
} as const;

test('the quick look finds a tensor exactly when a value in it is not finite', () => {
  const rng = random(77);
  for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
    const width = dtype === 'float32' ? 4 : 2;
    for (let round = 0; round < 300; round++) {
      const count = rng.integer(1, 40);
      const byteOffset = width * rng.integer(0, 20);
      const file = new Uint8Array(byteOffset + count * width + rng.integer(0, 9)).fill(0xff); // NaN around the tensor
      const view = new DataView(file.buffer);
      const put = (i: number, value: number) => {
        if (width === 4) view.setUint32(byteOffset + 4 * i, value, true);
        else view.setUint16(byteOffset + 2 * i, value, true);
      };
      for (let i = 0; i < count; i++) put(i, rng.next() < 0.5 ? rng.pick(bits[dtype].finite) : rng.integer(0, 30_000));
      const isOdd = rng.next() < 0.5;
      if (isOdd) put(rng.integer(0, count), rng.pick(bits[dtype].odd));

      const placed = { dtype, shape: [count], byteOffset, bytes: count * width };
      const shard = { layout: { tensor: () => placed } } as unknown as ShardReader;
      const settings = {
        locations: [{ location: 'x', shape: [1] }],
        autoencoders: [],
        dtype,
      } as unknown as DumpSettings;
      const quickLook = new QuickLook(shard, settings);
      const scratch = new Uint8Array(8 * rng.integer(1, 12));
      for (let at = 0; at < file.length; at += scratch.length) {
        const part = scratch.subarray(0, Math.min(scratch.length, file.length - at));
        part.set(file.subarray(at, at + part.length));
        quickLook.look(at, part);
      }
      assert.is(quickLook.suspects.length, isOdd ? 1 : 0, `${dtype}, ${count} from ${byteOffset}`);
    }
  }
});

test.run();
