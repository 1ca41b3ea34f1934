"""How the cost of training grows: with steps (it should not), with tokens, and with threads.

usage: scaling.py [steps|tokens|threads|all] [--build DIR]

Runs tenon train on the bundled model (steps) and on random weights of SmolLM2-135M's shape (tokens, threads). Needs numpy.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, EDGE = 10_000, 200


class Train:
    """One run; resident bytes are sampled while it goes on."""

    def __init__(self, build: str, *options: str):
        out = os.path.join(build, "scaling")
        self.metrics = os.path.join(out, "metrics.jsonl")
        if os.path.exists(self.metrics):
            os.remove(self.metrics)
        command = [os.path.join(build, "tenon"), "train", "--out", out, "--valid-fraction", "0", "--schedule", "constant",
                   "--save-every", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.resident: list[int] = []
        watcher = threading.Thread(target=self.watch)
        watcher.start()
        if self.process.wait():
            sys.exit(f"scaling.py: {' '.join(command)} failed")
        watcher.join()
        with open(self.metrics) as file:
            self.steps = [step for step in map(json.loads, file) if "seconds" in step]

    def watch(self) -> None:
        pages = os.sysconf("SC_PAGE_SIZE")
        while self.process.poll() is None:
            try:
                with open(f"/proc/{self.process.pid}/statm") as file:
                    self.resident.append(int(file.read().split()[1]) * pages)
            except (FileNotFoundError, ProcessLookupError, IndexError):
                pass
            time.sleep(0.1)

    def seconds(self, first: int, end: int) -> float:
        return statistics.median(step["seconds"] / step["tokens"] for step in self.steps[first:end])


def steps(build: str) -> None:
    assets = os.path.join(HERE, "..", "assets")
    run = Train(build, "--model", os.path.join(assets, "base-model"), "--data", os.path.join(assets, "sql", "train.jsonl"),
                "--batch-size", "2", "--steps", str(STEPS), "--lr", "1e-5")
    early, late = run.seconds(10, 10 + EDGE), run.seconds(STEPS - EDGE, STEPS)
    first = run.resident[len(run.resident) // 10]
    print(f"| steps | time per token, steps 10 to {10 + EDGE}: {1e6 * early:.2f} us, the last {EDGE} of {STEPS}: "
          f"{1e6 * late:.2f} us ({late / early:.2f}) | memory after a tenth: {first / 1e6:.1f} MB, at the end: "
          f"{run.resident[-1] / 1e6:.1f} MB |")


def random_model(build: str, tokens: int, rows: int) -> list[str]:
    folder = os.path.join(build, "compare")
    model, data = os.path.join(folder, "smol"), os.path.join(folder, f"smol-{tokens}-1.0.jsonl")
    os.makedirs(folder, exist_ok=True)
    for path, arguments in ((model, ["smol", model]), (data, ["smol", data, str(rows), str(tokens), "1.0"])):
        if not os.path.exists(path):
            subprocess.run([sys.executable, os.path.join(HERE, "checkpoint.py"), *arguments], check=True)
    return ["--model", model, "--data", data, "--max-length", str(tokens), "--no-shuffle"]


def tokens(build: str) -> None:
    for length in (64, 128, 256, 512, 1024, 2048, 4096):
        run = Train(build, *random_model(build, length, 8), "--batch-size", "1", "--steps", "4")
        print(f"| {length} tokens | {1e3 * run.seconds(1, 4):.3f} ms per token | peak {max(run.resident) / 1e6:.0f} MB |",
              flush=True)


def threads(build: str) -> None:
    """In turns, so that a change of the machine's speed touches both."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for count in seconds:
            run = Train(build, *random_model(build, 256, 64), "--batch-size", "4", "--steps", "3", "--threads", str(count))
            seconds[count].append(run.seconds(1, 3))
    one, two = (statistics.median(seconds[count]) for count in (1, 2))
    print(f"| threads | 1: {1e3 * one:.3f} ms per token, 2: {1e3 * two:.3f} ms | {one / two:.2f} times |")


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("part", nargs="?", default="all", choices=["steps", "tokens", "threads", "all"])
    parser.add_argument("--build", default="build")
    arguments = parser.parse_args()
    for part in (steps, tokens, threads):
        if arguments.part in (part.__name__, "all"):
            part(arguments.build)


if __name__ == "__main__":
    main()
