// The tests of the model, its weights and the autoencoders, on the emulated GPU.
import { testOnEmulator } from './suite.js';

testOnEmulator('the model', [
  'transformer/goldens.test',
  'transformer/hooks.test',
  'transformer/kv_cache.test',
  'transformer/weights/checkpoint.test',
  'transformer/weights/hugging_face.test',
  'transformer/ablation.test',
  'autoencoder/',
  'context/model_context.test',
  'context/autoencoder_context.test',
]);
