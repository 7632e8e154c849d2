"""PyTorch's side of the benchmarks: the specs of spec.ts, as plain PyTorch does them. Without a GPU it computes on the CPU."""
import math
import os
import tempfile
import time

import torch
import torch.nn.functional as F

from peer import serve

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
    """Indices at the beginning, in the middle and at the end."""
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
        positions = spread(length, 8)
        mask = torch.arange(length, device=device) <= positions[:, None]
        parts, exact = [], []
        for b, h in ((0, 0), (-1, -1)):
            scores = q[b, h, positions].double() @ k[b, h].double().t() / math.sqrt(spec["channels"])
            parts.append(got[b, h, positions])
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


def elementwise(spec):
    x, y = (normal((spec["rows"], spec["width"]), dtype_of(spec)) for _ in range(2))
    runs = {"add": lambda: x + y, "exp": lambda: x.exp(), "gt": lambda: x > 0.5}
    return runs[spec["kind"]], None


def reduce(spec):
    x = normal((spec["rows"], spec["width"]), dtype_of(spec)) + 1
    dims = (0, 1) if spec["over"] == "all" else (0,)
    runs = {"sum": torch.sum, "max": torch.amax, "var": torch.var}
    return lambda: runs[spec["kind"]](x, dim=dims), None


def cross_entropy(spec):
    logits = normal((spec["rows"], spec["width"]), dtype_of(spec))
    targets = torch.randint(0, spec["width"], (spec["rows"],), device=device)
    return lambda: F.cross_entropy(logits, targets, reduction="none"), None


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


class Model:
    """GPT-2 as one would write it today, on random weights."""

    def __init__(self, spec):
        dtype = dtype_of(spec)
        vocabulary, positions, d, layers, heads = MODELS[spec["model"]]
        norm = lambda: (torch.ones(d, dtype=dtype, device=device), torch.zeros(d, dtype=dtype, device=device))
        weights = lambda n, k: (normal((n, k), dtype, 0.02), torch.zeros(n, dtype=dtype, device=device))
        block = lambda: (norm(), weights(3 * d, d), weights(d, d), norm(), weights(4 * d, d), weights(d, 4 * d))
        self.wte, self.wpe = normal((vocabulary, d), dtype, 0.02), normal((positions, d), dtype, 0.02)
        self.unembed = normal((vocabulary, d), dtype, 0.02)
        self.blocks, self.last = [block() for _ in range(layers)], norm()
        self.d, self.heads, self.vocabulary = d, heads, vocabulary

    def parameters(self):
        blocks = [weight for block in self.blocks for pair in block for weight in pair]
        return [self.wte, self.wpe, *blocks, *self.last, self.unembed]

    def run(self, tokens, until=None, cache=None, last=False, before=lambda layer, x: x, see=lambda layer, delta: None):
        """Logits (`last`: of the last position), or the update of layer `until`'s MLP. `cache`: a list of (k, v) per layer,
        which grows. `before` may replace the residual stream before a layer, and `see` gets the update of each MLP."""
        torch.set_float32_matmul_precision("highest")
        d, (batch, length) = self.d, tokens.shape
        start = cache[0][0].shape[2] if cache and cache[0] else 0
        x = F.embedding(tokens, self.wte) + self.wpe[start : start + length]
        for i, (ln1, qkv, out, ln2, up, down) in enumerate(self.blocks):
            x = before(i, x)
            q, k, v = F.linear(F.layer_norm(x, (d,), *ln1), *qkv).split(d, -1)
            q, k, v = (t.view(batch, length, self.heads, d // self.heads).transpose(1, 2) for t in (q, k, v))
            if cache is not None:
                if cache[i]:
                    k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
                cache[i] = (k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=start == 0)
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, d), *out)
            hidden = F.gelu(F.linear(F.layer_norm(x, (d,), *ln2), *up), approximate="tanh")
            delta = F.linear(hidden, *down)
            see(i, delta)
            if i == until:
                return delta
            x = x + delta
        if last or cache is not None:
            x = x[:, -1:]
        return F.linear(F.layer_norm(x, (d,), *self.last), self.unembed)

    def tokens(self, batch, length):
        return (torch.arange(batch * length, device=device) * 7919 % self.vocabulary).view(batch, length)


def forward(spec):
    model = Model(spec)
    tokens = model.tokens(spec["batch"], spec["length"])
    until = None if spec["until"] == "logits" else int(spec["until"].split("/")[0])
    return lambda: model.run(tokens, until), None


