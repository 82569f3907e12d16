"""MLflow: a run of the experiment `sharp`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from sharpcli.trackers import numbers

MOST_AT_ONCE, LONGEST = 100, 500  # of a batch of parameters, and of a parameter's text, that MLflow takes


class MLflow:
    """A run of MLflow."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path | None) -> None:
        where = None if folder is None else f"sqlite:///{folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=where)
        known = self._client.get_experiment_by_name("sharp")
        artifacts = None if folder is None else (folder.absolute() / "artifacts").as_uri()
        experiment = known.experiment_id if known else self._client.create_experiment("sharp", artifacts)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in _flat(config).items()]
        for i in range(0, len(params), MOST_AT_ONCE):
            self._client.log_batch(self._run, params=params[i : i + MOST_AT_ONCE])

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes the row of a step."""
        metrics = [Metric(key, value, 0, int(row["step"])) for key, value in numbers(row).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def begin(name: str, config: Mapping[str, Any], folder: Path | None) -> MLflow:
    """A run named as sharp's; in the database `folder`/mlflow.db, by default where MLFLOW_TRACKING_URI
    says."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return MLflow(name, config, folder)
