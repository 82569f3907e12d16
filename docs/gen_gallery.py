"""Writes docs/gallery.md and its pictures: every kind of plot, of real runs, with the commands that made it.

    python docs/gen_gallery.py

A section is a title, a sentence, the commands, and the files that they draw. They run in an empty folder, in
order, so that a later section may use the runs of an earlier one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
NETWORKS = """\
sharp train data=cifar10 data.train_examples=500 data.test_examples=500 model.widths=[32] method=gd,sam lr=0.02,0.05 seed=0,1 \
steps=300 measure_every=10 checkpoint_every=50 measure=[scores,sharpness] measure.sharpness.k=3 -m
sharp plot sharpness gd-network-lr0.05-seed0 -o sharpness.png
sharp plot loss runs where "seed == 0" -o loss.png
sharp plot compare runs y=lambda_1 by=[method,lr] -o compare.png
sharp plot grid runs x=lr y=method value=lambda_1 -o grid.png
sharp plot scatter runs x=lambda_1 y="test_loss - train_loss" -o scatter.png
sharp plot table runs columns=[test_accuracy,lambda_1]"""
POINTS = """\
sharp train data=cifar10 data.train_examples=500 data.test_examples=500 model.widths=[32] method=sgd lr=0.05 batch_size=50 seed=0,1 \
steps=300 checkpoint_every=50 measure=[scores] measure_every=50 -m
sharp plot landscape sgd-network-lr0.05-seed0 points=31 -o random.png
sharp plot landscape sgd-network-lr0.05-seed0 directions=eigenvectors points=31 surface=true -o eigenvectors.png
sharp plot landscape sgd-network-lr0.05-seed0 directions=trajectory points=31 log=true -o trajectory.png
sharp plot landscape sgd-network-lr0.05-seed0 directions=eigenvectors dimensions=1 points=51 -o line.png
sharp plot connect sgd-network-lr0.05-seed0 sgd-network-lr0.05-seed1 match=true -o connect.png
sharp measure sgd-network-lr0.05-seed0 measure=[gradient_noise,alignment,density] measure.alignment.k=3
sharp plot noise sgd-network-lr0.05-seed0 -o noise.png
sharp plot alignment sgd-network-lr0.05-seed0 -o alignment.png
sharp plot density sgd-network-lr0.05-seed0 -o density.png
sharp measure sgd-network-lr0.05-seed0 --by layer measure=[trace]
sharp plot layers sgd-network-lr0.05-seed0 y=trace -o layers.png"""
TOYS = """\
sharp train problem=uv problem.instance=0 problem.start=0.5 method=label_noise objective.label_noise.delta=0.5 batch_size=1 replacement=true \
lr=0.01,0.02 steps=40000 measure=[scores,trace,uv_flow,norms] measure_every="log 60" -m
sharp plot phases runs -o phases.png
sharp plot recovery runs -o recovery.png
sharp plot learned runs -o learned.png"""

SECTIONS = (
    (
        "Networks while they train",
        "Eight runs on 500 images of CIFAR-10, two minutes on two cores.",
        NETWORKS,
    ),
    (
        "At their checkpoints",
        "Landscapes are computed once and kept in the run; so are curves between minima.",
        POINTS,
    ),
    (
        "Toys whose flow is known",
        "Label noise moves along the minima in a time lr² t, after it reached them in a time lr t.",
        TOYS,
    ),
)


def main() -> None:
    """Runs the commands and writes the page."""
    pictures = DOCS / "gallery"
    pictures.mkdir(exist_ok=True)
    page = [
        "# Gallery",
        "",
        "Every kind of plot, with its commands. `python docs/gen_gallery.py` draws this page again.",
        "",
    ]
    os.environ.setdefault("SHARP_DATA", str(DOCS.parent / "data"))
    program = [str(Path(sys.executable).parent / "sharp")]
    with tempfile.TemporaryDirectory() as folder:
        for k, (title, sentence, commands) in enumerate(SECTIONS):
            page += [f"## {title}", "", sentence, "", "```bash", commands, "```", ""]
            table = ""
            for command in commands.splitlines():
                words = [*program, *shlex.split(command)[1:], f"runs_dir=runs{k}"]
                words = [f"runs{k}" if word == "runs" else word for word in words]
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{command}\n{done.stderr}")
                table = done.stdout if " table " in command else table
                if drawn := re.search(r"-o (\S+\.png)", command):
                    image = Image.open(Path(folder) / drawn[1]).convert("RGB")
                    image.quantize(256).save(pictures / drawn[1], optimize=True)  # a quarter of the bytes
                    page += [f"![{' '.join(words[1:3])}](gallery/{drawn[1]})"]
            page += ["", *(["```text", table.rstrip(), "```", ""] if table else [])]
    (DOCS / "gallery.md").write_text("\n".join(page).rstrip() + "\n")


if __name__ == "__main__":
    main()
