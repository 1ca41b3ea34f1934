"""Tenon beside PyTorch on this machine, in alternating runs.

usage: compare.py ROW... [--threads N] [--rounds N] [--steps N] [--build DIR] [--matmul-precision f32|bf16]
                         [--weights f32|bf16] [--checkpointing MODE]
       compare.py --report             the results so far as the tables of docs/benchmarks.md

Rows: smol-qv smol-all qwen-qv qwen-qv-25 dora mlp lora-branch, or all. Each writes BUILD/compare/ROW.json. With
--matmul-precision bf16 tenon rounds the operands of its products, PyTorch does not, Qwen's weights are stored in bf16 as its
checkpoint has them unless --weights says otherwise, and the file is ROW.bf16.json. --checkpointing is tenon's option.
Needs numpy and torch (make bench-setup) and a built tenon.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))

# ROW: shape, batch, tokens, share of positions labelled, targets, rank, least speed and most memory against PyTorch.
TRAINING = {
    "smol-qv": ("smol", 4, 256, 1.0, "q,v", 8, 3.0, 1 / 5),
    "smol-all": ("smol", 4, 256, 1.0, "all", 16, 3.0, 1 / 5),
    "qwen-qv": ("qwen", 1, 512, 1.0, "q,v", 8, 3.0, 1 / 4),
    "qwen-qv-25": ("qwen", 1, 512, 0.25, "q,v", 8, 3.5, 1 / 5),
}
DORA = ("smol", 4, 256, 1.0, "q,v", 8, 1 / 1.25, 1.1)  # against our own LoRA
TARGETS = {"q,v": "q_proj,v_proj", "all": "all-linear"}
SMALL = {
    "mlp": [f"mlp{wide}-{case}" for wide in (512, 2048) for case in (
        "forward-full", "forward-lora", "forward-merged", "backward-full", "backward-lora")],
    "lora-branch": [f"branch{shape}-{case}" for shape in ("512-r8", "1024-r8", "2048-r8", "512-r16")
                    for case in ("forward", "backward")],
}
SMALL_SPEED = 2.0
TURN_SECONDS, QUIET, MOST_TRIES = 0.2, 0.1, 3  # a turn is repeated when others take more than QUIET of the machine
ROWS = [*TRAINING, "dora", *SMALL]


def ticks_of_machine() -> int:
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft_irq, steal = map(int, file.readline().split()[1:9])
    return user + nice + system + irq + soft_irq + steal


def ticks_of(process: int) -> int:
    with open(f"/proc/{process}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


def quiet_turn(side: subprocess.Popen, case: str) -> dict[str, Any]:
    """One answer, while other processes leave the machine alone; the quietest of MOST_TRIES when they never do."""
    turns: list[dict[str, Any]] = []
    while len(turns) < MOST_TRIES:
        machine_ticks, own_ticks, start = ticks_of_machine(), ticks_of(side.pid), time.monotonic()
        print(case, TURN_SECONDS, file=side.stdin, flush=True)
        turn = json.loads(side.stdout.readline())
        all_ticks = (time.monotonic() - start) * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
        turn["others"] = (ticks_of_machine() - machine_ticks - ticks_of(side.pid) + own_ticks) / all_ticks
        turns.append(turn)
        if turn["others"] <= QUIET:
            break
        time.sleep(0.2)
    return min(turns, key=lambda turn: turn["others"])


class Run:
    """One process: its steps, the most memory it had resident, and the share of the machine that others took meanwhile."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        ticks, start = ticks_of_machine(), time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"compare.py: exit code {process.returncode} of {' '.join(command)}")
        self.peak_bytes = usage.ru_maxrss * 1024
        used = (ticks_of_machine() - ticks) / os.sysconf("SC_CLK_TCK") - usage.ru_utime - usage.ru_stime
        self.others = used / (time.monotonic() - start) / (os.cpu_count() or 1)
        self.steps: list[dict[str, Any]] = []

    def read_steps(self, lines: str) -> "Run":
        self.steps = [step for step in map(json.loads, lines.splitlines()) if "seconds" in step]
        return self

    def seconds(self) -> list[float]:
        return [step["seconds"] for step in self.steps[1:]]  # the first step warms up


