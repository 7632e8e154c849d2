// Plants mistakes that are easily made in kernels, one at a time: kernels_test has to find each, or its verdict is worth nothing.
//   node test/cuda-emulator/mistakes/plant.mjs [word]...   only those whose title contains a word
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { buildKernelsTest } from '../build.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

// title: { file, from, to: the text and its replacement, compile: the .cu files to compile anew, tests: words for kernels_test,
//   sm: the GPU emulated, flavour: address where only AddressSanitizer detects it, ownTest: kernels_test has code of the file in it }
const products = ['product_dense_bfloat16.cu', 'product_dense_split.cu'];
const dense = { compile: products, tests: ['linear', 'rows alone', 'pipeline'] };
const hopper = { ...dense, file: 'product_hopper.cuh' };
const mma = { ...dense, file: 'product_mma.cuh', sm: '80' };
const simt = {
  ...dense,
  ...{ file: 'product_simt.cuh', sm: '86' },
  compile: [...products, 'product_dense_high_only.cu', 'product_dense_plain.cu'],
};
const epilogue = { ...dense, file: 'epilogue.cuh' };
const rows = { file: 'rows.cuh', compile: ['layer_norm.cu', 'add_layer_norm.cu'], tests: ['rows'] };
const norm = { ...rows, file: 'layer_norm.cuh' };
// inline functions, of which the linker keeps any one: all who use them are compiled anew
const planes = {
  file: 'split_operand.cuh',
  compile: ['split_operand.cu', 'layer_norm.cu', 'add_layer_norm.cu'],
  tests: ['planes'],
  ownTest: true,
};
const attention = { file: 'attention_mma.cuh', compile: ['attention.cu'], tests: ['attention'], sm: '80' };
const attentionHopper = { ...attention, file: 'attention_hopper.cuh', sm: '90' };
const backend = { file: 'backend.cu', compile: ['backend.cu'] };
const sparse = { file: 'sparse_encode.cu', compile: ['sparse_encode.cu'], tests: ['sparse'] };
const choice = { file: 'choose_index.cu', compile: ['choose_index.cu'], tests: ['choice'] };

