// The tests of hooks on the emulated GPU. Oracle: that of each test file, with its bounds.
import { testOnEmulator } from '../suite.js';

testOnEmulator('hooks', ['transformer/hook_tensors.test', 'transformer/hook_places.test']);