class Bench:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.rounds = arguments.matmul_precision == "bf16"
        self.folder = os.path.join(arguments.build, "compare")
        self.tenon = os.path.join(arguments.build, "tenon")
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads),
                                OPENBLAS_NUM_THREADS=str(arguments.threads))
        os.makedirs(self.folder, exist_ok=True)

    def make(self, path: str, made: str, *command: str) -> str:
        """Files are made by a process of their own: a child's peak memory begins with its parent's."""
        if not os.path.exists(os.path.join(self.folder, made)):
            subprocess.run([sys.executable, os.path.join(HERE, "checkpoint.py"), *command], check=True)
        return os.path.join(self.folder, path)

    def model(self, shape: str) -> str:
        bf16 = self.rounds and shape == "qwen" if self.arguments.weights is None else self.arguments.weights == "bf16"
        name = shape + "-bf16" if bf16 else shape
        return self.make(name, f"{name}/model.safetensors", shape, os.path.join(self.folder, name), *["bf16"][:bf16])

    def data(self, shape: str, tokens: int, labelled: float, rows: int = 64) -> str:
        name = f"{shape}-{tokens}-{labelled}.jsonl"
        return self.make(name, name, shape, os.path.join(self.folder, name), str(rows), str(tokens), str(labelled))

    def run_torch(self, row: tuple) -> Run:
        shape, batch, tokens, labelled, targets, rank = row[:6]
        a = self.arguments
        run = Run([sys.executable, os.path.join(HERE, "torch_lora.py"), self.model(shape),
                   self.data(shape, tokens, labelled), str(batch), str(a.steps), targets, str(rank), str(a.threads)],
                  self.environment)
        return run.read_steps(run.output)

    def run_tenon(self, row: tuple, method: str = "lora") -> Run:
        shape, batch, tokens, labelled, targets, rank = row[:6]
        a, out = self.arguments, os.path.join(self.folder, "out")
        metrics = os.path.join(out, "metrics.jsonl")
        if os.path.exists(metrics):
            os.remove(metrics)
        run = Run([self.tenon, "train", "--model", self.model(shape), "--data", self.data(shape, tokens, labelled),
                   "--out", out, "--method", method, "--rank", str(rank), "--target-modules", TARGETS[targets],
                   "--batch-size", str(batch), "--steps", str(a.steps), "--no-shuffle", "--valid-fraction", "0",
                   "--threads", str(a.threads), "--matmul-precision", a.matmul_precision,
                   "--checkpointing", a.checkpointing], self.environment)
        with open(metrics) as file:
            return run.read_steps(file.read())

    def training_row(self, name: str) -> dict[str, Any]:
        row = DORA if name == "dora" else TRAINING[name]
        if name == "dora":
            runs = [(self.run_tenon(row), self.run_tenon(row, "dora")) for _ in range(self.arguments.rounds)]
        else:
            runs = [(self.run_torch(row), self.run_tenon(row)) for _ in range(self.arguments.rounds)]
            check_losses(*runs[0], 2e-3 if self.rounds else 1e-3)
        sides = [{"seconds": statistics.median(second for run in side for second in run.seconds()),
                  "fastest": min(second for run in side for second in run.seconds()),
                  "others": statistics.mean(run.others for run in side),
                  "peak_bytes": statistics.median(run.peak_bytes for run in side),
                  "first_loss": side[0].steps[0]["loss"]} for side in zip(*runs)]
        speed = sides[0]["seconds"] / sides[1]["seconds"]
        memory = sides[1]["peak_bytes"] / sides[0]["peak_bytes"]
        return {"row": name, "baseline": sides[0], "tenon": sides[1], "speed": speed, "memory": memory,
                "least_speed": row[6], "most_memory": row[7], "pass": speed >= row[6] and memory <= row[7],
                "ratios_of_rounds": [statistics.median(x.seconds()) / statistics.median(y.seconds()) for x, y in runs]}

    def small_row(self, name: str) -> dict[str, Any]:
        threads, turns = str(self.arguments.threads), 5 * self.arguments.rounds
        sides = [subprocess.Popen(command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                 for command in ([sys.executable, os.path.join(HERE, "torch_mlp.py"), threads],
                                 [os.path.join(self.arguments.build, "bench/bench_mlp"), threads, "0", self.arguments.matmul_precision])]
        results = []
        for case in SMALL[name]:
            answers: list[list[dict[str, Any]]] = [[], []]
            limits = []
            for _ in range(turns):
                for side, answer in zip(sides, answers):
                    answer.append(quiet_turn(side, case))
                limits.append(quiet_turn(sides[1], "limit"))
            if case.startswith("mlp") and "backward" in case:
                for answer in answers:
                    assert 1.5 < answer[0]["loss"] < 4, f"{case}: the loss {answer[0]['loss']} is not about ln 10"
            torch, tenon = ({"seconds": statistics.median(turn["seconds"] for turn in answer),
                             "fastest": min(turn["fastest"] for turn in answer)} for answer in answers)
            speed, ratios = torch["seconds"] / tenon["seconds"], sorted(
                x["seconds"] / y["seconds"] for x, y in zip(*answers))
            results.append({"case": case, "baseline": torch, "tenon": tenon, "speed": speed,
                            "quartiles": [ratios[turns // 4], ratios[-1 - turns // 4]],
                            "speed_of_fastest": torch["fastest"] / tenon["fastest"],
                            "disturbed_turns": sum(turn["others"] > QUIET for answer in answers for turn in answer),
                            "flops": answers[1][0]["flops"],
                            "sgemm_flops_per_second": max(x["flops"] / x["fastest"] for x in limits),
                            "least_speed": SMALL_SPEED, "pass": speed >= SMALL_SPEED})
            print(small_line(results[-1]), flush=True)
        for side in sides:
            side.stdin.close()
            side.wait()
        return {"row": name, "cases": results, "pass": all(result["pass"] for result in results)}

    def row(self, name: str) -> None:
        result = self.small_row(name) if name in SMALL else self.training_row(name)
        result |= {"matmul_precision": self.arguments.matmul_precision, "checkpointing": self.arguments.checkpointing,
                   "date": time.strftime("%Y-%m-%d"),
                   "machine": machine(), "threads": self.arguments.threads, "torch": torch_version()}
        with open(os.path.join(self.folder, name + variant(result, ".") + ".json"), "w") as file:
            json.dump(result, file, indent=1)
        if name not in SMALL:
            print(training_line(result), flush=True)


def check_losses(torch: Run, tenon: Run, tolerance: float) -> None:
    """The same weights, tokens and labels, and B = 0: both must begin with the same loss."""
    x, y = torch.steps[0]["loss"], tenon.steps[0]["loss"]
    if abs(x - y) > tolerance * abs(x):
        sys.exit(f"compare.py: the first losses differ: {x} of PyTorch, {y} of tenon")


def machine() -> str:
    features: list[str] = []
    model = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            text = file.read()
        flags = re.search(r"^flags\s*:(.*)$", text, re.M)
        name = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
        model = name[1] if name else model
        features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flags and flag in flags[1].split()]
    return f"{model}, {os.cpu_count()} cores, {' '.join(features)}"


def torch_version() -> str:
    return subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True,
                          check=True).stdout.strip()


def variant(result: dict[str, Any], separator: str) -> str:
    """How tenon was told to run, of what differs from its defaults."""
    told = [result.get("matmul_precision", "f32"), result.get("checkpointing", "auto")]
    return "".join(separator + word for word in told if word not in ("f32", "auto"))


def verdict(good: bool) -> str:
    return "pass" if good else "FAIL"


def training_line(result: dict[str, Any]) -> str:
    x, y = result["baseline"], result["tenon"]
    return (f"| {result['row'] + variant(result, ', ')} | {x['seconds']:.2f} s, {x['peak_bytes'] / 1e6:.0f} MB "
            f"| {y['seconds']:.2f} s, {y['peak_bytes'] / 1e6:.0f} MB "
            f"| {100 * x['others']:.0f} %, {100 * y['others']:.0f} % "
            f"| {result['speed']:.2f} ({min(result['ratios_of_rounds']):.2f} to {max(result['ratios_of_rounds']):.2f}) "
            f"| >= {result['least_speed']:.2f} | 1/{1 / result['memory']:.1f} | <= 1/{1 / result['most_memory']:.1f} "
            f"| {verdict(result['pass'])} |")


def small_line(result: dict[str, Any]) -> str:
    x, y = (1e6 * result[side]["seconds"] for side in ("baseline", "tenon"))
    least = 1e6 * result["flops"] / result["sgemm_flops_per_second"]
    low, high = result["quartiles"]
    return (f"| {result['case']} | {x:.1f} | {y:.1f} | {result['speed']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {result['speed_of_fastest']:.2f} | {x / least:.2f} | {100 * least / y:.0f} % "
            f"| {result['disturbed_turns']} | {verdict(result['pass'])} |")


def report(folder: str) -> None:
    def load(names: Iterable[str]) -> list[dict[str, Any]]:
        endings = (".json", ".bf16.json", ".8bit.json", ".bf16.8bit.json")
        paths = (os.path.join(folder, name + ending) for name in names for ending in endings)
        return [json.load(open(path)) for path in paths if os.path.exists(path)]

    training, small = load([*TRAINING, "dora"]), load(SMALL)
    for result in training[:1] + small[:1]:
        print(f"{result['date']}, {result['machine']}, {result['threads']} threads, PyTorch {result['torch']}\n")
    print("| row | PyTorch | tenon | others | speed (of rounds) | target | memory | target | |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(training_line, training)))
    print("\n| case | PyTorch, us | tenon, us | speed (middle half of turns) | of fastest | at sgemm's speed "
          "| tenon, of sgemm | disturbed turns | >= 2 |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in small:
        print("\n".join(small_line(case | {"case": case["case"] + variant(result, ", ")}) for case in result["cases"]))


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("rows", nargs="*", choices=[*ROWS, "all", []])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--build", default="build")
    parser.add_argument("--matmul-precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--weights", choices=["f32", "bf16"])
    parser.add_argument("--checkpointing", choices=["auto", "off", "8bit", "on"], default="auto")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        report(os.path.join(arguments.build, "compare"))
        return
    if not arguments.rows or arguments.steps < 2:
        parser.error("name a row, and at least two steps")
    bench = Bench(arguments)
    for name in ROWS if "all" in arguments.rows else arguments.rows:
        bench.row(name)


if __name__ == "__main__":
    main()
