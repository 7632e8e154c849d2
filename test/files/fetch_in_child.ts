// A program that fetches one blob and says what it got: for tests that run several, or kill one. With a pause, it says
// 'begun' when the first bytes have come.
import { createHash } from 'node:crypto';
import { openBlob } from '../../src/files/blob.js';

const [address = ''] = process.argv.slice(2);
let begun = false;
try {
  await using file = await openBlob(address, {
    onProgress: ({ bytes }) => {
      if (bytes > 0 && !begun) console.log('begun');
      begun ||= bytes > 0;
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
