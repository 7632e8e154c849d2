// The check of options that every function shares.
import { checkOptions } from '../../src/checks/arguments.js';
import { suite, throws } from '../support/harness.js';

interface Options {
  numTokens?: number;
  topP?: number;
}
const known = { numTokens: true, topP: true } as const;
const check = (options: unknown, argument?: string) => () =>
  checkOptions<Options>('sample', options as Options, known, argument);

const test = suite('arguments');

test('an unknown option is refused, with the nearest one that is known', () => {
  check({})();
  check({ numTokens: 3, topP: undefined })();
  throws(check({ top_p: 0.5 }), TypeError, /^sample: 'top_p' is no option; the nearest one is 'topP'$/);
  throws(check({ TOPP: 0.5 }), TypeError, /'TOPP' is no option; the nearest one is 'topP'/);
  throws(check({ numToken: undefined }), TypeError, /'numToken' is no option; the nearest one is 'numTokens'/);
  throws(check({ topP: 1, zzz: 1 }, 'limits'), TypeError, /'zzz' is no option of limits; the nearest one is '/);
  throws(check(JSON.parse('{"__proto__": 1}')), TypeError, /'__proto__' is no option/);
  throws(check({ toString: 1 }), TypeError, /'toString' is no option/);
  throws(() => checkOptions('f', { a: 1 }, {} as never), TypeError, /^f: 'a' is no option; there are none$/);
});

test('options that are no object are refused', () => {
  throws(check(null), TypeError, /^sample: options must be an object, but is null$/);
  throws(check(5, 'limits'), TypeError, /^sample: limits must be an object, but is 5$/);
  throws(check([]), TypeError, /but is an array of length 0/);
  throws(check('topP'), TypeError, /but is 'topP'/);
});

test.run();
