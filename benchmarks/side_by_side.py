"""Eigenvalues, traces and densities of the Hessian by this package and by PyHessian, hessian-eigenthings and
curvlinops with SciPy: on the same network, data, accuracy and threads, every contestant in a process of its
own. Writes side_by_side.json and side_by_side.png.

`python benchmarks/side_by_side.py [mlp] [resnet] [device=cuda] [-o FOLDER] [mlp_data=A.npz]
[resnet_data=B.npz]`; needs `pip install -e '.[bench]'` and CIFAR-10, or in its place .npz files as for
`data=arrays`. On a CPU the density of the ResNet has one probe of eight steps, after 60 steps of training,
and no contestant gets the products that a trace to 2 % takes: its seconds are scaled to that error.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import experiment, machine
from matplotlib.figure import Figure
from torch import Tensor

from sharpcli.engine.train import begin
from sharpcli.landscape.curvature import Curvature

HERE = Path(__file__).parent
RIVALS = ("pyhessian", "eigenthings", "curvlinops")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # of sharp and the rivals, in order
MLP = [
    "experiment=eos_cifar10_5k",
    "data.train_examples=2000",
    "data.test_examples=10",
    "measure=[sharpness]",
]
RESNET = ["experiment=resnet20_cifar10", "data.train_examples=1000", "data.test_examples=10", "graph_gb=8"]
ON_A_FILE = {  # the same networks without the presets, for data of a user
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
LR = 0.02  # of the mlp
RISING, AT_EDGE = range(100, 340, 20), range(1400, 1520, 20)  # steps of the mlp before and at the edge
LARGEST_ERROR = (
    1.5e-3  # relative, of an eigenvalue: a contestant beyond it has not reached the 1e-3 asked for
)
TRACE_RTOL = 0.02  # the standard error of a trace over the trace that is asked for


def points(overrides: list[str], steps: Collection[int], device: str) -> list[Tensor]:
    """The weights [D] at these steps of training with the `overrides`."""
    e = experiment(*overrides, f"device={device}")
    lane, batches, ws = begin(e), e.minibatches, []
    for step in range(max(steps) + 1):
        if step in steps:
            ws.append(lane.w.cpu())
        if step % batches.per_epoch == 0:
            order = batches.order(step // batches.per_epoch)
        surface = e.problem.surface if batches.whole else e.problem.surface.on([batches(step, order)])
        lane.w, lane.state = e.optimizer.step(lane.w, lane.state, surface.grad, e.lr)
    return ws


def ask(who: str, question: str, file: Path, device: str) -> list[dict[str, Any]]:
    """A contestant's answers to a question; none where it fails."""
    command = [sys.executable, str(HERE / "contest.py"), who, question, str(file), device]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        print(f"  {who} failed at {question}: {process.stderr.strip().splitlines()[-1][:200]}", flush=True)
        return []
    return json.loads(process.stdout.strip().splitlines()[-1])


def true_eigenvalues(overrides: list[str], ws: list[Tensor], k: int, device: str) -> list[Tensor]:
    """The k largest eigenvalues [k] at each point, to 2e-5."""
    e = experiment(*overrides, f"device={device}")
    eigenvalues = []
    for w in ws:
        w = w.to(e.problem.w0)
        curvature = Curvature(e.surface_at(w), w, 9, 9, e.basis_bytes)
        eigenvalues.append(curvature.eigenpairs("hessian", k + 1, 2e-5, 300).values[:k])
    return eigenvalues


def relative_error(values: list[float], truth: Tensor) -> float:
    """The largest error of the eigenvalues over the largest eigenvalue; 1 where some are missing."""
    computed = torch.tensor(sorted(values, reverse=True)[: len(truth)], dtype=torch.float64)
    if len(computed) < len(truth):
        return 1.0
    return float(((computed - truth) / truth[0]).abs().max())


def summary(question: str, answers: list[dict[str, Any]], truths: list[Tensor] | None) -> dict[str, Any]:
    """Median (`cold`) or total seconds and products of a contestant's answers, and their largest error."""
    seconds, products = ([answer[key] for answer in answers] for key in ("seconds", "products"))
    is_cold = question.startswith("cold")
    row = {
        "seconds": statistics.median(seconds) if is_cold else sum(seconds),
        "products": sum(products) / (len(answers) if is_cold else 1),
    }
    if truths is not None:
        errors = [relative_error(a["values"], truths[i % len(truths)]) for i, a in enumerate(answers)]
        row["error"] = max(errors)
    elif answers[0].get("stderr") is not None:
        row["error"] = answers[0]["stderr"] / abs(answers[0]["values"][0])
        if row["error"] > TRACE_RTOL:  # to TRACE_RTOL by the square-root law of independent probes
            row["seconds"] *= (row["error"] / TRACE_RTOL) ** 2
            row["scaled"] = True
    return row


