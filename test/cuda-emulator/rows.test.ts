import { testOnEmulator } from './suite.js';

testOnEmulator('rows', ['engine/rows.test']);
