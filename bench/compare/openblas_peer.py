"""OpenBLAS' side of the benchmarks: sgemm, through its C interface. OPENBLAS names the library, else the system's is taken."""
import ctypes
import os
import random

from peer import serve

library = ctypes.CDLL(os.environ.get("OPENBLAS", "libopenblas.so.0"))
library.openblas_get_config.restype = library.openblas_get_corename.restype = ctypes.c_char_p
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def describe():
    config, core = library.openblas_get_config().decode(), library.openblas_get_corename().decode()
    return f"{' '.join(config.split()[:2])}, {core} kernels, {library.openblas_get_num_threads()} threads"


def floats(count):
    block = (ctypes.c_float * 4093)(*(random.uniform(-1, 1) for _ in range(4093)))
    out = (ctypes.c_float * count)()
    for at in range(0, count, 4093):
        ctypes.memmove(ctypes.byref(out, 4 * at), block, 4 * min(4093, count - at))
    return out


def prepare(spec, seed):
    random.seed(seed)
    m, n, k = spec["rows"], spec["n"], spec["k"]
    if spec["op"] != "linear" or spec["dtype"] != "float32" or spec["fused"] != "nothing":
        raise ValueError("only plain products of float32")
    a, b, c = floats(m * k), floats(n * k), floats(m * n)  # b [n, k], as a linear layer holds it
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    return lambda: library.cblas_sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, m, n, k, one, a, k, b, k, zero, c, n), None


serve(describe, prepare)