@torch.inference_mode(False)
@torch.enable_grad()
def gradients(spec):
    model, of, last = Model(spec), spec["of"], spec["loss"] == "last"
    tokens = model.tokens(spec["batch"], spec["length"])
    targets = tokens[:, :1] if last else tokens.roll(-1, 1)
    if not last:
        targets[:, -1] = -100  # ignored: nothing comes next
    parameters = model.parameters() if of == "parameters" else []
    for weight in parameters:
        weight.requires_grad_()

    def loss_of(before):
        logits = model.run(tokens, last=last, before=before)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.inference_mode(False)
    @torch.enable_grad()
    def both():
        """Seconds of the way back, and the stream with its gradient; no stream, if it is the parameters that have one."""
        leaf = None

        def before(layer, x):
            nonlocal leaf
            if layer == of:
                leaf = x = x.requires_grad_()
            return x

        loss = loss_of(before)
        synchronize()
        start = time.perf_counter()
        loss.backward()
        synchronize()
        seconds = time.perf_counter() - start
        for weight in parameters:
            weight.grad = None
        return seconds, leaf

    def error():
        """Of the gradient's length, by a step to both sides along it."""
        _, x = both()
        length = x.grad.norm()
        step = x.grad * (0.002 * x.norm() / length)
        up, down = (loss_of(lambda layer, x: x + sign * step if layer == of else x) for sign in (1, -1))
        return abs((up - down).item() / (2 * step.norm() * length).item() - 1)

    checked = None if of == "parameters" else error
    return (both, checked) if spec["timed"] == "forward and backward" else (both, checked, lambda: both()[0])


def sparse(latents, top):
    """Ends of the rows, columns, values: with the fastest of nonzero, to_sparse and to_sparse_csr."""
    if top:
        values, columns = torch.topk(latents, top)
        fired = values > 0
        ends, columns, values = fired.sum(-1).cumsum(0), columns[fired], values[fired]
    else:
        F.threshold_(latents, 3.1, 0.0)
        rows, columns = latents.nonzero(as_tuple=True)
        ends, values = torch.bincount(rows, minlength=len(latents)).cumsum(0), latents[rows, columns]
    return ends, columns.to(torch.int32), values.float()


def encoder_for(delta, spec):
    """Random weights for rows like those of delta, with biases that make about spec["active"] latents of a row active if that
    is given: -(mean + c std) of each latent's sums, with the same c for all."""
    weight = normal((spec["latents"], delta.shape[-1]), dtype_of(spec), delta.shape[-1] ** -0.5)
    if "active" not in spec:
        return weight, None
    sums = F.linear(F.layer_norm(delta, delta.shape[-1:]).flatten(0, 1), weight).float()
    mean, std = sums.mean(0), sums.std(0)
    scores = (sums[:: max(1, len(sums) // 16)] - mean) / std
    c = scores.flatten().topk(spec["active"] * len(scores)).values[-1]
    return weight, -(mean + c * std).to(dtype_of(spec))


def dump(spec):
    """An expert's loop: it stops at the layer, and appends to files as it goes."""
    model, layer = Model(spec), int(spec["until"].split("/")[0])
    batch, length = spec["batch"], spec["length"]
    rows = model.tokens(spec["rows"], length)
    folder = tempfile.TemporaryDirectory()
    wanted = range(layer + 1) if spec.get("everyLayer") else [layer]
    encoders = {}

    def make(i, delta):
        if spec["latents"] and i in wanted:
            encoders[i] = encoder_for(delta, spec)

    model.run(rows[:batch], layer, see=make)

    def run():
        with open(os.path.join(folder.name, "dump"), "wb") as file:

            def store(i, delta):
                if i not in wanted:
                    return
                if i in encoders:
                    latents = F.linear(F.layer_norm(delta, delta.shape[-1:]).flatten(0, 1), *encoders[i])
                    parts = sparse(latents, spec["top"])
                else:
                    parts = [delta.float()]
                for part in parts:
                    file.write(memoryview(part.cpu().numpy()).cast("B"))

            for start in range(0, spec["rows"], batch):
                model.run(rows[start : start + batch], layer, see=store)
            file.flush()
            os.fsync(file.fileno())

    return run, None


def sample(spec):
    model = Model(spec)
    prompt = model.tokens(1, 8)

    def run():
        cache, now = [None] * len(model.blocks), prompt
        for _ in range(spec["tokens"]):
            now = torch.multinomial(torch.softmax(model.run(now, cache=cache)[:, -1].float(), -1), 1)
            now.item()

    return run, None


KINDS = {
    "linear": linear,
    "encode": encode,
    "attention": attention,
    "elementwise": elementwise,
    "reduce": reduce,
    "crossEntropy": cross_entropy,
    "embedding": embedding,
    "read": read,
    "launch": launch,
    "forward": forward,
    "gradients": gradients,
    "dump": dump,
    "sample": sample,
}


def describe():
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"PyTorch {torch.__version__} on {name}"


def prepare(spec, seed):
    torch.manual_seed(seed)
    return KINDS.get(spec["op"], rowwise)(spec)


def drop():
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the other side is on the same GPU


with torch.inference_mode():
    serve(describe, prepare, synchronize=synchronize, drop=drop)
