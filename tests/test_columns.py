"""docs/columns.md describes every column that a run writes, and no other."""

import re

import pytest
from conftest import ROOT, only_run

from sharpcli import jsonl
from sharpcli.commands import columns
from sharpcli.run import Run

TINY = "data.train_examples=60 model.widths=[2] problem.dtype=float64 steps=1 measure_every=1"
NETWORK = (  # the measures of a network, with settings that make them cheap
    "sharpness k=2 least=true, trace, density probes=2 steps=4, log_det probes=2, gauss_newton k=2, "
    "eps_sharpness steps=3, adaptive_sharpness steps=3 samples=2, "
    "pac_bayes_sharpness pairs=4 samples=2 tested=true, batch_sharpness max_batches=8, alignment k=2, "
    "gradient_flow_distance rtol=1e-2 atol=1e-2, preconditioned_sharpness k=2, gradient_norm, "
    "directional_sharpness, critical_sharpness, "
    "gradient_noise, sam_sharpness, relative_flatness, fisher_rao, hessian_rank, scores, norms"
)
RUNS = [  # the words of a run, and what it measures
    (f"{TINY} lr=0.05 model.activation=relu method=sam batch_size=16", NETWORK),
    (f"{TINY} measure_examples=30", "sharpness k=2, trace, gauss_newton k=2"),
    (f"{TINY} model.activation=identity method=sgd optimizer=adam", "norms, preconditioned_sharpness"),
    (f"{TINY} method=central_flow", "scores, central_flow"),
    (
        "problem=uv method=label_noise batch_size=1 steps=40 measure_every=40",
        "scores, norms, manifold, projected, uv_flow clock=true, least_norm, hessian_rank",
    ),
    ("problem=uv method=sam steps=40 measure_every=40", "sam_flow"),
    (
        "problem=matrix_sensing problem.d=4 problem.n=6 lr=0.002 steps=4",
        "scores, norms, least_norm, projected",
    ),
    ("problem=xor steps=1 objective=[weight_decay]", "scores, norms"),
    ("problem=quartic steps=1 stop_loss=1e9", "scores, norms"),
    ("problem=least_squares steps=1", "scores, norms"),
    ("problem=self_stabilization lr=0.1 steps=1", "scores"),
    ("problem=quadratic lr=5 steps=60 replicas=2", "scores, sharpness"),
]


def measured(text):
    """The measures that a text names, and the words that measure them: `trace rtol=0.1, scores`."""
    names, words = [], []
    for part in text.split(", "):
        name, *settings = part.split()
        names.append(name)
        words += [f"measure.{name}.{setting}" for setting in settings]
    return names, [f"measure=[{','.join(names)}]", *words]


@pytest.fixture
def rows(sharp, folder):
    """The rows of a run: `rows("problem=uv", "measure=[scores]")`."""

    def of(number, *words):
        runs = folder / str(number)
        said = sharp("train", *words, f"runs_dir={runs}")
        assert said.code == 0, said.err
        (run,) = runs.iterdir()
        return Run(run).logged()

    return of


def undescribed(row, measures):
    """The columns of a row that neither the loop nor these measures describe."""
    known = columns.patterns(columns.of_loop())
    for measure in measures:
        known += columns.patterns(columns.of_measure(measure))
    return [name for name in row if not re.fullmatch("|".join(known), name)]


def test_the_page_is_that_of_the_docstrings():
    assert (ROOT / "docs/columns.md").read_text() == columns.page(), "make columns writes it"


@pytest.mark.parametrize("measure", columns.measures())
def test_every_measure_describes_its_columns(measure):
    assert all(column.what.strip() for column in columns.of_measure(measure))


def test_every_column_of_a_run_is_described_and_every_description_is_of_a_column_that_a_run_has(rows):
    written, covered = set(), set()
    for number, (words, text) in enumerate(RUNS):
        names, more = measured(text)
        covered |= set(names)
        for row in rows(number, *words.split(), *more):
            assert undescribed(row, names) == [], words
            written |= row.keys()
    assert covered == {*columns.measures()}
    described = [
        *columns.of_loop(),
        *(c for measure in columns.measures() for c in columns.of_measure(measure)),
    ]
    # of `sharp measure`; and of weights without a finite curvature, which test_user_parts.py has
    elsewhere = ("params", "provenance", "run", "file", "<measure>_not_finite")
    for name in columns.patterns([c for c in described if c.name not in elsewhere]):
        assert any(re.fullmatch(name, column) for column in written), f"no run has a column {name}"


def test_the_columns_of_measuring_again_are_described(sharp, folder):
    assert sharp("train", *TINY.split()).code == 0
    run = only_run(folder)
    assert sharp("measure", run.name, "measure=[trace]", "--by", "layer").code == 0
    assert sharp("measure", run.name, "measure=[trace]", "-o", "rows.jsonl").code == 0
    for row in [*jsonl.read_rows(run / "measured.jsonl")[0], *jsonl.read_rows(folder / "rows.jsonl")[0]]:
        assert undescribed(row, ["trace"]) == []


@pytest.mark.parametrize(
    "text, said",
    [
        ("No block.", "does not end with a block"),
        ("Columns:\n    x: without a unit", "not of the form .*: x: without a unit"),
        ("Columns:\n    x [-, stderr]: an error without a suffix", "not of the form"),
    ],
)
def test_a_docstring_of_another_form_is_an_error_that_names_the_measure_and_the_line(text, said):
    with pytest.raises(ValueError, match=f"measure m: .*{said}"):
        columns.parsed(text, "m")


@pytest.mark.parametrize(
    "name, yes, no",
    [
        ("lambda_1 ... lambda_k", ["lambda_1", "lambda_12"], ["lambda_1_error", "lambda_min", "lambda_"]),
        ("lambda_i_residual", ["lambda_3_residual"], ["lambda_i_residual", "lambda_residual"]),
        ("projected_<scores>", ["projected_train_loss"], ["projected_distances", "projected_"]),
        ("<measure>_seconds", ["trace_seconds"], ["seconds", "x_seconds"]),
    ],
)
def test_a_name_stands_for_the_columns_that_it_should(name, yes, no):
    assert all(re.fullmatch(columns.pattern(name), column) for column in yes)
    assert not any(re.fullmatch(columns.pattern(name), column) for column in no)
