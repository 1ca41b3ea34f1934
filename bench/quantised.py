"""Quantised bases beside bf16 ones on this machine, in alternating runs of tenon alone.

usage: quantised.py ROW... [--threads N] [--rounds N] [--steps N] [--build DIR] [--matmul-precision f32|bf16]
       quantised.py --report           the results so far as the tables of docs/benchmarks.md

Rows: step-1024 step-16 decode-smol decode-llama7b llama7b quality, or all. Each writes BUILD/compare/quantised-ROW.json. Needs
numpy and a built tenon; the rows of llama7b need 14 GB of disk, and decoding 20 GB of memory for its bf16 weights.
"""
import argparse
import json
import os
import statistics
import sys
import time

from compare import HERE, Bench, Run, machine

ROOT = os.path.dirname(HERE)
# ROW: batch, tokens, most time of a step against the same on the bf16 base.
STEPS = {"step-1024": (4, 256, 1.15), "step-16": (1, 16, 1.6)}
DECODE = {"bf16": [], "nf4": ["--quantize", "nf4"], "nf4, double quant": ["--quantize", "nf4", "--double-quant"],
          "q4_0": ["--quantize", "q4_0"]}
# Of a small model the head is so large a part that in bf16 it alone keeps decoding below the target.
HEAD = {"nf4, head too": ["--quantize", "nf4", "--quant-mix", "embed_tokens=nf4"],
        "q4_0, head too": ["--quantize", "q4_0", "--quant-mix", "embed_tokens=q4_0"]}
DECODE_FORMS = {"decode-smol": DECODE | HEAD, "decode-llama7b": DECODE}
DECODE_TOKENS = {"decode-smol": ("smol", 200), "decode-llama7b": ("llama7b", 16)}
DECODE_SPEED, DECODE_SHARE = 2.5, 0.75
LLAMA_MEMORY = 6e9
QUALITY = 1.02
QUALITY_TRAINING = ["--target-modules", "all-linear", "--rank", "16", "--batch-size", "8", "--epochs", "1", "--lr", "2e-3"]
ROWS = [*STEPS, *DECODE_TOKENS, "llama7b", "quality"]


