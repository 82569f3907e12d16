"""Sharpness, traces and densities by this package and by PyHessian, hessian-eigenthings and curvlinops with
SciPy, on the same network, data, accuracy and threads, every contestant in a process of its own. Writes
side_by_side.json and .png.

`python benchmarks/side_by_side.py [mlp] [resnet] [device=cuda] [-o FOLDER] [mlp_data=A.npz]
[resnet_data=B.npz]`; needs `pip install -e '.[bench]'`. On a CPU the ResNet's density is asked with one probe
of eight steps, after 60 steps of training, and nobody is given the products for a trace to 2 %: the seconds
are scaled. The .npz files, as for `data=arrays`, stand in for CIFAR-10 where that is not at hand whole.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import experiment, machine
from matplotlib.figure import Figure

from sharpcli.engine.train import begin
from sharpcli.landscape.curvature import Curvature

HERE = Path(__file__).parent
OTHERS = ("pyhessian", "eigenthings", "curvlinops")
MLP = [
    "experiment=eos_cifar10_5k",
    "data.train_examples=2000",
    "data.test_examples=10",
    "measure=[sharpness]",
]
RESNET = ["experiment=resnet20_cifar10", "data.train_examples=1000", "data.test_examples=10", "graph_gb=8"]
PLAIN = {  # the same without the presets, for data of one's own
    "mlp": ["lr=0.02", "model.widths=[200,200]", "measure=[sharpness]", "data=arrays"],
    "resnet": [
        "model=resnet",
        "loss=cross_entropy",
        "method=sgd",
        "lr=0.1",
        "chunk=1000",
        "graph_gb=30",
        "data=arrays",
    ],
}


def points(words: list[str], steps: list[int], device: str) -> list[torch.Tensor]:
    """The weights of a training run at some steps."""
    e = experiment(*words, f"device={device}")
    here, out = begin(e), []
    order = e.minibatches.order(0)
    for step in range(max(steps) + 1):
        if step in steps:
            out.append(here.w.cpu())
        per = e.minibatches.per_epoch
        order = e.minibatches.order(step // per) if step % per == 0 else order
        surface = e.problem.surface if per == 1 else e.problem.surface.on([e.minibatches(step, order)])
        here.w, here.state = e.optimizer.step(here.w, here.state, surface.grad, e.lr)
    return out


def ask(who: str, question: str, file: Path, device: str) -> list[dict[str, Any]]:
    """A contestant's answers to a question; empty where it fails."""
    command = [sys.executable, str(HERE / "contest.py"), who, question, str(file), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {who} failed at {question}: {done.stderr.strip().splitlines()[-1][:200]}", flush=True)
        return []
    return json.loads(done.stdout.strip().splitlines()[-1])


def truths(words: list[str], ws: list[torch.Tensor], k: int, device: str) -> list[torch.Tensor]:
    """The k largest eigenvalues at each point, to 2e-5."""
    e, out = experiment(*words, f"device={device}"), []
    for w in ws:
        w = w.to(e.problem.w0)
        found = Curvature(e.surface_at(w), w, 9, 9, e.basis_bytes).eigenpairs("hessian", k + 1, 2e-5, 300)
        out.append(found.values[:k])
    return out


def compare(
    title: str, wanted: str, question: str, file: Path, device: str, truth: list[torch.Tensor] | None
) -> dict[str, Any]:
    """All contestants on a question: median (cold) or total (tracked) seconds, products, largest relative
    error."""
    rows: dict[str, Any] = {}
    for who in ("sharp", *OTHERS):
        asked = question
        if question.startswith("trace") and who == "sharp":
            asked = "trace hutchpp:48" if device == "cpu" else "trace hutchpp"
        found = ask(who, asked, file, device)
        if not found:
            continue
        seconds = [one["seconds"] for one in found]
        row = {
            "seconds": statistics.median(seconds) if question.startswith("cold") else sum(seconds),
            "products": sum(one["products"] for one in found)
            / (len(found) if question.startswith("cold") else 1),
        }
        if truth is not None:
            errors = []
            for i, one in enumerate(found):
                right = truth[i % len(truth)]
                got = torch.tensor(sorted(one["values"], reverse=True)[: len(right)], dtype=torch.float64)
                errors.append(
                    float(((got - right[: len(got)]) / right[0]).abs().max())
                    if len(got) == len(right)
                    else 1.0
                )
            row["error"] = max(errors)
        elif found[0].get("stderr") is not None:
            row["error"] = found[0]["stderr"] / abs(found[0]["values"][0])
            if row["error"] > 0.02:  # what is missing, by the square-root law of independent probes
                row["seconds"] *= (row["error"] / 0.02) ** 2
                row["scaled"] = True
        rows[who] = row
    reached = {who: row for who, row in rows.items() if truth is None or row["error"] <= 1.5e-3}
    rivals = {who: row["seconds"] for who, row in reached.items() if who != "sharp"}
    best = min(rivals, key=lambda who: rivals[who]) if rivals else None
    ratio = rivals[best] / rows["sharp"]["seconds"] if best else None
    print(
        f"\n{title}   wanted {wanted}   measured {f'{ratio:.2f}x {best}' if ratio else 'no other reached it'}"
    )
    for who, row in rows.items():
        error = f"{row['error']:.1e}" if row.get("error") is not None else "-"
        scaled = "  (seconds scaled to an error of 2e-2)" if row.get("scaled") else ""
        print(
            f"  {who:<12} {row['seconds']:>9.3f} s  {row['products']:>7.0f} products  error {error}{scaled}",
            flush=True,
        )
    return {"question": title, "wanted": wanted, "ratio": ratio, "against": best, "contestants": rows}


def figure(results: list[dict[str, Any]], file: Path) -> None:
    """Seconds of each contestant on each question, as bars on a log scale."""
    fig = Figure(figsize=(9, 0.9 * len(results) + 1.2), layout="constrained")
    axes = fig.subplots()
    names = ("sharp", *OTHERS)
    for i, who in enumerate(names):
        at = [j + 0.2 * i for j, result in enumerate(results) if who in result["contestants"]]
        long = [result["contestants"][who]["seconds"] for result in results if who in result["contestants"]]
        axes.barh(at, long, 0.18, label=who, color=("#0072B2", "#E69F00", "#009E73", "#CC79A7")[i])
    axes.set_yticks([j + 0.3 for j in range(len(results))], [result["question"] for result in results])
    axes.set(xscale="log", xlabel="seconds")
    axes.invert_yaxis()
    axes.legend()
    fig.savefig(file, dpi=150)


def main() -> None:
    """See the top."""
    words = sys.argv[1:]
    device = next((word.split("=")[1] for word in words if word.startswith("device=")), "cpu")
    out = Path(words[words.index("-o") + 1]) if "-o" in words else HERE
    parts = [part for part in ("mlp", "resnet") if part in words] or ["mlp", "resnet"]
    given = {word.split("=")[0]: word.split("=")[1] for word in words if "_data=" in word}
    mlp, resnet = (
        [*PLAIN[name], f"data.file={given[f'{name}_data']}"] if f"{name}_data" in given else preset
        for name, preset in (("mlp", MLP), ("resnet", RESNET))
    )
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.pt"
        if "mlp" in parts:
            rising, edge = [*range(100, 340, 20)], [*range(1400, 1520, 20)]
            ws = points(mlp, [*rising, *edge], device)
            torch.save({"words": mlp, "points": ws[-1:], "rising": ws[:12], "edge": ws[12:]}, file)
            five = truths(mlp, ws, 5, device)
            ten = truths(mlp, ws[-1:], 10, device)
            print(
                "lambda_1 at the points:",
                " ".join(f"{float(t[0]):.2f}" for t in five),
                "edge",
                2 / 0.02,
                flush=True,
            )
            one = [t[:1] for t in five]
            for title, wanted, question, truth in (
                ("lambda_1, cold, mlp at the edge", ">= 2x", "cold 1", one[-1:]),
                ("top 10, cold, mlp at the edge", ">= 2x", "cold 10", ten),
                ("lambda_1, 12 points before the edge", ">= 10x", "track 1 rising", one[:12]),
                ("lambda_1, 6 points at the edge", ">= 5x", "track 1 edge", one[12:]),
                ("top 5, 12 points before the edge", ">= 8x", "track 5 rising", five[:12]),
                ("top 5, 6 points at the edge", ">= 5x", "track 5 edge", five[12:]),
            ):
                results.append(compare(title, wanted, question, file, device, truth))
        if "resnet" in parts:
            small = device == "cpu"
            ws = points([*resnet, "measure=[]"], [60 if small else 200], device)
            torch.save({"words": resnet, "points": ws}, file)
            probes, steps = (1, 8) if small else (2, 40)
            results.append(
                compare(
                    f"density, {probes} x {steps}, ResNet-20",
                    ">= 1.5x",
                    f"density {probes} {steps}",
                    file,
                    device,
                    None,
                )
            )
            count = 12 if small else 60
            results.append(
                compare("trace to 2 %, ResNet-20", ">= 1.5x", f"trace hutch++:{count}", file, device, None)
            )
    libraries = {
        name: version(name)
        for name in ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch", "scipy")
    }
    about = {"machine": machine(), "device": device, "processor": platform.processor(), "versions": libraries}
    if device == "cuda":
        about["accelerator"] = torch.cuda.get_device_name()
    name = "side_by_side" if device == "cpu" else f"side_by_side_{device}"
    (out / f"{name}.json").write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    figure(results, out / f"{name}.png")
    print(f"\n{json.dumps(about)}")


if __name__ == "__main__":
    main()
