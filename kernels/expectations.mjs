// What the machine code of the hot kernels is expected to be, checked where there is a disassembler: no GPU is needed to see that an
// epilogue has grown or stores element by element.

/** Instructions of an epilogue with bias and GELU for each 16 values of a thread, at most. */
export const mostInstructions = 250;
// Three warpgroups share a multiprocessor's 65,536 registers before they hand some over.
const mostRegistersOfHopper = 168;

const product =
  /(hopper|mma)_kernelILb([01])E.*?5DenseI(f|NS_4Bf16E|NS_4HalfE)LNS_10ActivationE(\d)ELb([01])ELb([01])E/;
const gelu = '2';

/** What a mangled name says of a product kernel with a dense epilogue; undefined for other kernels. `values`: those that a thread holds. */
export function productOf(name) {
  const found = product.exec(name);
  if (!found) return undefined;
  const [, kind, split, type, activation, residual, planes] = found;
  const values = kind === 'hopper' && split === '0' ? 128 : 64;
  const bytes = type === 'f' ? 4 : 2;
  return { kind, values, bytes, gelu: activation === gelu, residual: residual === '1', planes: planes === '1' };
}

/** The instructions of the epilogue for each 16 values of a thread. */
export const instructionsFor16 = ({ epilogue }, { values }) => (epilogue.instructions / values) * 16;

/**
 * What is not as it should be, a line each: [] if all is well. kernels: of parseCompilerLog(), code: of disassemble(). Kernels that have
 * no code for their architecture (Hopper's on others) are left out.
 */
export function shortcomings(kernels, code) {
  const registers = new Map(kernels.map(({ arch, name, registers }) => [`${arch} ${name}`, registers]));
  return code
    .filter(({ tensor }) => tensor > 0)
    .flatMap((kernel) => {
      const faults = [...ofProduct(kernel), ...ofAttention(kernel)];
      const used = registers.get(`${kernel.arch} ${kernel.name}`);
      if (/hopper/.test(kernel.name) && used > mostRegistersOfHopper) {
        faults.push(`${used} registers, at most ${mostRegistersOfHopper} expected`);
      }
      return faults.map((fault) => ({ arch: kernel.arch, name: kernel.name, fault }));
    });
}

function ofProduct(kernel) {
  const dense = productOf(kernel.name);
  if (!dense) return [];
  const faults = [];
  const each = instructionsFor16(kernel, dense);
  if (dense.gelu && !dense.residual && !dense.planes && each > mostInstructions) {
    faults.push(`${Math.ceil(each)} instructions in the epilogue for 16 values, at most ${mostInstructions} expected`);
  }
  const vectors = (dense.values * dense.bytes) / 16;
  const stores = kernel.epilogue.stores[128] ?? 0;
  if (stores < vectors) faults.push(`${stores} stores of 128 bits in the epilogue, ${vectors} expected`);
  if (dense.residual && kernel.vectors.loads < vectors) {
    faults.push(`${kernel.vectors.loads} loads of 128 bits, ${vectors} expected for the residual`);
  }
  return faults;
}

// The last flag of attention_kernel is whether 16 bytes of keys and values can be copied at once: where they can not, loading takes branches.
function ofAttention({ name, steps, vectors }) {
  if (!/attention_kernel/.test(name) || /attention_kernel.*ELi\d+ELb0EEE/.test(name)) return [];
  const faults = [];
  const fewest = Math.min(...steps.map(({ branches }) => branches));
  if (steps.length === 0) faults.push('no step without a mask');
  else if (fewest > 0) faults.push(`${fewest} branches in the step without a mask, none expected`);
  if (vectors.stores === 0) faults.push('no store of 128 bits');
  return faults;
}
