"""`sharp.Watch`: measuring in a user's own training loop."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sharpcli.api.arguments import size_in_bytes, whole
from sharpcli.api.measure import (
    BASIS_GB,
    CHUNK,
    GRAPH_GB,
    Measured,
    Measures,
    built,
    experiment_of,
    measured,
    with_lr,
)
from sharpcli.api.problem import Loss, Weight, own
from sharpcli.api.refused import python
from sharpcli.config.identity import hash_of
from sharpcli.engine.measuring import Warm, placed
from sharpcli.errors import Refusal
from sharpcli.jsonl import Row
from sharpcli.provenance import provenance
from sharpcli.run import Run
from sharpcli.trackers import NAMES, Tracker, tracker

if TYPE_CHECKING:
    import pandas as pd

Number = float | Callable[[], float]


class Watch:
    """Measures a model every so many steps of a training loop:

        watch = sharp.Watch(model, loss, data, ["sharpness"], every=100, edge=2 / lr)
        for batch in loader:
            ...
            optimizer.step()
            watch.step()
        watch.close()

    The arguments up to `measures` and the settings after `sinks` are those of `sharp.measure`. The data are
    read once. The model is measured where it stands when the watch is made (step 0) and then after every
    `every` steps, each solve started from the vectors of the measurement before. `edge` and `lr` are numbers
    or functions without arguments, for schedules, that are written beside what was measured. What is trained
    is what requires gradients when the watch is made, and its modes then are those it is measured in.

    With `runs_dir` the rows are written to a new run directory in it as they come, which `sharp ls`, `sharp
    plot` and `sharp show` know; with `checkpoints` the model's state dict is kept there at every measured
    step, which `sharp measure RUN model=... data=...` measures again. `sinks` take each row too:
    "tensorboard", "wandb", "mlflow", or an object with `row(row)` and `close()`.

    `rows` holds all rows, `frame()` gives them as a DataFrame, `last` the last `Measured`. To carry a loop on
    after a crash, keep `watch.state_dict()` beside the optimizer's and load it: rows written after it was
    taken are dropped.
    """

    @python
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        measures: Measures = ("sharpness",),
        *,
        every: int = 1,
        edge: Number | None = None,
        lr: Number | None = None,
        runs_dir: str | Path | None = None,
        name: str = "watch",
        checkpoints: bool = False,
        sinks: str | Sequence[str | Tracker] = (),
        params: str | Sequence[str] | None = None,
        weight: Weight | None = None,
        eval_mode: bool = False,
        seed: int = 0,
        chunk: int = CHUNK,
        examples: int | None = None,
        graph_gb: float = GRAPH_GB,
        basis_gb: float = BASIS_GB,
        **settings: Any,
    ) -> None:
        every = whole("every", every)
        if checkpoints and runs_dir is None:
            raise Refusal("checkpoints=True: needs runs_dir=, the folder of the run directory")
        if runs_dir is not None and not isinstance(runs_dir, str | Path):
            raise Refusal(f"runs_dir={runs_dir!r}: give the path of a folder")
        given = [sinks] if isinstance(sinks, str) else sinks
        if not isinstance(given, Iterable) or not all(isinstance(s, str | Tracker) for s in given):
            raise Refusal(
                f"sinks={sinks!r}: give names ({', '.join(NAMES)}), or objects with row() and close()"
            )
        if not re.fullmatch(r"[\w.+-]+", str(name)) or str(name).startswith("."):
            raise Refusal(f"name={name}: letters, digits, and the characters _ . + - are possible")
        self.model, self.every, self.edge, self.lr = model, every, edge, lr
        self.steps, self.rows, self.last = 0, list[Row](), None
        self._checkpoints, self._warm, self._seconds = checkpoints, Warm(), 0.0
        parts = built(measures, settings)
        self._own = own(
            model,
            loss,
            data,
            params=params,
            weight=weight,
            chunk=chunk,
            examples=examples,
            graph_budget=size_in_bytes("graph_gb", graph_gb),
            eval_mode=eval_mode,
        )
        self._experiment = experiment_of(self._own, parts, 0.0, seed, basis_gb)
        config = self._config(measures, settings)
        self._run, self._closed = None, False
        self.sinks = list[Tracker]()
        title = f"{name}-{hash_of(config, {})}"
        self._measure()  # before anything is written
        if runs_dir is not None:
            self._run = self._new_run(Path(runs_dir).absolute() / title, config)
        self.sinks = [tracker(sink, title, config, None) if isinstance(sink, str) else sink for sink in given]
        self._write(self.rows[-1])

    last: Measured | None

    @python
    def step(self) -> Measured | None:
        """Counts a step; at every `every`-th measures and returns what was measured. Refuses a watch that was
        closed."""
        if self._closed:
            raise Refusal("the watch was closed; make a new one")
        self.steps += 1
        return self._measure() if self.steps % self.every == 0 else None

    @python
    def now(self) -> Measured:
        """Measures at this step, whatever `every` says; a step that is measured already is not again, and
        after `load_state_dict` it has its row already. Refuses a watch that was closed."""
        if self._closed:
            raise Refusal("the watch was closed; make a new one")
        if self.last is not None and self.rows[-1]["step"] == self.steps:
            return self.last
        return self._measure()

    def _measure(self) -> Measured:
        began = time.perf_counter()
        with self._own.untouched():
            w = self._own.w()
        row: Row = {"step": self.steps}
        row |= {} if self.lr is None else {"lr_now": _value(self.lr, "lr")}
        row |= {} if self.edge is None else {"edge": _value(self.edge, "edge")}
        if not bool(torch.isfinite(w).all()):
            raise Refusal(f"the model's weights are not finite at step {self.steps}: training diverged")
        with self._own.untouched():
            row["train_loss"] = float(self._own.problem.surface.value(w))
        experiment = self._experiment if self.lr is None else with_lr(self._experiment, row["lr_now"])
        found, self._warm = measured(experiment, self._own, w, self._warm, self.steps)
        self._seconds += time.perf_counter() - began
        row |= {**found.row, "seconds": round(self._seconds, 3)}
        self.last = found
        if not self.rows or self.rows[-1]["step"] < self.steps:
            self.rows.append(row)
            self._write(row)
        return found

    def _write(self, row: Row) -> None:
        if self._run is not None:
            if self._checkpoints:
                state = {name: t.detach().cpu() for name, t in self._own.module.state_dict().items()}
                self._run.save(self.steps, {"state_dict": state})
            self._run.log(row)
        for sink in self.sinks:
            sink.row(row)

    def frame(self) -> pd.DataFrame:
        """All rows, one a measured step."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    @property
    def path(self) -> Path | None:
        """The run directory, where `runs_dir` was given."""
        return None if self._run is None else self._run.path

    @python
    def close(self) -> None:
        """Ends the run directory, which is then complete, and the sinks."""
        if self._closed:
            return
        self._closed = True
        if self._run is not None:
            self._run.end(self.rows[-1]["step"])
        for sink in self.sinks:
            sink.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` carries a watch on from: numbers and tensors."""
        return {
            "steps": self.steps,
            "rows": list(self.rows),
            "warm": dict(self._warm),
            "seconds": self._seconds,
            "path": "" if self._run is None else str(self._run.path.absolute()),
            "offset": 0 if self._run is None else self._run.offset,
        }

    @python
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carries on from `state_dict()`, in its run directory: rows written after it was taken are dropped,
        and the directory that this watch made is removed. Refuses a directory with fewer rows."""
        if not isinstance(state, Mapping):
            raise Refusal(f"a {type(state).__name__} is no state of a watch; give what state_dict() returned")
        if missing := [key for key in STATE if key not in state]:
            raise Refusal(f"the state of a watch has no {missing[0]}; give what state_dict() returned")
        if state["path"] and self._run is not None:
            made, run = self._run, Run(Path(state["path"]))
            try:
                run.cut(state["offset"])
            except ValueError as problem:
                raise Refusal(f"{problem}; the rows of the watch are lost, start a new one") from None
            for step in run.checkpoints():
                if step > state["steps"]:
                    run.drop(step)
            run.provenance["open"] = True
            run.resumed(step=state["steps"])
            if made.path != run.path:
                made.remove()
            self._run = run
        self.last, self._closed = None, False
        self.steps, self.rows, self._seconds = state["steps"], list(state["rows"]), state["seconds"]
        self._warm = placed(state["warm"], self._own.problem.w0)

    def _config(self, measures: Measures, settings: dict[str, Any]) -> dict[str, Any]:
        """What is watched, as a config. It holds the moment at which it began, so that the same loop run
        again is another run."""
        names = [m if isinstance(m, str) else getattr(m, "__name__", "measure") for m in _listed(measures)]
        return {
            "problem": {"_target_": WATCHED, "model": type(self._own.module).__name__},
            "method": "watch",
            "seed": self._experiment.seed,
            "measure": {key: {k: v for k, v in settings.items() if _is_plain(v)} for key in names},
            "measure_every": self.every,
            "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        }

    def _new_run(self, path: Path, config: dict[str, Any]) -> Run:
        problem, digits = self._own.problem, hash_of(config, {})
        facts = {
            "hash": digits,
            "contents": {},
            "steps": 0,
            "watched": True,
            "open": True,
            "dtype": str(problem.w0.dtype),
            "parameters": len(problem.w0),
            "examples": problem.surface.examples,
            "scores": {"train_loss": "lower"},
        }
        source = provenance(problem.w0.device, ["python"])
        return Run.create(path, config, facts | source)


# what the config of a watched run has in the place of a problem: there is no part to build it from
WATCHED = "sharpcli.api.watch.Watch"
STATE = ("steps", "rows", "warm", "seconds", "path", "offset")


def _listed(measures: Measures) -> list[Any]:
    return [measures] if isinstance(measures, str) else list(measures)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _value(given: Number, name: str) -> float:
    came = given() if callable(given) else given
    try:
        value = float(came)
    except (TypeError, ValueError):
        raise Refusal(f"{name}={came}: give a number, or a function that returns one") from None
    if not math.isfinite(value):
        raise Refusal(f"{name}={value}: give a finite number, or a function that returns one")
    return value