export const mistakes = {
  'hopper: an empty stage is not waited for': {
    ...hopper,
    from: 'if (ring.around) mbarrier_wait(empty',
    to: 'if (false) mbarrier_wait(empty',
  },
  'hopper: a full stage is not waited for': {
    ...hopper,
    from: 'mbarrier_wait(full + s, ring.parity);',
    to: '',
  },
  'hopper: the parity of a full stage is wrong': {
    ...hopper,
    from: 'mbarrier_wait(full + s, ring.parity);',
    to: 'mbarrier_wait(full + s, ring.parity ^ 1);',
  },
  'hopper: the parity of an empty stage is wrong': {
    ...hopper,
    from: 'ring.parity ^ 1);',
    to: 'ring.parity);',
  },
  'hopper: too few bytes are expected': {
    ...hopper,
    from: 'Shape::stage * 2);\n          tma',
    to: 'Shape::stage);\n          tma',
  },
  'hopper: split stages are freed before their products are done': {
    ...hopper,
    from: '        wgmma_wait<0>();\n        keep_registers(high);\n        keep_registers(cross);\n        mbarrier_arrive_if(empty + s, lane == 0);',
    to: '        mbarrier_arrive_if(empty + s, lane == 0);\n        wgmma_wait<0>();\n        keep_registers(high);\n        keep_registers(cross);',
  },
  'hopper: a stage is freed while its products go on': {
    ...hopper,
    from: 'empty + (s > 0 ? s : kStages) - 1, lane == 0);',
    to: 'empty + s, lane == 0);',
  },
  'hopper: the last products are not waited for': {
    ...hopper,
    from: '      wgmma_wait<0>();\n      keep_registers(high);\n      mbarrier_arrive_if',
    to: '      mbarrier_arrive_if',
  },
  'hopper: the last stage is never freed': {
    ...hopper,
    from: '      mbarrier_arrive_if(empty + (ring.stage > 0 ? ring.stage : kStages) - 1, lane == 0);\n',
    to: '',
  },
  'hopper: one arrival too few is counted': {
    ...hopper,
    from: 'mbarrier_init(empty + i, 8)',
    to: 'mbarrier_init(empty + i, 7)',
  },
  'hopper: the next tile starts from the wrong stage': {
    ...hopper,
    from: 'for (int step = 0; step < steps; ++step, ring.advance()) {\n      const int s',
    to: 'ring = {};\n    for (int step = 0; step < steps; ++step, ring.advance()) {\n      const int s',
  },
  'hopper: nobody says that one warpgroup is ahead': {
    ...hopper,
    from: 'lane == 0 && count == Shape::lead);',
    to: 'false);',
  },
  'hopper: with few steps, nobody says that one warpgroup is ahead': {
    ...hopper,
    from: '  mbarrier_arrive_if(ahead, half == 0 && lane == 0 && count <= Shape::lead);\n',
    to: '',
  },
  'hopper: two tiles share the values of their columns': {
    ...hopper,
    from: '    values = values == other ? other + Shape::column_values : other;\n',
    to: '',
  },
  'hopper: two warpgroups share the values of their columns': {
    ...hopper,
    from: 'float* values = column_values + half * 2',
    to: 'float* values = column_values + 0 * 2',
  },
  'hopper: a descriptor goes on by too little': {
    ...hopper,
    from: 'db + 2 * k, kSplit ? k > 0',
    to: 'db + k, kSplit ? k > 0',
  },
  'hopper: a step has the scale of the next': {
    ...hopper,
    from: 'scales[g][0];',
    to: 'scales[g][steps > 1];',
  },
  'hopper: every step has the first scale': {
    ...hopper,
    from: '        scale[0] = next[0];\n        scale[1] = next[1];\n',
    to: '',
  },
  'hopper: two rows have one scale': {
    ...hopper,
    from: 'scale[i / 2 % 2]',
    to: 'scale[0]',
  },
  'hopper: scales of rows outside are read': {
    ...hopper,
    from: 'min64(row + lane / 4 + 8 * g, work.m - 1)',
    to: '(row + lane / 4 + 8 * g)',
    tests: ['planes'],
    flavour: 'address',
  },
  'mma: every step has a scale of its own': {
    ...mma,
    from: 'step * kMmaDepth / kSplitChunk',
    to: 'min(step, int(work.a.chunks) - 1)',
  },
  'mma: scales of rows outside are read': {
    ...mma,
    from: 'min64(row0 + warp_row + i / 2 * 16 + lane / 4 + i % 2 * 8, work.m - 1)',
    to: '(row0 + warp_row + i / 2 * 16 + lane / 4 + i % 2 * 8)',
    tests: ['planes'],
    flavour: 'address',
  },
  'simt: blocks that repair skip tiles': {
    ...simt,
    from: 'i < tiles * work.matrices.count;',
    to: 'i < 1;',
    sm: '90',
    tests: ['range'],
  },
  'epilogue: a fragment is read before all of it is there': {
    ...epilogue,
    from: '      __syncwarp();\n      if (chunked) {',
    to: '      if (chunked) {',
  },
  'epilogue: a fragment is written while the last one is read': {
    ...epilogue,
    from: '      __syncwarp();  // the part before has been read\n',
    to: '',
  },
  'epilogue: columns outside are written': {
    ...epilogue,
    from: '(left >= kWidth) | (left % kChunk == 0)',
    to: 'true',
  },
  'epilogue: chunks outside are written': {
    ...epilogue,
    from: 'first < left ? rows.wanted',
    to: 'true ? rows.wanted',
  },
  'epilogue: rows are written 16 bytes at a time whatever their pitch': {
    ...epilogue,
    from: 'const bool chunked = aligned &',
    to: 'const bool chunked = true &',
  },
  'epilogue: elements outside are written': {
    ...epilogue,
    from: 'if (column >= left) continue;',
    to: '',
  },
  'epilogue: the residual of a column that is repaired is lost': {
    ...epilogue,
    from: 'if (columns.scale[column] == 0) return other;',
    to: '',
    tests: ['range'],
  },
  'epilogue: the residual is added before the product is rounded': {
    ...epilogue,
    from: 'values[i] = rounded(values[i]) + others[i];',
    to: 'values[i] = values[i] - others[i];',
    compile: ['product_dense_plain.cu'],
    sm: '86',
  },
  'epilogue: the last rows of a fragment are written': {
    ...epilogue,
    from: 'min64(m - row0, 16)',
    to: '16',
    compile: ['product_dense_bfloat16.cu'],
    tests: ['linear'],
    flavour: 'address',
  },
  'planes: those of repaired elements are left as they were': {
    ...planes,
    file: 'product_dense_split.cu',
    from: '  return rewrite_planes(context, result.planes, result.out, product.m, product.n, product.left.any, product.right.any);',
    to: '  return status;',
    compile: ['product_dense_split.cu'],
    ownTest: false,
  },
  'gelu: an exponent that is less exact': {
    file: 'functions.cuh',
    from: '-0.1029432397f',
    to: '-0.10294f',
    compile: ['unary.cu'],
    tests: ['gelu'],
  },
  'mma: one group of copies too few is waited for': {
    ...mma,
    from: 'cp_async_wait<kMmaStages - 2>',
    to: 'cp_async_wait<kMmaStages - 1>',
  },
  'mma: the barrier of a stage is missing': {
    ...mma,
    from: '    __syncthreads();  // all see this stage',
    to: '    // all see this stage',
  },
  'mma: nobody waits before the stages are reused': {
    ...mma,
    from: '  __syncthreads();  // the stages are free',
    to: '  // the stages are free',
  },
  'mma: rows outside are loaded': {
    ...mma,
    from: 'r < operand.rows ? min64(8',
    to: 'true ? min64(8',
    flavour: 'address',
  },
  'mma: columns of K outside are loaded': { ...mma, from: 'min64(8, operand.k - k) : 0', to: '8 : 0' },
  'mma: chunks are stored without the swizzle': {
    ...mma,
    from: 'cp_async16(to + mma_offset(row, chunk)',
    to: 'cp_async16(to + row * kMmaDepth + chunk * 8',
  },
  'simt: the barrier after storing a step is missing': {
    ...simt,
    from: '    __syncthreads();\n    if (k0 + kSimtDepth',
    to: '    if (k0 + kSimtDepth',
  },
  'simt: the barrier before the next step is missing': {
    ...simt,
    from: '    }\n    __syncthreads();\n  }\n  // eight times',
    to: '    }\n  }\n  // eight times',
  },
  'simt: the barrier between two groups of rows is missing': {
    ...simt,
    from: '      if (mask) epilogue.chunk(batch, row, column, v, biases + first, mask);\n    }\n    __syncthreads();',
    to: '      if (mask) epilogue.chunk(batch, row, column, v, biases + first, mask);\n    }',
  },
  'range: flagged rows are not repaired': {
    file: 'product.cuh',
    from: '    return launch_simt<true>(context, product.a, product.b, product.m, product.n, product.k, flagged, epilogue);',
    to: '    return {};',
    compile: products,
    tests: ['range'],
  },
  'split operand: squares are read before they are there': {
    file: 'split_operand.cu',
    from: '    __syncthreads();\n    for (int r = warp;',
    to: '    for (int r = warp;',
    compile: ['split_operand.cu'],
    tests: ['linear'],
  },
  'split operand: values of a chunk are read before they are there': {
    file: 'split_operand.cu',
    from: '  maxima[warp][lane] = largest;\n  __syncthreads();\n  for',
    to: '  maxima[warp][lane] = largest;\n  for',
    compile: ['split_operand.cu'],
    tests: ['planes'],
  },
  'split operand: a chunk has the scale of the one before': {
    ...planes,
    from: 'scale[row * chunks + chunk]',
    to: 'scale[row * chunks + (chunk > 0 ? chunk - 1 : 0)]',
    tests: ['range'],
  },
  'split operand: a row that is not represented has no flag': {
    ...planes,
    from: '    atomicExch(flags + row, 1);\n',
    to: '',
    tests: ['range'],
  },
  'split operand: nobody says that a row is flagged': {
    ...planes,
    from: '    atomicExch(any, 1);\n',
    to: '',
    tests: ['range'],
  },
  'split operand: a column that is not represented has no flag': {
    file: 'split_operand.cu',
    from: 'to.put_scale(row0 + lane, 0, factor_for<false>(largest));',
    to: 'to.scale[row0 + lane] = undone(factor_for<false>(largest));',
    compile: ['split_operand.cu'],
    tests: ['range'],
  },
  'split operand: flags are not cleared': {
    file: 'split_operand.cu',
    from: '    const Status status = clear_flags(context, operand);',
    to: '    const Status status;',
    compile: ['split_operand.cu'],
    tests: ['planes'],
  },
  'split operand: squares are overwritten while they are read': {
    file: 'split_operand.cu',
    from: 'j0 += kSquare) {\n    __syncthreads();',
    to: 'j0 += kSquare) {',
    compile: ['split_operand.cu'],
    tests: ['linear'],
  },
  'rows: parts are overwritten while they are read': {
    ...rows,
    from: '      __syncthreads();  // the parts',
    to: '      // the parts',
  },
  'rows: parts are read before they are there': { ...rows, from: '= value;\n      __syncthreads();', to: '= value;' },
  'rows: one warp has no part': {
    ...rows,
    from: 'if (threadIdx.x % kWarp == 0) parts',
    to: 'if (threadIdx.x % kWarp == 0 && threadIdx.x) parts',
  },
  'rows: a lane skips the shuffles': {
    ...rows,
    from: 'for (int step = kWarp / 2; step > 0; step /= 2) value',
    to: 'if (threadIdx.x % kWarp < 31) for (int step = kWarp / 2; step > 0; step /= 2) value',
  },
  'layer norm: gain is read past its end': {
    ...rows,
    file: 'layer_norm.cuh',
    from: 'read(gain, x.gain, 0, 1, at);',
    to: 'read(gain, x.gain, 4, 1, at);',
    flavour: 'address',
  },
  'layer norm: rows that are not aligned are read 16 bytes at a time': {
    ...norm,
    from: '% 16 == 0 &&',
    to: '% 1 == 0 &&',
    tests: ['norm paths'],
    flavour: 'address',
  },
  'layer norm: rows with a remainder are read 16 bytes at a time': {
    ...norm,
    from: 'last_dimension(view) % kWidth == 0 &&',
    to: 'true &&',
    tests: ['norm paths'],
    flavour: 'address',
  },
  'layer norm: one element at a time takes another order': {
    ...norm,
    from: 'with_group(n, [&](auto group) {',
    to: 'with_group(decltype(wide)::value ? n : 2000, [&](auto group) {',
    tests: ['norm paths'],
  },
  'layer norm: a sum in place is added once more': {
    ...norm,
    from: 'if constexpr (kAdd) read(to, x.sum, first, 1, at);\n    else values(to, at);',
    to: 'values(to, at);',
    tests: ['norm paths'],
  },
  'layer norm: flags of planes are not cleared': {
    ...norm,
    from: 'const Status cleared = clear_flags(context, operand);',
    to: 'const Status cleared;',
    tests: ['planes'],
  },
  'layer norm: planes of the row before': {
    ...norm,
    from: 'x.planes.quarters(i, at',
    to: 'x.planes.quarters(i > 0 ? i - 1 : 0, at',
    tests: ['planes'],
  },
  'planes: they are written again without a reason': {
    ...planes,
    file: 'split_operand.cu',
    from: 'return !a || *a != 0 || *b != 0;',
    to: 'return true;',
  },
  'planes: the repair of columns is not noticed': {
    ...planes,
    file: 'split_operand.cu',
    from: 'return !a || *a != 0 || *b != 0;',
    to: 'return !a || *a != 0;',
  },
  'planes: flags stay when they are written again': {
    ...planes,
    file: 'split_operand.cu',
    from: 'i < count; i += step) flags[i] = 0;',
    to: 'i < 0; i += step) flags[i] = 0;',
  },
  'planes: half a chunk decides the scale': {
    ...planes,
    from: 'int step = kChunkLanes / 2;',
    to: 'int step = kChunkLanes / 4;',
  },
  'planes: a fragment has the scale of half its columns': {
    ...planes,
    from: 'value(i / 2, g, i % 2));',
    to: 'value(i / 4, g, i % 2));',
  },
  'planes: rows outside a matrix are written': {
    ...planes,
    from: 'store_global16_if(high + at, make_uint4(h[0], h[1], h[2], h[3]), row < end);',
    to: 'store_global16_if(high + at, make_uint4(h[0], h[1], h[2], h[3]), true);',
    flavour: 'address',
  },
  'planes: scales outside a matrix are written': {
    ...planes,
    from: 'if (lane % 4 == 0 && row < end) put_scale',
    to: 'if (lane % 4 == 0) put_scale',
    flavour: 'address',
  },
  'planes: words of a quad are exchanged the wrong way': {
    ...planes,
    from: 'if (odd) w[i] = other;',
    to: 'if (!odd) w[i] = other;',
  },
  'copy: a square is read before it is there': {
    file: 'copy.cu',
    from: '  __syncthreads();\n',
    to: '',
    compile: ['copy.cu'],
    tests: ['copy'],
  },
  'copy: rows outside are read': {
    file: 'copy.cu',
    from: 'if (row + x < m.rows && column + j < m.columns) {',
    to: 'if (column + j < m.columns) {',
    compile: ['copy.cu'],
    tests: ['copy'],
    flavour: 'address',
  },
  'attention: keys are overwritten while they are read': {
    ...attention,
    from: '      __syncthreads();  // nobody reads',
    to: '      // nobody reads',
  },
  'attention: keys are read before all of them are there': {
    ...attention,
    from: '      begin(first_key, stage);\n      __syncthreads();',
    to: '      begin(first_key, stage);',
  },
  'attention: the barrier of a step is missing': {
    ...attention,
    from: '      __syncthreads();  // all see',
    to: '      // all see',
  },
  'attention: the step under way is not waited for': {
    ...attention,
    from: 'cp_async_wait<0>();\n      __syncthreads();  // all see',
    to: 'cp_async_wait<1>();\n      __syncthreads();  // all see',
  },
  'attention: too many steps know no mask': {
    ...attention,
    from: 'before + first_query + 1 : seen',
    to: 'before + first_query + kBlock : seen',
  },
  'attention: padding is not masked where nothing else is': {
    ...attention,
    from: 'x.pad ? 0 :',
    to: '',
  },
  'attention: keys after the last count': {
    ...attention,
    file: 'attention.cuh',
    from: 'end = x.shape.keys - 1;',
    to: 'end = x.shape.keys;',
  },
  'attention: a query sees the next key': {
    ...attention,
    file: 'attention.cuh',
    from: 'position < end ? position : end',
    to: 'position < end ? position + 1 : end',
  },
  'attention: earlier terms are not made smaller': {
    ...attention,
    file: 'attention.cuh',
    from: 'fmaf(sum[g], shrink[g], here[0] + here[1])',
    to: 'sum[g] + here[0] + here[1]',
  },
  'attention: a result is stored where there are fewer channels': {
    ...attention,
    file: 'attention.cuh',
    from: 'if (inside && c < x.shape.values) {',
    to: 'if (inside) {',
  },
  'attention on hopper: an empty slot is not waited for': {
    ...attentionHopper,
    from: 'if (count >= kSlots) mbarrier_wait(empty',
    to: 'if (false) mbarrier_wait(empty',
  },
  'attention on hopper: queries are not waited for': {
    ...attentionHopper,
    from: '  mbarrier_wait(queries_full, 0);\n',
    to: '',
  },
  'attention on hopper: keys are not waited for': {
    ...attentionHopper,
    from: '    wait_for(2 * step);\n',
    to: '',
  },
  'attention on hopper: values are not waited for': {
    ...attentionHopper,
    from: '    wait_for(2 * step + 1);\n',
    to: '',
  },
  'attention on hopper: the parity of a full slot is wrong': {
    ...attentionHopper,
    from: 'i / kSlots & 1',
    to: '(i / kSlots + 1) & 1',
  },
  'attention on hopper: keys of the second sweep are freed before they are multiplied': {
    ...attentionHopper,
    from: '    wait_for(i);\n    keep_registers(s);\n    wgmma_fence();\n    begin_scores(i);\n    wgmma_wait<0>();\n    keep_registers(s);\n    release(i);\n',
    to: '    wait_for(i);\n    release(i);\n    keep_registers(s);\n    wgmma_fence();\n    begin_scores(i);\n    wgmma_wait<0>();\n    keep_registers(s);\n',
  },
  'attention on hopper: values are freed while their products go on': {
    ...attentionHopper,
    from: '    wait_for(2 * step + 1);\n    wgmma_wait<0>();\n    keep_registers(out);\n    keep_registers(terms);\n    release(2 * step - 1);',
    to: '    wait_for(2 * step + 1);\n    release(2 * step - 1);\n    wgmma_wait<0>();\n    keep_registers(out);\n    keep_registers(terms);',
  },
  'attention on hopper: scores are read while their products go on': {
    ...attentionHopper,
    from: '    wgmma_wait<1>();',
    to: '    wgmma_wait<2>();',
  },
  'attention on hopper: terms are written while their products go on': {
    ...attentionHopper,
    from: '    keep_registers(s);\n    wait_for(2 * step + 1);',
    to: '    pack();\n    wait_for(2 * step + 1);',
  },
  'attention on hopper: the last products are not waited for': {
    ...attentionHopper,
    from: '  begin_values(2 * own - 1);\n  wgmma_wait<0>();',
    to: '  begin_values(2 * own - 1);',
  },
  'attention on hopper: registers are not fenced': {
    ...attentionHopper,
    from: '    keep_registers(terms);\n    wgmma_fence();\n    begin_scores',
    to: '    keep_registers(terms);\n    begin_scores',
  },
  'attention on hopper: the lanes of a warp go on by themselves': {
    ...attentionHopper,
    from: '    __syncwarp();  // the next',
    to: '    // the next',
  },
  'attention on hopper: slots of steps that a group skips are not freed': {
    ...attentionHopper,
    from: '    wait_for(i);\n    release(i);\n  }\n\n',
    to: '  }\n\n',
  },
  'attention on hopper: a group that is alone waits for the other': {
    ...attentionHopper,
    from: '4 * groups);',
    to: '8);',
  },
  'attention on hopper: a group skips its last step': {
    ...attentionHopper,
    from: 'const int end = before + min(first + 64,',
    to: 'const int end = before + min(first,',
  },
  'attention on hopper: too many steps know no mask': {
    ...attentionHopper,
    from: 'before + first + 1 :',
    to: 'before + first + 64 :',
  },
  'attention on hopper: padding is not masked where nothing else is': {
    ...attentionHopper,
    from: 'x.pad ? 0 :',
    to: '',
  },
  'attention on hopper: a descriptor goes on by too little': {
    ...attentionHopper,
    from: 'b + k * 128',
    to: 'b + k * 64',
  },
  'attention on hopper: the other channels of values are looked for elsewhere': {
    ...attentionHopper,
    from: 'kColumn * 2)',
    to: 'kColumn)',
  },
  'attention on hopper: earlier results are not made smaller': {
    ...attentionHopper,
    from: 'out[i] *= shrink[i / 2 % 2]',
    to: 'out[i] *= shrink[i % 2]',
  },
  'ranking: counters are read before they are complete': {
    file: 'ranking.cuh',
    from: '    }\n    __syncthreads();\n    // from the largest',
    to: '    }\n    // from the largest',
    compile: ['top_k.cu'],
    tests: ['ranking'],
  },
  'ranking: sums of warps are read before they are there': {
    file: 'ranking.cuh',
    from: '    __syncthreads();\n    for (int i = 0; i < t / 32',
    to: '    for (int i = 0; i < t / 32',
    compile: ['top_k.cu'],
    tests: ['ranking'],
  },
  'ranking: sorting does not wait between steps': {
    file: 'ranking.cuh',
    from: '      __syncthreads();\n      for (int64_t i = threadIdx.x; i < n / 2',
    to: '      for (int64_t i = threadIdx.x; i < n / 2',
    compile: ['top_k.cu'],
    tests: ['ranking'],
  },
  'sparse: a list is sorted before it is complete': {
    ...sparse,
    from: '  __syncthreads();\n  const int64_t filled',
    to: '  const int64_t filled',
  },
  'sparse: a full list goes unnoticed': {
    ...sparse,
    from: 'fetched[rows + 1] > workspace.choice.capacity;',
    to: 'false;',
  },
  'attention: scores are multiplied before the largest is subtracted': {
    ...attention,
    file: 'attention.cuh',
    from: 'exp2_approx((score - base(g)) * factor)',
    to: 'exp2_approx(fmaf(score, factor, -(base(g) * factor)))',
    tests: ['large scores'],
  },
  'sparse: columns outside pass': {
    file: 'epilogue.cuh',
    from: 'if (inside < kPairs) hits[g][h] &=',
    to: 'if (false) hits[g][h] &=',
    compile: ['product_sparse.cu'],
    tests: ['sparse'],
  },
  'sparse: the lanes of a fragment without hits go on by themselves': {
    file: 'epilogue.cuh',
    from: '      __syncwarp();\n      return;',
    to: '      return;',
    compile: ['product_sparse.cu'],
    tests: ['sparse'],
  },
  'sparse: hits have the values of the part before': {
    file: 'epilogue.cuh',
    from: 'if (!__any_sync(kAll, left != 0)) continue;',
    to: 'if (part > 0) continue;',
    compile: ['product_sparse.cu'],
    tests: ['sparse'],
  },
  'sparse: the lanes of a fragment go on by themselves': {
    file: 'epilogue.cuh',
    from: '    __syncwarp();\n  }\n};\n\n}  // namespace sonde',
    to: '  }\n};\n\n}  // namespace sonde',
    compile: ['product_sparse.cu'],
    tests: ['sparse'],
  },
  'sparse: hits of a quad share their slots': {
    file: 'epilogue.cuh',
    from: '+ before - count;',
    to: ';',
    compile: ['product_sparse.cu'],
    tests: ['sparse'],
  },
  'thresholds: the threshold of the wrong column': {
    file: 'epilogue.cuh',
    from: 'column + 1 < n ? thresholds[column + 1]',
    to: 'column + 1 < n ? thresholds[column]',
    compile: ['product_sparse.cu'],
    tests: ['thresholds'],
  },
  'thresholds: one element at a time, the threshold of the wrong column': {
    file: 'epilogue.cuh',
    from: 'value <= thresholds[column + i]',
    to: 'value <= thresholds[column]',
    compile: ['product_sparse.cu'],
    tests: ['thresholds'],
  },
  'thresholds: what equals its threshold passes': {
    file: 'epilogue.cuh',
    from: '!(left <= limits.x)',
    to: '!(left < limits.x)',
    compile: ['product_sparse.cu'],
    tests: ['thresholds'],
  },
  'thresholds: those of the first tile': {
    file: 'epilogue.cuh',
    from: 'own_pair(column0 + 8 * j + first)',
    to: 'own_pair(8 * j + first)',
    compile: ['product_sparse.cu'],
    tests: ['thresholds'],
  },
  'thresholds: columns outside are read': {
    file: 'epilogue.cuh',
    from: '{column < n ? thresholds[column] : 0.0f, column + 1 < n ? thresholds[column + 1] : 0.0f}',
    to: '{thresholds[column], thresholds[column + 1]}',
    compile: ['product_sparse.cu'],
    tests: ['thresholds'],
    flavour: 'address',
  },
  'embedding: a bad index is looked up': {
    file: 'embedding.cu',
    from: 'good ? x.table.get',
    to: 'true ? x.table.get',
    compile: ['embedding.cu'],
    tests: ['lookup'],
    flavour: 'address',
  },
  'gather: a bad index is looked up': {
    file: 'gather.cu',
    from: 'if (is_index(x.failure, index, i, x.limit)) x.out',
    to: 'is_index(x.failure, index, i, x.limit);\n  x.out',
    compile: ['gather.cu'],
    tests: ['indexing'],
    flavour: 'address',
  },
  'index select: a bad index is looked up': {
    file: 'index_select.cu',
    from: '  if (index < 0 || index >= x.limit) return;\n',
    to: '',
    compile: ['index_select.cu'],
    tests: ['indexing'],
    flavour: 'address',
  },
  'index copy: the first of equal indices is written': {
    file: 'index_copy.cu',
    from: 'atomicMax(&list.last[list.indices[j * list.step]], int32_t(j));',
    to: 'list.last[list.indices[j * list.step]] = int32_t(list.count - 1 - j);',
    compile: ['index_copy.cu'],
    tests: ['indexing'],
  },
  'index copy: something is written beside a bad index': {
    file: 'index_copy.cu',
    from: ' || *list.wrong) return;\n  const int64_t j = i /',
    to: ') return;\n  const int64_t j = i /',
    compile: ['index_copy.cu'],
    tests: ['indexing'],
    flavour: 'address',
  },
  'scatter add: a bad index is written': {
    file: 'scatter_add.cu',
    from: '  if (*x.wrong) return;\n',
    to: '',
    compile: ['scatter_add.cu'],
    tests: ['indexing'],
    flavour: 'address',
  },
  'scatter add: terms are read before they are there': {
    file: 'scatter_add.cu',
    from: '        __syncthreads();\n        bool leads',
    to: '        bool leads',
    compile: ['scatter_add.cu'],
    tests: ['indexing'],
  },
  'scatter add: a chunk is overwritten while it is added': {
    file: 'scatter_add.cu',
    from: '        __syncthreads();  // the chunk before is done\n',
    to: '',
    compile: ['scatter_add.cu'],
    tests: ['indexing'],
  },
  'sort: what fills the list up comes first': {
    file: 'sort.cu',
    from: '^ x.flipped, j) : 0;',
    to: '^ x.flipped, j) : ~uint64_t(0);',
    compile: ['sort.cu'],
    tests: ['ranking'],
  },
  'last nonzero: stats are read before all rows are seen': {
    file: 'update_last_nonzero.cu',
    from: '  __syncthreads();\n  if (threadIdx.x >= kColumns',
    to: '  if (threadIdx.x >= kColumns',
    compile: ['update_last_nonzero.cu'],
    tests: ['lookup'],
  },
  'choice: a tile is subtracted before it is there': {
    ...choice,
    from: '    __syncthreads();\n    // The next',
    to: '    // The next',
  },
  'choice: the first tile is subtracted before it is there': {
    ...choice,
    from: '  __syncthreads();\n  const double head',
    to: '  const double head',
  },
  'choice: the next tile takes the place of this one': {
    ...choice,
    from: 'tiles[side ^ 1]',
    to: 'tiles[side]',
  },
  'choice: nothing left counts as less than nothing': {
    ...choice,
    from: 'if (after < 0 && first == kStep)',
    to: 'if (after <= 0 && first == kStep)',
  },
  'choice: the last step is taken for the first': {
    ...choice,
    from: 'if (after < 0 && first == kStep)',
    to: 'if (after < 0)',
  },
  'choice: zeros are the last': {
    ...choice,
    from: 'last = probs[i] != 0 ? i : last;',
    to: 'last = i;',
  },
  'transfers: reading does not wait for its turn': {
    file: 'backend.cu',
    from: 'pending->ready ? cudaEventSynchronize(pending->ready)',
    to: 'pending->ready ? cudaSuccess',
    compile: ['backend.cu'],
    tests: ['transfers'],
  },
  'transfers: the wrong part of the staging memory is read': {
    file: 'backend.cu',
    from: 'status = bring(context, static_cast<char*>(pending->host), pending->staging, pending->bytes);',
    to: 'status = bring(context, static_cast<char*>(pending->host), pending->staging + 4, pending->bytes - 4);',
    compile: ['backend.cu'],
    tests: ['transfers'],
  },
  'failures: two marks report the same operations': {
    ...backend,
    tests: ['failures'],
    from: 'std::exchange(host.reports, {})',
    to: 'host.reports',
  },
  'failures: a mark reports later operations': {
    ...backend,
    tests: ['failures'],
    from: '    status = collect(context, pending->reports);',
    to: '    status = collect(context, host.reports);',
  },
  'failures: the first is forgotten when entries are freed': {
    ...backend,
    tests: ['failures'],
    from: '    host.reports.first = collect(',
    to: '    collect(',
  },
  'failures: entries are freed while kernels still report': {
    ...backend,
    tests: ['failures'],
    from: '    const cudaError_t error = cudaStreamSynchronize(context->stream);\n    if (error != cudaSuccess) {\n      *status',
    to: '    const cudaError_t error = cudaSuccess;\n    if (error != cudaSuccess) {\n      *status',
  },
  'failures: the last one is reported': {
    ...backend,
    tests: ['failures'],
    from: 'failure->kind != kNoFailure && !status.failed()',
    to: 'failure->kind != kNoFailure',
  },
  'failures: an operation that cannot begin hides one that failed before it': {
    ...backend,
    tests: ['shortage'],
    from: 'return before.failed() ? before : status;',
    to: 'return status;',
  },
  'devices: the thread stays on another GPU': {
    ...backend,
    tests: ['devices'],
    from: 'error == cudaSuccess && current == context->index ?',
    to: 'error == cudaSuccess && context->index == 0 ?',
  },
  'memory: the pool keeps everything': {
    ...backend,
    tests: ['pool'],
    from: '  cudaMemPoolTrimTo(context->host->pool, 0);\n',
    to: '',
  },
  'memory: an operation frees scratch memory that it uses': {
    ...backend,
    tests: ['shortage'],
    from: 'if (host.asked >> slot & 1) continue;',
    to: '',
    flavour: 'address',
  },
  'memory: the owner of cached memory is not asked to release it': {
    ...backend,
    tests: ['shortage'],
    from: '  if (host.reclaim) host.reclaim(host.owner);\n',
    to: '',
  },
  'memory: the pool is trimmed before anything is idle': {
    ...backend,
    tests: ['pool'],
    from: '  cudaStreamSynchronize(context->stream);\n  cudaStreamSynchronize(context->host->copies);\n',
    to: '',
  },
};

