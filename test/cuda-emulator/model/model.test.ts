// The tests of the transformer, the autoencoder and the values of dumps on the emulated GPU. Oracle: that of each test
// file, with its bounds.
import { testOnEmulator } from '../suite.js';

testOnEmulator('the model', [
  'transformer/goldens.test',
  'transformer/hooks.test',
  'transformer/weights/checkpoint.test',
  'transformer/weights/hugging_face.test',
  'transformer/ablation.test',
  'autoencoder/',
  'context/model_context.test',
  'context/autoencoder_context.test',
  'dump/non_finite_dump.test',
]);
