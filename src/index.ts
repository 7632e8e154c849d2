// The public API of the library: re-exports by name, without logic.
export { type AutoencoderActivation, activations, identity, jumpReLU, relu, topK } from './autoencoder/activation.js';
export {
  Autoencoder,
  type AutoencoderOptions,
  type DecodeOptions,
  type StateOptions,
} from './autoencoder/autoencoder.js';
export {
  ActivationLocationType,
  type ActivationLocationTypeAndPassType,
  activationExistsByDefault,
  activationHasNoLayers,
  activationLocationTypes,
  activationLocationWithinLayer,
  activationNodeType,
  activationOfLocation,
  activationShapeSpec,
  locationOfActivation,
} from './context/activation_locations.js';
export {
  type AutoencoderConfig,
  AutoencoderContext,
  type AutoencoderContextOptions,
  countDeadLatents,
  type LayerIndex,
  type MakeAutoencoderContextOptions,
  MultiAutoencoderContext,
  makeAutoencoderContext,
  type OmitLatentsOptions,
  omitLeastActiveLatents,
} from './context/autoencoder_context.js';
export {
  Dimension,
  isAutoencoderLatent,
  isModelIntrinsic,
  isParameterizedDimension,
  isSequenceTokenDimension,
  LocationWithinLayer,
  locationOfNodeType,
  NodeType,
  nodeTypeOfDimension,
  PassType,
} from './context/dimensions.js';
export {
  type GetWeightOptions,
  getEmbedding,
  getUnembeddingWithLnGain,
  InvalidTokenException,
  ModelContext,
  StandardModelContext,
  StubModelContext,
} from './context/model_context.js';
export { DerivedScalarType, listAutoencoderNames } from './context/registry.js';
export {
  dimensionIndex,
  isMlpWeight,
  WeightLocationType,
  weightHasNoLayers,
  weightLocationTypes,
  weightShapeSpec,
} from './context/weight_locations.js';
export type { Corpus, CorpusFile, CorpusFileOptions, CorpusKind } from './dump/corpus/corpus.js';
export type { TokenDType } from './dump/corpus/token_layout.js';
export type { ListedFile, Manifest, ShardEntry } from './dump/format/manifest.js';
export {
  type NonFinite,
  type NonFiniteCounts,
  NonFiniteError,
  type NonFiniteTotal,
} from './dump/format/non_finite.js';
export type {
  DenseLocation,
  Dropped,
  DumpDType,
  DumpSettings,
  GradientOf,
  Part,
  SparseLocation,
} from './dump/format/settings.js';
export type { Statistics } from './dump/format/statistics.js';
export {
  type IndexOptions,
  type IndexProgress,
  type IndexResult,
  indexCorpus,
} from './dump/index_corpus.js';
export { type Allowances, NotAllowed } from './dump/queue/allowances.js';
export {
  type FailedJob,
  type PlanOptions as QueuePlanOptions,
  type PlanResult as QueuePlanResult,
  planQueue,
  type QueueOptions,
  type QueueStatus,
  queueStatus,
  type WorkEvent as QueueWorkEvent,
  type WorkOptions as QueueWorkOptions,
  workQueue,
} from './dump/queue/dump_queue.js';
export {
  type DenseRows,
  Dump,
  openDump,
  type Rows,
  type SparseRows,
  type StoredRows,
  type TokenRows,
} from './dump/read/reader.js';
export type { Problem } from './dump/read/verify.js';
export {
  type CollateOptions,
  type CollateResult,
  type CollateSelection,
  collate,
} from './dump/report/collate.js';
export { type ReportOptions, type ReportResult, report } from './dump/report/report.js';
export type { CollateProgress } from './dump/report/scan_progress.js';
export { type DumpResult, dump, planOf } from './dump/run.js';
export type { AutoencoderSource } from './dump/shards/autoencoders.js';
export { type DumpPlan, describePlan } from './dump/shards/dump_plan.js';
export { type MergeOptions, type MergeResult, mergeDumps } from './dump/shards/merge.js';
export type { DumpOptions, WorkerOptions } from './dump/shards/options.js';
export type { DumpProgress } from './dump/shards/progress.js';
export {
  type Arithmetic,
  type Ceilings,
  type Device,
  type DeviceDescription,
  type DeviceName,
  getDefaultDevice,
  listDevices,
  openDevice,
  type ProfileEntry,
} from './engine/device.js';
export type { DType, HostArray } from './engine/dtype.js';
export { DeviceError, OutOfMemoryError } from './engine/errors.js';
export type { HostData } from './engine/host_data.js';
export type { NestedNumbers } from './engine/nested.js';
export { addLayerNorm } from './engine/ops/add_layer_norm.js';
export { argmax, argmin } from './engine/ops/argmax.js';
export { type AttentionOptions, attention } from './engine/ops/attention.js';
export { add, div, maximum, minimum, mul, type Side, sub } from './engine/ops/binary.js';
export { cat, stack } from './engine/ops/cat.js';
export { and, eq, ge, gt, le, lt, ne, not, or } from './engine/ops/compare.js';
export { arange, eye, full, ones } from './engine/ops/creation.js';
export { type CrossEntropyOptions, crossEntropy, type NestedTargets } from './engine/ops/cross_entropy.js';
export { cumsum } from './engine/ops/cumsum.js';
export { einsum } from './engine/ops/einsum.js';
export { embedding } from './engine/ops/embedding.js';
export { gather } from './engine/ops/gather.js';
export { indexCopy } from './engine/ops/index_copy.js';
export { indexSelect } from './engine/ops/index_select.js';
export type { IndexList, Indices, NestedIndices } from './engine/ops/indices.js';
export { layerNorm } from './engine/ops/layer_norm.js';
export { type Activation, linear } from './engine/ops/linear.js';
export { maskLogits } from './engine/ops/mask_logits.js';
export { matmul } from './engine/ops/matmul.js';
export { type PackedMatrix, packWeights } from './engine/ops/pack_weights.js';
export type { Precision } from './engine/ops/product.js';
export {
  all,
  any,
  type Dims,
  logSumExp,
  max,
  mean,
  min,
  norm,
  type ReduceOptions,
  std,
  sum,
  type VarianceOptions,
  variance as var,
} from './engine/ops/reduce.js';
export { rootMeanSquare } from './engine/ops/root_mean_square.js';
export { scatterAdd } from './engine/ops/scatter_add.js';
export { logSoftmax, softmax, softmaxNumerator } from './engine/ops/softmax.js';
export { type SortOptions, sort } from './engine/ops/sort.js';
export { sparseDecode } from './engine/ops/sparse_decode.js';
export { type SparseEncodeOptions, type SparseLatents, sparseEncode } from './engine/ops/sparse_encode.js';
export { Tensor, type TensorOptions } from './engine/ops/tensor.js';
export { topKMask } from './engine/ops/top_k.js';
export { tril, triu } from './engine/ops/triangle.js';
export { abs, clamp, exp, gelu, log, neg, pow, sigmoid, sign, sqrt, tanh } from './engine/ops/unary.js';
export { dot, outer } from './engine/ops/vector_products.js';
export { diagonal, expand, flatten, split, squeeze, transpose, unsqueeze } from './engine/ops/view_operations.js';
export { where } from './engine/ops/where.js';
export type { BackwardOptions, GradientRecord } from './engine/record.js';
export { BlobFile, type BlobProgress, type FetchOptions, type OpenBlobOptions, openBlob } from './files/blob/blob.js';
export type { FileSource } from './files/blob/file_source.js';
export type { HostDType, HostTensor, StateDict, StateValue } from './files/host_tensor.js';
export {
  type ActivationRecord,
  calibrationActivationRecords,
  loadNeuronRecord,
  maxActivation,
  type NeuronId,
  type NeuronRecord,
  type SplitOptions,
  saveNeuronRecord,
  testActivationRecords,
  trainActivationRecords,
  validActivationRecords,
} from './files/neuron_record/neuron_record.js';
export {
  loadSafetensors,
  openSafetensors,
  type SafetensorsFile,
  saveSafetensors,
} from './files/safetensors/safetensors.js';
export { gpt2Tokenizer, type Tokenizer } from './files/tokenizer/tokenizer.js';
export { loadTorch, loadTorchValue, saveTorch, UnsafePickleError } from './files/torch/torch.js';
export { ablationHooks } from './transformer/ablation.js';
export { atPositions } from './transformer/at_positions.js';
export {
  type AttributedFeature,
  type AttributeOptions,
  type Attribution,
  type AttributionDirection,
  type AttributionGroup,
  attribute,
  type FeatureKind,
} from './transformer/attribution/attribute.js';
export type { Gradients, GradientsOptions, LatentSpace } from './transformer/gradients.js';
export {
  AtLayers,
  AutoencoderHooks,
  type AutoencoderHooksOptions,
  ConditionalHooks,
  type Hook,
  type HookContext,
  type HookFunction,
  type HookResult,
  type HookRunner,
  Hooks,
  type PartialHookContext,
  TransformerHooks,
} from './transformer/hooks.js';
export type { KvCaches } from './transformer/kv_cache.js';
export { expandLocations, type Location, locationNames, locationShape, parseLocation } from './transformer/location.js';
export { type Pad, type PassRange, type PassStart, prepInputAndPad, type Tokens } from './transformer/padding.js';
export type { Prompts, SampledToken, SampleOptions, Samples } from './transformer/sample_run.js';
export { derivedSeeds } from './transformer/sampling/sampling.js';
export type { SubjectModel } from './transformer/subject_model.js';
export {
  type ActivationsOptions,
  type ForwardOptions,
  type ForwardResult,
  type LoadOptions,
  Transformer,
} from './transformer/transformer.js';
export type { TransformerConfig } from './transformer/weights/config.js';
