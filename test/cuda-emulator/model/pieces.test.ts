// The output of heads, chosen logits, planes and passes that begin at a layer, on the emulated GPU. Oracle: that of each test file.
import { testOnEmulator } from '../suite.js';

testOnEmulator('pieces of a model', [
  'transformer/heads.test',
  'transformer/chosen_logits.test',
  'transformer/from_layer.test',
  'transformer/passes/planes.test',
]);
