// A program that fetches one blob and prints what it got: for tests that run several, or kill one. It prints 'begun'
// when the first bytes have come, and then fills the disk of the file that a second argument names.
import { createHash } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { openBlob } from '../../../src/files/blob/blob.js';

const [address = '', fill] = process.argv.slice(2);
let begun = false;
try {
  await using file = await openBlob(address, {
    onProgress: ({ bytes }) => {
      if (bytes === 0 || begun) return;
      begun = true;
      console.log('begun');
      if (fill) fillDisk(fill);
    },
  });
  console.log(
    createHash('sha256')
      .update(await file.read())
      .digest('hex'),
  );
} catch (error) {
  console.log(`failed: ${(error as Error).message}`);
}

function fillDisk(path: string): void {
  const file = openSync(path, 'w');
  try {
    for (;;) writeSync(file, Buffer.alloc(2 ** 16));
  } catch {
    closeSync(file); // full
  }
}
