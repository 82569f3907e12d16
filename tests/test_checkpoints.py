"""Checkpoints of a right checksum with another content, as another program or version would write them."""

import io
import json
import shutil
import zlib

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.landscape.batches import mapped
from sharpcli.run import Run


def without_a_name(left):
    return {name: t for name, t in left.items() if name != "values"} if isinstance(left, dict) else left[0]


def other_numbers(left):
    return (
        {name: t * float("nan") for name, t in left.items()}
        if isinstance(left, dict)
        else left * float("inf")
    )


def with_vectors(change):
    """The same with other vectors alone."""
    return lambda left: (
        left | {"vectors": change(left["vectors"])} if isinstance(left, dict) else change(left)
    )


def without_length(left):
    """A start vector of length 0; critical_sharpness leaves a number in each entry, which may be 0."""
    if isinstance(left, dict) or len(left) > 1 or left[0, 0] == left[0, 1]:
        return left
    return 0 * left


CHANGES = {
    "vectors of fewer entries": with_vectors(lambda t: t[:, 1:]),
    "vectors that are not finite": with_vectors(lambda t: t * float("nan")),
    "vectors of length 2": lambda left: (
        left | {"vectors": 2 * left["vectors"]} if isinstance(left, dict) else left
    ),
    "vectors of length 0": lambda left: (
        left | {"vectors": 0 * left["vectors"]} if isinstance(left, dict) else left
    ),
    "a start of length 0": without_length,
    "fewer values": lambda left: left | {"values": left["values"][1:]} if isinstance(left, dict) else left,
    "values that are not finite": lambda left: (
        left | {"values": left["values"] * float("nan")} if isinstance(left, dict) else left
    ),
    "whole numbers": with_vectors(lambda t: t.long()),
    "a number": lambda left: 0.5,
    "nothing": lambda left: None,
    "a list": lambda left: {"values": [1.0], "vectors": [left]} if isinstance(left, dict) else [left],
    "numbers by name": lambda left: dict.fromkeys(left, 1.0) if isinstance(left, dict) else {"a": 2.0},
    "a name less": without_a_name,
    "other shapes": lambda left: (
        {n: t[None] for n, t in left.items()} if isinstance(left, dict) else left[:, 1:]
    ),
    "not finite": other_numbers,
    "sparse": lambda left: mapped(lambda t: t.to_sparse(), left),
    "complex": lambda left: mapped(lambda t: t.to(torch.complex128), left),
    "of another measure": lambda left: torch.ones(3, 2) if isinstance(left, dict) else {"values": left},
}
LEAVE_VECTORS = (
    "measure=[scores,sharpness,gauss_newton,critical_sharpness,gradient_flow_distance,gradient_noise]"
)


def numbers(said):
    """What `sharp measure --json` printed, without its seconds."""
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


@pytest.mark.parametrize("change", CHANGES)
def test_other_things_than_a_measure_left_in_a_checkpoint_are_named(sharp, folder, change):
    """No traceback, no other number without a word, and the rows that are made are those of the whole run."""
    words = ["problem=uv", "problem.d=300", "steps=8", "lr=0.001", "measure_every=2", "checkpoint_every=2"]
    words.append(LEAVE_VECTORS)
    assert sharp("train", *words).code == 0
    run = Run(only_run(folder))
    rows = rows_of(run.path / "metrics.jsonl")
    good = run.load(6)
    assert len(good["warm"]) == 5
    run.cut((run.path / "metrics.jsonl").read_bytes().index(b'{"step": 6'))
    (run.path / "checkpoints/step_00000008.pt").unlink()
    file = run.path / "checkpoints/step_00000006.pt"
    measure = ("measure", run.name, "--step", "6", "--json", "-o", "out.jsonl")
    expected = numbers(sharp(*measure))
    assert len(expected) == 1 and expected[0]["lambda_1"] > 0
    shutil.copytree(run.path, folder / "kept")
    for name, left in good["warm"].items():
        shutil.rmtree(run.path)
        shutil.copytree(folder / "kept", run.path)
        buffer = io.BytesIO()
        torch.save(good | {"warm": {**good["warm"], name: CHANGES[change](left)}}, buffer)
        file.write_bytes(buffer.getvalue() + zlib.crc32(buffer.getvalue()).to_bytes(4, "little"))
        said = sharp(*measure)
        assert said.code in (0, 1, 2) and "Traceback" not in said.err, (name, said.err)
        assert said.err.count("sharp: ") == 1 or numbers(said) == expected, (name, said.err)
        said = sharp("train", *words)
        assert said.code in (0, 2) and "Traceback" not in said.err, (name, said.err)
        assert "does not hold the rows" not in said.err, (name, said.err)
        if said.code == 2:  # what the refusal says to do helps
            assert "remove that file" in said.err and said.err.count("sharp: ") == 1, (name, said.err)
            file.unlink()
            assert sharp("train", *words).code == 0
        assert rows_of(run.path / "metrics.jsonl") == rows, (name, said.err)


def test_a_state_of_another_shape_is_named_by_measure_and_by_train(sharp, folder):
    words = [*TINY, "method=adam", "steps=8", "measure_every=4", "checkpoint_every=4"]
    assert sharp("train", *words).code == 0
    run = Run(only_run(folder))
    rows = rows_of(run.path / "metrics.jsonl")
    good = run.load(4)
    run.cut((run.path / "metrics.jsonl").read_bytes().index(b'{"step": 8'))
    for later in run.path.glob("checkpoints/step_00000008.pt"):
        later.unlink()
    buffer = io.BytesIO()
    torch.save(good | {"state": [part[..., None] for part in good["state"]]}, buffer)
    file = run.path / "checkpoints/step_00000004.pt"
    file.write_bytes(buffer.getvalue() + zlib.crc32(buffer.getvalue()).to_bytes(4, "little"))
    said = sharp("measure", run.name, "measure=[preconditioned_sharpness]", "--step", "4", "--json")
    assert "state is of another shape" in said.err and "Traceback" not in said.err
    said = sharp("train", *words)
    assert said.code == 0 and "state is of another shape" in said.err, said.err
    assert rows_of(run.path / "metrics.jsonl") == rows
