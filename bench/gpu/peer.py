"""PyTorch's side of the GPU benchmarks: the cases of cases.ts, as plain PyTorch does them. compare.ts starts it and asks, a line of
JSON for a line of JSON (worker.ts). Without a GPU it computes on the CPU."""
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# vocabulary, positions, width, layers, heads: as sonde's random models
MODELS = {"gpt2-small": (50257, 1024, 768, 12, 12), "tiny": (50257, 128, 64, 2, 4)}


def dtype_of(spec):
    return getattr(torch, spec["dtype"])


def normal(shape, dtype, std=1.0):
    return (torch.randn(shape, device=device) * std).to(dtype)


def synchronize():
    if device.type == "cuda":
        torch.cuda.synchronize()


def spread(n, count):
    """Places at the beginning, in the middle and at the end."""
    if n <= 3 * count:
        return torch.arange(n, device=device)
    return torch.cat([torch.arange(at, at + count, device=device) for at in (0, n // 2, n - count)])


def relative_error(got, exact):
    return (torch.linalg.vector_norm(got.double() - exact) / torch.linalg.vector_norm(exact)).item()


def linear(spec):
    dtype, rows, k, n = dtype_of(spec), spec["rows"], spec["k"], spec["n"]
    x, w = normal((rows, k), dtype), normal((n, k), dtype, k**-0.5)  # a linear layer's layout
    tf32 = "high" if spec["precision"] == "tf32" else "highest"  # highest: no TF32
    bias = normal((n,), dtype)
    residual = normal((rows, n), dtype) if spec["fused"] == "residual" else None
    out = torch.empty((rows, n), dtype=dtype, device=device)

    def run():
        torch.set_float32_matmul_precision(tf32)
        if spec["fused"] == "nothing":
            return torch.mm(x, w.t(), out=out)
        y = F.linear(x, w, bias)
        return F.gelu(y, approximate="tanh") if spec["fused"] == "gelu" else residual + y

    def error():
        got = run()
        i, j = spread(rows, 24), spread(n, 40)
        exact = x[i].double() @ w[j].double().t()
        if spec["fused"] != "nothing":
            exact = exact + bias[j].double()
        if spec["fused"] == "gelu":
            exact = F.gelu(exact, approximate="tanh")
        if spec["fused"] == "residual":
            exact = exact + residual[i][:, j].double()
        return relative_error(got[i][:, j], exact)

    return run, error


def encode(spec):
    dtype, rows, k, n = dtype_of(spec), spec["rows"], spec["k"], spec["n"]
    x, w = normal((rows, k), dtype), normal((n, k), dtype, k**-0.5)

    def run():
        torch.set_float32_matmul_precision("highest")
        latents = F.linear(x, w)
        return torch.topk(latents, spec["top"]) if spec["top"] else F.relu(latents)

    return run, None


def attention(spec):
    shape = (spec["batch"], spec["length"], 3, spec["heads"], spec["channels"])
    q, k, v = (t.transpose(1, 2) for t in normal(shape, dtype_of(spec)).unbind(2))

    def run():
        torch.set_float32_matmul_precision("highest")
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def error():
        got, length = run(), spec["length"]
        places = spread(length, 8)
        mask = torch.arange(length, device=device) <= places[:, None]
        parts, exact = [], []
        for b, h in ((0, 0), (-1, -1)):
            scores = q[b, h, places].double() @ k[b, h].double().t() / math.sqrt(spec["channels"])
            parts.append(got[b, h, places])
            exact.append(torch.softmax(scores.masked_fill(~mask, -math.inf), -1) @ v[b, h].double())
        return relative_error(torch.cat(parts), torch.cat(exact))

    return run, error


def rowwise(spec):
    op, dtype, shape = spec["op"], dtype_of(spec), (spec["rows"], spec["width"])
    x, y = normal(shape, dtype), normal(shape, dtype)
    gain, bias = normal(shape[1:], dtype), normal(shape[1:], dtype)
    out = torch.empty_like(x)

    def add_layer_norm():
        total = x + y
        return total, F.layer_norm(total, shape[1:], gain, bias)

    runs = {
        "copy": lambda: out.copy_(x),
        "transpose": lambda: x.t().contiguous(),
        "convert": lambda: x.to(torch.bfloat16),
        "add": lambda: x + y,
        "gelu": lambda: F.gelu(x, approximate="tanh"),
        "layerNorm": lambda: F.layer_norm(x, shape[1:], gain, bias),
        "addLayerNorm": add_layer_norm,
        "softmax": lambda: torch.softmax(x, -1),
    }
    return runs[op], None


def embedding(spec):
    table = normal((spec["table"], spec["width"]), dtype_of(spec))
    indices = torch.randint(0, spec["table"], (spec["rows"],), device=device)
    return lambda: F.embedding(indices, table), None


def read(spec):
    x = torch.randint(-(2**31), 2**31 - 1, (spec["bytes"] // 4,), dtype=torch.int32, device=device)
    if not spec["fast"] or device.type == "cpu":
        return x.cpu, None
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)

    def into():
        host.copy_(x, non_blocking=True)
        synchronize()

    return into, None


def launch(spec):
    x = torch.zeros(16, device=device)

    def run():
        for _ in range(spec["calls"]):
            x.add_(1)

    return run, None


def forward(spec):
    """GPT-2 as one would write it today, on random weights."""
    dtype = dtype_of(spec)
    vocabulary, positions, d, layers, heads = MODELS[spec["model"]]
    wte, wpe = normal((vocabulary, d), dtype, 0.02), normal((positions, d), dtype, 0.02)
    unembed = normal((vocabulary, d), dtype, 0.02)
    norm = lambda: (torch.ones(d, dtype=dtype, device=device), torch.zeros(d, dtype=dtype, device=device))
    weights = lambda n, k: (normal((n, k), dtype, 0.02), torch.zeros(n, dtype=dtype, device=device))
    blocks = [(norm(), weights(3 * d, d), weights(d, d), norm(), weights(4 * d, d), weights(d, 4 * d)) for _ in range(layers)]
    last = norm()
    batch, length = spec["batch"], spec["length"]
    tokens = (torch.arange(batch * length, device=device) * 7919 % vocabulary).view(batch, length)
    until = None if spec["until"] == "logits" else int(spec["until"].split("/")[0])

    def run():
        torch.set_float32_matmul_precision("highest")
        x = wte[tokens] + wpe[:length]
        for i, (ln1, qkv, out, ln2, up, down) in enumerate(blocks):
            q, k, v = F.linear(F.layer_norm(x, (d,), *ln1), *qkv).split(d, -1)
            q, k, v = (t.view(batch, length, heads, d // heads).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, d), *out)
            hidden = F.gelu(F.linear(F.layer_norm(x, (d,), *ln2), *up), approximate="tanh")
            delta = F.linear(hidden, *down)
            if i == until:
                return delta
            x = x + delta
        return F.linear(F.layer_norm(x, (d,), *last), unembed)

    return run, None


KINDS = {
    "linear": linear,
    "encode": encode,
    "attention": attention,
    "embedding": embedding,
    "read": read,
    "launch": launch,
    "forward": forward,
}
prepared = []


def repeat(run, repetitions):
    synchronize()
    start = time.perf_counter()
    for _ in range(repetitions):
        run()
    synchronize()
    return (time.perf_counter() - start) / repetitions


def answer(request):
    what = request["do"]
    if what == "describe":
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return {"text": f"PyTorch {torch.__version__} on {name}"}
    if what == "prepare":
        torch.manual_seed(request["seed"])
        spec = request["spec"]
        run, error = KINDS.get(spec["op"], rowwise)(spec)
        repeat(run, 1)
        prepared.append(run)
        return {"prepared": len(prepared) - 1, **({"error": error()} if error else {})}
    if what == "time":
        run = prepared[request["prepared"]]
        repeat(run, 1)  # the clock of an idle GPU is low
        return {"seconds": repeat(run, request["repetitions"])}
    prepared.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the other side is on the same GPU
    return {}


def main():
    with torch.inference_mode():
        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except Exception as error:  # told, so that the other cases go on
                reply = {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}
            if not math.isfinite(reply.get("error", 0)):
                reply["error"] = None
            print(json.dumps(reply), flush=True)


main()
