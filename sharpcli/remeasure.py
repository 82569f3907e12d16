"""`sharp measure`: the checkpoints of runs, measured again or with other measures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sharpcli.config import LOCAL, Checked, check, compose, refusing
from sharpcli.errors import Refusal
from sharpcli.launch import complain
from sharpcli.report import estimates
from sharpcli.run import Run, find_all

MAY_CHANGE = ("measure", "measure_examples", "chunk", "graph_gb", *LOCAL)


def remeasure(names: Sequence[str], words: Sequence[str], steps: str, runs_dir: Path) -> None:
    """Measures every named run at the wanted checkpoints; what cannot be measured is refused before the first."""
    runs = find_all(names, runs_dir)
    work = [(run, checked_again(run, words), wanted(run, steps)) for run in runs]
    from sharpcli.experiment import build
    from sharpcli.measure import measure_checkpoints
    from sharpcli.provenance import provenance

    for run, checked, at in work:
        experiment = build(checked)
        command = ["sharp", "measure", run.name, *(["--step", steps] if steps else []), *words]
        source = provenance(experiment.problem.w0.device, command) | {"measure": checked.config["measure"]}
        print(f"{run.path}: {', '.join(experiment.measures)} at {len(at)} checkpoints", file=sys.stderr, flush=True)
        try:
            rows = measure_checkpoints(run, experiment, at, source, lambda row: print(estimates(row), flush=True), complain)
        except KeyboardInterrupt:
            raise Refusal(f"interrupted; what was measured is in {run.path / 'measured.jsonl'}") from None
        print(f"{run.path / 'measured.jsonl'}: {len(rows)} rows added")


def checked_again(run: Run, words: Sequence[str]) -> Checked:
    """A run's own config with what measuring may change; code outside the package needs trust, said here and now."""
    with refusing(words):
        parsed = OverridesParser.create().parse_overrides(list(words))
    config = OmegaConf.create(run.config)
    for word in parsed:
        key = word.get_key_element().lstrip("+~")
        if key.split(".")[0] not in MAY_CHANGE or word.is_sweep_override():
            raise Refusal(f"{word.input_line}: measuring cannot change that; possible: {', '.join(MAY_CHANGE)}")
        if key == "measure":
            config.measure = OmegaConf.create(OmegaConf.to_container(compose([str(word.input_line)]).measure, resolve=False))
    for word in parsed:
        if (key := word.get_key_element().lstrip("+~")) != "measure":
            OmegaConf.update(config, key, word.value(), force_add=True)
    if not config.measure:
        raise Refusal(f"{run.name} measured nothing in training: say what to measure, as in measure=[sharpness,trace]")
    return check(config, words)


def wanted(run: Run, steps: str) -> list[int]:
    """The checkpoints that `--step 400,800` means, all where it is empty."""
    there = run.checkpoints()
    try:
        asked = [int(step) for step in steps.split(",")] if steps else there
    except ValueError:
        raise Refusal(f"--step {steps}: give whole numbers with commas between, as in --step 400,800") from None
    if missing := [step for step in asked if step not in there]:
        raise Refusal(f"--step {missing[0]}: {run.name} has checkpoints at {', '.join(map(str, there)) or 'no step'}")
    if not asked:
        raise Refusal(f"{run.name} has no checkpoint yet; run it first")
    return asked
