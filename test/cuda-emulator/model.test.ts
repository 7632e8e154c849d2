import { testOnEmulator } from './suite.js';

testOnEmulator('the model', [
  'transformer/goldens.test',
  'transformer/hooks.test',
  'transformer/kv_cache.test',
  'autoencoder/',
]);