class Quantised(Bench):
    def train(self, model: str, data: str, out: str, *options: str) -> tuple[Run, list[dict]]:
        folder = os.path.join(self.folder, out)
        metrics = os.path.join(folder, "metrics.jsonl")
        if os.path.exists(metrics):
            os.remove(metrics)
        run = Run([self.tenon, "train", "--model", model, "--data", data, "--out", folder, "--threads",
                   str(self.arguments.threads), *options], self.environment)
        with open(metrics) as file:
            lines = list(map(json.loads, file))
        return run.read_steps("\n".join(map(json.dumps, lines))), lines

    def step_row(self, name: str) -> dict:
        batch, tokens, most = STEPS[name]
        steps = self.arguments.steps if tokens > 16 else 40 * self.arguments.steps
        options = ["--target-modules", "all-linear", "--rank", "16", "--batch-size", str(batch), "--steps", str(steps),
                   "--no-shuffle", "--valid-fraction", "0", "--matmul-precision", self.arguments.matmul_precision]
        model, data = self.model("smol"), self.data("smol", tokens, 1.0)
        forms = {"bf16": [], "nf4": ["--quantize", "nf4"], "nf4, double quant": ["--quantize", "nf4", "--double-quant"]}
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        peaks = dict.fromkeys(forms, 0)
        for _ in range(self.arguments.rounds):
            for form, how in forms.items():
                run, _ = self.train(model, data, "quantised", *options, *how)
                seconds[form] += run.seconds()
                peaks[form] = max(peaks[form], run.peak_bytes)
        medians = {form: statistics.median(values) for form, values in seconds.items()}
        return {"row": name, "most": most, "seconds": medians, "peak_bytes": peaks,
                "passed": all(value <= most * medians["bf16"] for value in medians.values())}

    def decode_row(self, name: str) -> dict:
        shape, tokens = DECODE_TOKENS[name]
        forms = DECODE_FORMS[name]
        model = self.model(shape)
        best: dict[str, dict[str, float]] = {form: {"tokens_per_second": 0, "share": 0} for form in forms}
        rates: dict[str, list[float]] = {form: [] for form in forms}
        shares: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(self.arguments.rounds):
            for form, how in forms.items():
                out = os.path.join(self.folder, "decode.json")
                Run([self.tenon, "bench", "--model", model, "--no-full", "--rounds", "1", "--steps", "1", "--passes", "1",
                     "--prompt", "16", "--tokens", str(tokens), "--batch-size", "1", "--max-length", "16", "--threads",
                     str(self.arguments.threads), "--json", out, *how], self.environment)
                with open(out) as file:
                    rows = json.load(file)["rows"]
                row = next(row for row in rows if row["weights"] == "base" and row["work"] == "decode")
                rates[form].append(row["tokens_per_second"])
                shares[form].append(row["median_share"])
        for form in forms:
            best[form] = {"tokens_per_second": statistics.median(rates[form]), "share": statistics.median(shares[form])}
        base = best["bf16"]["tokens_per_second"]
        for form in forms:
            best[form]["passed"] = form == "bf16" or (best[form]["tokens_per_second"] >= DECODE_SPEED * base
                                                      and best[form]["share"] >= DECODE_SHARE)
        return {"row": name, "forms": best, "passed": all(best[form]["passed"] for form in forms)}

    def llama7b_row(self) -> dict:
        """Weights written layer by layer, quantised on loading; a whole run for a few steps."""
        model, data = self.model("llama7b"), self.data("llama7b", 512, 1.0)
        start = time.monotonic()
        run, _ = self.train(model, data, "llama7b-out", "--quantize", "nf4", "--double-quant", "--target-modules", "all-linear",
                            "--rank", "16", "--batch-size", "1", "--steps", str(self.arguments.steps), "--no-shuffle",
                            "--valid-fraction", "0", "--checkpointing", "on", "--matmul-precision",
                            self.arguments.matmul_precision)
        return {"row": "llama7b", "peak_bytes": run.peak_bytes, "steps": len(run.steps), "wall": time.monotonic() - start,
                "seconds": statistics.median(run.seconds()), "losses": [step["loss"] for step in run.steps],
                "passed": run.peak_bytes <= LLAMA_MEMORY}

    def quality_row(self) -> dict:
        model, data = os.path.join(ROOT, "assets/base-model"), os.path.join(ROOT, "assets/sql")
        losses = {}
        for form, how in {"f32": [], "nf4": ["--quantize", "nf4"],
                          "nf4, double quant": ["--quantize", "nf4", "--double-quant"],
                          "8-bit activations": ["--checkpointing", "8bit"]}.items():
            _, lines = self.train(model, data, "quality", *QUALITY_TRAINING, *how)
            losses[form] = min(line["valid_loss"] for line in lines if line.get("valid_loss") is not None)
        return {"row": "quality", "valid_loss": losses, "passed": max(losses.values()) <= QUALITY * losses["f32"]}

    def run_row(self, name: str) -> None:
        if name in STEPS:
            result = self.step_row(name)
        elif name in DECODE_TOKENS:
            result = self.decode_row(name)
        else:
            result = {"llama7b": self.llama7b_row, "quality": self.quality_row}[name]()
        result |= {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "threads": self.arguments.threads}
        with open(os.path.join(self.folder, f"quantised-{name}.json"), "w") as file:
            json.dump(result, file, indent=1)
        print("\n".join(report(result)), flush=True)


def verdict(result: dict) -> str:
    return "pass" if result["passed"] else "FAIL"


def report(result: dict) -> list[str]:
    name = result["row"]
    if name in STEPS:
        base = result["seconds"]["bf16"]
        return [f"| {name} | {form} | {seconds:.3f} s | {seconds / base:.2f} | <= {result['most']:.2f} | "
                f"{result['peak_bytes'][form] / 1e6:.0f} MB | {verdict(result)} |" for form, seconds in result["seconds"].items()]
    if name in DECODE_TOKENS:
        base = result["forms"]["bf16"]["tokens_per_second"]
        return [f"| {name} | {form} | {row['tokens_per_second']:.1f} tokens/s | {row['tokens_per_second'] / base:.2f} | "
                f"{100 * row['share']:.0f} % | {verdict(row) if form != 'bf16' else ''} |" for form, row in result["forms"].items()]
    if name == "llama7b":
        return [f"| llama7b | peak {result['peak_bytes'] / 1e9:.2f} GB | {result['steps']} steps of {result['seconds']:.1f} s | "
                f"{verdict(result)} |"]
    return [f"| quality | {form} | {loss:.4f} | {loss / result['valid_loss']['f32']:.3f} | {verdict(result)} |"
            for form, loss in result["valid_loss"].items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--matmul-precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    arguments.weights = "bf16"
    bench = Quantised(arguments)
    rows = ROWS if arguments.rows == ["all"] or arguments.report else arguments.rows
    unknown = [row for row in rows if row not in ROWS]
    if unknown or not rows:
        sys.exit(f"quantised.py: rows are {' '.join(ROWS)}, or all")
    for row in rows:
        path = os.path.join(bench.folder, f"quantised-{row}.json")
        if not arguments.report:
            bench.run_row(row)
        elif os.path.exists(path):
            with open(path) as file:
                print("\n".join(report(json.load(file))))


if __name__ == "__main__":
    main()
