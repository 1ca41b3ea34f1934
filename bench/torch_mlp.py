"""PyTorch's side of bench_mlp.c: small dense models and the LoRA branch alone, with the same cases and the same protocol.

usage: torch_mlp.py [THREADS]     reads lines "CASE SECONDS" and answers each with one line of JSON
"""
import json
import os
import statistics
import sys
import time
from typing import Callable

import torch
from torch import Tensor, nn

BATCH, CLASSES, INPUTS, SCALE = 64, 10, 784, 2.0
NARROW = {512: 256, 2048: 1024}


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x)) * SCALE


def mlp_case(wide: int, direction: str, weights: str) -> Callable[[], float]:
    sizes = [INPUTS, wide, NARROW[wide], CLASSES]
    linears: list[nn.Module] = [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]
    if weights == "lora":
        linears = [LoRA(linear, 8) for linear in linears]
    model = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2])
    x, labels = torch.randn(BATCH, INPUTS), torch.arange(BATCH) % CLASSES

    def forward() -> float:
        with torch.no_grad():
            model(x)
        return 0.0

    def backward() -> float:
        for parameter in model.parameters():
            parameter.grad = None
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        return loss.item()

    return backward if direction == "backward" else forward


def branch_case(width: int, rank: int, direction: str) -> Callable[[], float]:
    a, b = torch.randn(rank, width, requires_grad=True), torch.randn(width, rank, requires_grad=True)
    x = torch.randn(4, BATCH // 4, width)

    def forward() -> float:
        with torch.no_grad():
            (x @ a.t()) @ b.t() * SCALE
        return 0.0

    def backward() -> float:
        a.grad = b.grad = None
        ((x @ a.t()) @ b.t() * SCALE).sum().backward()
        return 0.0

    return backward if direction == "backward" else forward


def make_case(name: str) -> Callable[[], float]:
    kind, first, second = name.split("-")
    if kind.startswith("mlp"):
        return mlp_case(int(kind[3:]), first, second)
    return branch_case(int(kind[6:]), int(first[1:]), second)


def measure(name: str, run: Callable[[], float], seconds: float) -> None:
    times: list[float] = []
    run()
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        loss = run()
        times.append(time.perf_counter() - start)
    print(json.dumps({"case": name, "seconds": statistics.median(times), "fastest": min(times), "runs": len(times),
                      "loss": loss}), flush=True)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1)
    torch.manual_seed(0)
    cases: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        name, seconds = line.split()
        if name not in cases:
            cases[name] = make_case(name)
        measure(name, cases[name], float(seconds))


if __name__ == "__main__":
    main()
