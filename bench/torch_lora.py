"""PyTorch's side of the comparison: LoRA steps of a Llama or Qwen2 checkpoint as Hugging Face and PEFT run them on a CPU.

usage: torch_lora.py MODEL DATA BATCH STEPS q,v|all RANK THREADS     prints one line of JSON per step

Eager attention with a mask, all tokens' logits in f32 whatever is labelled (as transformers computes them), cross-entropy,
clipping, AdamW. The frozen base has no gradients, and none goes below the first adapter: autograd sees to that.
"""
import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED, ALPHA = -100, 16.0


def read_tensors(path: str) -> dict[str, Tensor]:
    tensors = {}
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            if entry["dtype"] == "BF16":  # widened to f32, as transformers does unless told otherwise
                values = (np.fromfile(file, np.uint16, (end - begin) // 2).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.fromfile(file, np.float32, (end - begin) // 4)
            tensors[name] = torch.from_numpy(values).view(entry["shape"])
    return tensors


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class Linear(nn.Module):
    """y = W x + b, and alpha / r B A x when there is an adapter."""

    def __init__(self, tensors: dict[str, Tensor], name: str, rank: int):
        super().__init__()
        bias = tensors.get(name + ".bias")
        self.weight = frozen(tensors[name + ".weight"])
        self.bias = None if bias is None else frozen(bias)
        self.rank = rank
        if rank:
            self.a = nn.Linear(self.weight.shape[1], rank, bias=False)
            self.b = nn.Linear(rank, self.weight.shape[0], bias=False)
            nn.init.kaiming_uniform_(self.a.weight, a=math.sqrt(5))
            nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y + self.b(self.a(x)) * (ALPHA / self.rank) if self.rank else y


class Norm(nn.Module):
    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight, self.eps = frozen(weight), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Block(nn.Module):
    def __init__(self, tensors: dict[str, Tensor], config: dict, prefix: str, targets: str, rank: int):
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
            for name in names:
                on = targets == "all" or name in targets.split(",")
                setattr(self, name, Linear(tensors, f"{prefix}{part}.{name}_proj", rank if on else 0))
        self.norm1 = Norm(tensors[prefix + "input_layernorm.weight"], config["rms_norm_eps"])
        self.norm2 = Norm(tensors[prefix + "post_attention_layernorm.weight"], config["rms_norm_eps"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        size = width // self.heads

        def by_heads(y: Tensor, heads: int) -> Tensor:
            return y.view(batch, tokens, heads, size).transpose(1, 2)

        y = self.norm1(x)
        q = rotated(by_heads(self.q(y), self.heads), cos, sin)
        k = rotated(by_heads(self.k(y), self.kv_heads), cos, sin)
        v = by_heads(self.v(y), self.kv_heads)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        shares = F.softmax(q @ k.transpose(2, 3) / math.sqrt(size) + mask, -1)
        x = x + self.o((shares @ v).transpose(1, 2).reshape(batch, tokens, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self, folder: str, targets: str, rank: int):
        super().__init__()
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        tensors = read_tensors(os.path.join(folder, "model.safetensors"))
        self.embedding = frozen(tensors["model.embed_tokens.weight"])
        self.blocks = nn.ModuleList(Block(tensors, self.config, f"model.layers.{layer}.", targets, rank)
                                    for layer in range(self.config["num_hidden_layers"]))
        self.norm = Norm(tensors["model.norm.weight"], self.config["rms_norm_eps"])

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        tokens, size = ids.shape[1], self.config["hidden_size"] // self.config["num_attention_heads"]
        rates = self.config["rope_theta"] ** -(torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(tokens), rates).repeat(1, 2)
        mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        logits = F.linear(self.norm(x), self.embedding)
        return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1),
                               ignore_index=IGNORED)


def main() -> None:
    if len(sys.argv) != 8:
        sys.exit(__doc__)
    folder, data, batch, steps, targets, rank, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    with open(data) as file:
        rows = [json.loads(line) for line in file]
    model = Model(folder, targets, int(rank))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for step in range(int(steps)):
        begin = time.perf_counter()
        part = [rows[(step * int(batch) + i) % len(rows)] for i in range(int(batch))]
        ids, labels = (torch.tensor([row[key] for row in part]) for key in ("input_ids", "labels"))
        loss = model(ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"step": step + 1, "loss": loss.item(), "seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
