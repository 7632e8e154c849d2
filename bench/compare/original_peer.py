"""The original implementation's side of the benchmarks: neuron_explainer.models of openai/transformer-debugger, from the checkout
that ORIGINAL names, on random weights."""
import os
import sys
import tempfile
import types

import torch

from peer import serve

# stand-ins for what it imports to fetch files and to tokenise; neither is needed here
tokenizer = types.ModuleType("tiktoken")
tokenizer.get_encoding = lambda name: types.SimpleNamespace(n_vocab=50257)
files = types.ModuleType("neuron_explainer.file_utils")
files.CustomFileHandler = files.copy_to_local_cache = files.file_exists = None
sys.modules["tiktoken"], sys.modules["neuron_explainer.file_utils"] = tokenizer, files
sys.path.insert(0, os.environ["ORIGINAL"])
from neuron_explainer.models.hooks import TransformerHooks  # noqa: E402
from neuron_explainer.models.transformer import Transformer, TransformerConfig  # noqa: E402

SIZES = {"gpt2-small": dict(ctx_window=1024, d_model=768, n_layers=12, n_heads=12)}


def model_of(spec):
    if spec["dtype"] != "float32":
        raise ValueError("only float32")
    return Transformer(TransformerConfig(**SIZES[spec["model"]]), device="cpu", dtype=torch.float32).eval()


def tokens_of(model, rows, length):
    return (torch.arange(rows * length) * 7919 % model.n_vocab).view(rows, length)


def forward(spec):
    if spec["until"] != "logits":
        raise ValueError("it cannot stop early")
    model = model_of(spec)
    tokens = tokens_of(model, spec["batch"], spec["length"])
    return lambda: model(tokens), None


def dump(spec):
    if spec["latents"]:
        raise ValueError("only activations")
    model, layer = model_of(spec), int(spec["until"].split("/")[0])
    rows, batch = tokens_of(model, spec["rows"], spec["length"]), spec["batch"]
    folder = tempfile.TemporaryDirectory()

    def run():
        with open(os.path.join(folder.name, "dump"), "wb") as file:

            def write(x, layer, **rest):
                if layer == wanted:
                    file.write(memoryview(x.numpy()).cast("B"))
                return x

            wanted = layer
            hooks = TransformerHooks()
            hooks.append_to_path("resid.torso.delta_mlp.fwd", write)
            for start in range(0, spec["rows"], batch):
                model(rows[start : start + batch], hooks=hooks)
            file.flush()
            os.fsync(file.fileno())

    return run, None


def prepare(spec, seed):
    torch.manual_seed(seed)
    return {"forward": forward, "dump": dump}[spec["op"]](spec)


with torch.inference_mode():
    serve(lambda: f"the original on PyTorch {torch.__version__}, {torch.get_num_threads()} threads", prepare)