/**
 * Plants a mistake in a copy of kernels/ in `folder`; returns the message of kernels_test, or null if it found nothing. Options
 * replace the mistake's own fields, such as its flavour.
 */
export async function find(title, folder, { schedules = 8, cases = 8, ...other } = {}) {
  const {
    file,
    from,
    to,
    compile,
    tests,
    sm = '90',
    flavour = 'plain',
    ownTest = false,
  } = { ...mistakes[title], ...other };
  const kernels = join(folder, 'kernels');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(join(root, 'kernels'), kernels, { recursive: true });
  const path = join(kernels, file);
  const text = readFileSync(path, 'utf8');
  if (text.split(from).length !== 2) throw new Error(`${title}: ${file} does not have, once: ${from}`);
  writeFileSync(
    path,
    text.replace(from, () => to),
  );
  const parts = ['test/cuda-emulator/kernels_test.cc', 'test/native/check.h'];
  if (ownTest) for (const part of parts) cpSync(join(root, part), join(folder, part));
  const test = ownTest ? { test: join(folder, parts[0]) } : {};
  const program = await buildKernelsTest(flavour, { kernels, only: compile, out: folder, ...test });
  const { status, signal, stderr } = spawnSync(program, [String(cases), String(schedules), ...tests], {
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...process.env, SONDE_EMULATE_SM: sm, ASAN_OPTIONS: 'detect_leaks=0' },
  });
  if (status === 0) return null;
  const said = stderr
    .split('\n')
    .find((line) => /WRONG|emulator:|ERROR: AddressSanitizer|runtime error|WARNING: ThreadSanitizer/.test(line));
  return said ?? signal ?? `exit code ${status}`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const words = process.argv.slice(2);
  for (const title of Object.keys(mistakes)) {
    if (words.length > 0 && !words.some((word) => title.includes(word))) continue;
    const said = await find(title, join(root, 'build-emulator', 'mistake'));
    console.log(`${said ? 'found    ' : 'NOT FOUND'} ${title}${said ? `: ${said}` : ''}`);
    if (!said) process.exitCode = 1;
  }
}
