// Sequences in pieces on the emulated GPU. Oracle: that of the test file, with its bound.
import { testOnEmulator } from '../suite.js';

testOnEmulator('sequences in pieces', ['transformer/schedules.test']);
