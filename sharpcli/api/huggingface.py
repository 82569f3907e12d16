"""A callback for Hugging Face's `Trainer`: a `sharp.Watch` in its training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from sharpcli.api.measure import Measures
from sharpcli.api.problem import Loss
from sharpcli.api.watch import Watch

FILE = "sharp_watch.pt"  # beside the Trainer's own files in a checkpoint


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that a model of `transformers` computes itself where its batch holds `labels`: for language
    models the mean over the labels that are not -100, of which the first of each text is not predicted."""
    return model(**batch).loss


def predicted_labels(batch: dict[str, Tensor]) -> int:
    """Over how many labels `own_loss` of a causal language model is the mean."""
    return int((batch["labels"][:, 1:] != -100).sum())


class SharpnessCallback(TrainerCallback):
    """Watches a model on data of its own:

        trainer = Trainer(..., callbacks=[SharpnessCallback(own_loss, batches, ["sharpness"], every=100)])

    The arguments are those of `sharp.Watch` after the model; the model is measured in eval mode unless
    `eval_mode=False`. The rows are in `callback.watch`, and in the Trainer's `state.log_history`. A
    checkpoint of the Trainer carries the watch on.
    """

    def __init__(self, loss: Loss, data: Any, measures: Measures = ("sharpness",), **settings: Any) -> None:
        self._given = (loss, data, measures), {"eval_mode": True, **settings}
        self.watch: Watch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the start, or carries on from a checkpoint."""
        given, settings = self._given
        self.watch = Watch(kwargs["model"], *given, **settings)
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        if state.global_step and file.is_file():
            self.watch.load_state_dict(torch.load(file, weights_only=True))
        else:
            self.watch.steps = state.global_step
            self._log(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts a step of the optimizer."""
        if self.watch is not None and self.watch.step():
            self._log(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps the watch in the Trainer's checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.watch is not None and folder.is_dir():
            torch.save(self.watch.state_dict(), folder / FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the run directory and the sinks."""
        if self.watch is not None:
            self.watch.close()

    def _log(self, state: Any) -> None:
        assert self.watch is not None
        row = self.watch.rows[-1]
        numbers = {f"sharp/{k}": v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
        state.log_history.append({**numbers, "step": row["step"]})
