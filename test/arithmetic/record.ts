// Writes the digests of the fixed program to digests.json, with every instruction set that this machine has. It refuses
// to change the digests of an arithmetic that is there: one whose bits change gets another version, and so another name.
//   node build-test/test/arithmetic/record.js
//   node build-test/test/arithmetic/record.js --new-program   where the program has changed, and the arithmetic has not
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import {
  differences,
  type Float,
  floats,
  instructionSets,
  problemOf,
  type Recorded,
  readRecorded,
  recordedPath,
  runProgram,
  withIsa,
} from './runs.js';

const { values } = parseArgs({ options: { 'new-program': { type: 'boolean', default: false } } });
const before = readRecorded();
const after: Recorded = {};
const versionOf = (arithmetic: string): string => /\d+$/.exec(arithmetic)?.[0] ?? '';

for (const isa of instructionSets.toReversed()) {
  const problem = await problemOf(withIsa(isa));
  if (problem) {
    console.log(`${isa}: ${problem}`);
    continue;
  }
  const result = await runProgram(withIsa(isa), 2);
  for (const dtype of floats) {
    const name = result.arithmetic[dtype];
    after[name] ??= {};
    after[name][dtype] ??= result.digests[dtype] as Record<string, string>;
  }
  const lines = differences(result, after);
  if (lines.length > 0) throw new Error(`${isa} gives other bits than those before it:\n${lines.join('\n')}`);
  console.log(`${isa}: the same bits`);
}

const [one] = Object.keys(after);
if (one === undefined) throw new Error('none of the instruction sets is here');
const version = versionOf(one);
const namesOf = (recorded: Recorded, dtype: Float): string[] =>
  Object.values(recorded).flatMap((dtypes) => Object.keys(dtypes[dtype] ?? {}));

for (const [name, dtypes] of Object.entries(before)) {
  for (const [dtype, known] of Object.entries(dtypes) as [Float, Record<string, string>][]) {
    const found = after[name]?.[dtype];
    const other = found && Object.keys(known).filter((key) => found[key] !== undefined && found[key] !== known[key]);
    if (other?.length && !values['new-program']) {
      throw new Error(
        `${name} has other digests of ${dtype} in digests.json: ${other.join(', ')}. If this was to change, raise ` +
          'kArithmetic in native/cpu/backend.cc. If the program alone has changed, use --new-program.',
      );
    }
    if (found || versionOf(name) !== version) continue;
    const missing = namesOf(after, dtype).filter((key) => known[key] === undefined);
    if (values['new-program'] || missing.length > 0) {
      throw new Error(
        `${name} needs digests of ${dtype} from an instruction set that is not here: ${missing.join(', ') || 'all'}. ` +
          'Build all instruction sets, on a machine with AVX512_BF16.',
      );
    }
    after[name] = { ...after[name], [dtype]: known };
  }
}
writeFileSync(recordedPath, `${JSON.stringify(after, null, 2)}\n`);
