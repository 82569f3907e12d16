"""The rows that `sharp plot learned` draws: what the weights say that the data were made of, beside what they
were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sharpcli.commands.landscapes import Asked
from sharpcli.commands.report import complain
from sharpcli.errors import Refusal
from sharpcli.frames import settings_of


def entries(asked: Any, *, step: int | None) -> pd.DataFrame:
    """A row for each entry of the vector or matrix: its number `entry`, row by row of a matrix, its `truth`
    and what was `learned`, at each run's last checkpoint or that at `step`, or in a file of weights. `attrs`
    holds the names of the `settings`. Of several runs those whose data are made of no vector or matrix are
    named and left out; refuses where no other is left, and a step of which a run has no checkpoint."""
    if step is not None and asked.files:
        raise Refusal(f"step={step}: a file of weights holds one step alone; leave step= out")
    of_each = [(run, Asked([run], (), ()).points((step,))) for run in asked.runs]
    steps = {run.path: [s for _, s in points] for run, points in of_each}
    settings = [settings_of(run) for run in asked.runs] + [{}] * len(asked.files)
    frames = []
    from sharpcli.landscape.distributed import processes  # needs torch

    with processes() as group:
        for of_run, subject in zip(settings, asked.subjects(steps, group), strict=True):
            recovery = subject.experiment.problem.recovery
            if recovery is None:
                complain(f"{subject.name}: its data are made of no vector or matrix to recover; left out")
                continue
            truth = recovery.truth.flatten().numpy()
            for point in subject.points:
                learned = recovery.of(point.w).detach().flatten().cpu().numpy()
                numbers = {"entry": np.arange(len(truth)), "truth": truth, "learned": learned}
                name = subject.name.rpartition("/")[2]
                frames.append(pd.DataFrame({**of_run, "run": name, "step": point.step, **numbers}))
    if not frames:
        raise Refusal("no run whose data are made of a vector or matrix; draw runs that log recovery_error")
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs = {
        "settings": list(dict.fromkeys(name for of_run in settings for name in of_run)),
        "notes": [],
    }
    return frame