def compare(
    title: str, wanted: str, question: str, file: Path, device: str, truths: list[Tensor] | None
) -> dict[str, Any]:
    """Asks all contestants a question at the points in `file`, and prints and returns their summaries and the
    ratio of seconds of the fastest rival and sharp; a contestant that misses LARGEST_ERROR does not count."""
    rows: dict[str, Any] = {}
    for who in ("sharp", *RIVALS):
        asked = question
        if question.startswith("trace") and who == "sharp":
            asked = "trace hutchpp:48" if device == "cpu" else "trace hutchpp"
        if answers := ask(who, asked, file, device):
            rows[who] = summary(question, answers, truths)
    reached = {who: row for who, row in rows.items() if truths is None or row["error"] <= LARGEST_ERROR}
    rivals = {who: row["seconds"] for who, row in reached.items() if who != "sharp"}
    best = min(rivals, key=lambda who: rivals[who]) if rivals else None
    ratio = rivals[best] / rows["sharp"]["seconds"] if best else None
    measured = f"{ratio:.2f}x {best}" if ratio else "no rival reached the error"
    print(f"\n{title}   wanted {wanted}   measured {measured}")
    for who, row in rows.items():
        error = f"{row['error']:.1e}" if row.get("error") is not None else "-"
        scaled = "  (seconds scaled to an error of 2e-2)" if row.get("scaled") else ""
        print(
            f"  {who:<12} {row['seconds']:>9.3f} s  {row['products']:>7.0f} products  error {error}{scaled}",
            flush=True,
        )
    return {"question": title, "wanted": wanted, "ratio": ratio, "against": best, "contestants": rows}


def compare_mlp(overrides: list[str], file: Path, device: str) -> list[dict[str, Any]]:
    """The questions about eigenvalues, at points of the mlp's training before and at the edge."""
    ws = points(overrides, [*RISING, *AT_EDGE], device)
    rising, at_edge = ws[: len(RISING)], ws[len(RISING) :]
    torch.save({"overrides": overrides, "points": ws[-1:], "rising": rising, "edge": at_edge}, file)
    top_5, top_10 = (
        true_eigenvalues(overrides, ws, 5, device),
        true_eigenvalues(overrides, ws[-1:], 10, device),
    )
    top_1 = [values[:1] for values in top_5]
    print("lambda_1 at the points:", " ".join(f"{float(values[0]):.2f}" for values in top_1), "edge", 2 / LR)
    n_rising = len(RISING)
    return [
        compare(title, wanted, question, file, device, truths)
        for title, wanted, question, truths in (
            ("lambda_1, cold, mlp at the edge", ">= 2x", "cold 1", top_1[-1:]),
            ("top 10, cold, mlp at the edge", ">= 2x", "cold 10", top_10),
            ("lambda_1, 12 points before the edge", ">= 10x", "track 1 rising", top_1[:n_rising]),
            ("lambda_1, 6 points at the edge", ">= 5x", "track 1 edge", top_1[n_rising:]),
            ("top 5, 12 points before the edge", ">= 8x", "track 5 rising", top_5[:n_rising]),
            ("top 5, 6 points at the edge", ">= 5x", "track 5 edge", top_5[n_rising:]),
        )
    ]


def compare_resnet(overrides: list[str], file: Path, device: str) -> list[dict[str, Any]]:
    """The questions about the density and the trace, early in the training of a ResNet-20; fewer probes and
    steps on a CPU."""
    on_cpu = device == "cpu"
    ws = points([*overrides, "measure=[]"], [60 if on_cpu else 200], device)
    torch.save({"overrides": overrides, "points": ws}, file)
    probes, steps, trace_products = (1, 8, 12) if on_cpu else (2, 40, 60)
    return [
        compare(title, ">= 1.5x", question, file, device, None)
        for title, question in (
            (f"density, {probes} x {steps}, ResNet-20", f"density {probes} {steps}"),
            ("trace to 2 %, ResNet-20", f"trace hutch++:{trace_products}"),
        )
    ]


def figure(results: list[dict[str, Any]], file: Path) -> None:
    """Seconds of each contestant on each question, as bars on a log scale."""
    fig = Figure(figsize=(9, 0.9 * len(results) + 1.2), layout="constrained")
    ax = fig.subplots()
    for i, (who, colour) in enumerate(zip(("sharp", *RIVALS), COLOURS, strict=True)):
        bars = [(j, r["contestants"][who]) for j, r in enumerate(results) if who in r["contestants"]]
        places, seconds = [j + 0.2 * i for j, _ in bars], [row["seconds"] for _, row in bars]
        ax.barh(places, seconds, 0.18, label=who, color=colour)
    ax.set_yticks([j + 0.3 for j in range(len(results))], [result["question"] for result in results])
    ax.set(xscale="log", xlabel="seconds")
    ax.invert_yaxis()
    ax.legend()
    fig.savefig(file, dpi=150)


def environment(device: str) -> dict[str, Any]:
    """The machine and the versions that the numbers were measured with."""
    libraries = ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch", "scipy")
    facts = {"machine": machine(), "device": device, "processor": platform.processor()}
    facts |= {"versions": {name: version(name) for name in libraries}}
    return facts | ({"accelerator": torch.cuda.get_device_name()} if device == "cuda" else {})


def main() -> None:
    """Asks the questions and writes the results and the figure."""
    arguments = sys.argv[1:]
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    device = given.get("device", "cpu")
    folder = Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else HERE
    networks = [name for name in ("mlp", "resnet") if name in arguments] or ["mlp", "resnet"]
    overrides = {"mlp": MLP, "resnet": RESNET}
    for name in overrides:
        if f"{name}_data" in given:
            overrides[name] = [*ON_A_FILE[name], f"data.file={given[f'{name}_data']}"]
    compare_network = {"mlp": compare_mlp, "resnet": compare_resnet}
    facts, results = environment(device), []
    with tempfile.TemporaryDirectory() as temporary:
        for name in networks:
            results += compare_network[name](overrides[name], Path(temporary) / "points.pt", device)
    name = "side_by_side" if device == "cpu" else f"side_by_side_{device}"
    (folder / f"{name}.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    figure(results, folder / f"{name}.png")
    print(f"\n{json.dumps(facts)}")


if __name__ == "__main__":
    main()
