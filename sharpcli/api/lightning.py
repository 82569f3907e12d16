"""A callback for Lightning: a `sharp.Watch` in its training loop."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sharpcli.api.measure import Measures
from sharpcli.api.problem import Loss
from sharpcli.api.watch import Watch


class SharpnessCallback(Callback):
    """Watches the module's loss on data of its own:

        trainer = Trainer(callbacks=[SharpnessCallback(loss, loader, ["sharpness"], every=100)])

    The arguments are those of `sharp.Watch` after the model; the model is measured in eval mode unless
    `eval_mode=False`. Every row goes to the trainer's loggers too, as `sharp/lambda_1`, ... The rows are in
    `callback.watch`. A checkpoint of Lightning carries the watch on.
    """

    def __init__(self, loss: Loss, data: Any, measures: Measures = ("sharpness",), **settings: Any) -> None:
        self._given = (loss, data, measures), {"eval_mode": True, **settings}
        self._state: dict[str, Any] = {}
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the start."""
        given, settings = self._given
        self.watch = Watch(pl_module, *given, **settings)
        if self._state:
            self.watch.load_state_dict(self._state)
        self._log(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Counts the optimizer's steps; batches that only accumulate gradients are none."""
        if self.watch is not None and trainer.global_step > self.watch.steps and self.watch.step():
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run directory and the sinks."""
        if self.watch is not None:
            self.watch.close()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the watch."""
        return {} if self.watch is None else self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Carries the watch on once training starts."""
        self._state = state_dict

    def _log(self, trainer: Trainer) -> None:
        assert self.watch is not None
        row = self.watch.rows[-1]
        numbers = {f"sharp/{k}": v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=row["step"])
