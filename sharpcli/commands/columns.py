"""The columns of a run's rows, in metrics.jsonl and measured.jsonl, and the page docs/columns.md that lists
them; read from the files of the measures, without importing torch.

`make columns` writes the page. A measure describes its columns in the last paragraph of the docstring of its
function:

    Columns:
        NAME [UNIT]: what the column is
        NAME [UNIT, exact]: what the column is; it has no error but rounding
        NAME [UNIT, error _SUFFIX]: what the column is, in a text that may go on in
            lines indented further; the column NAME_SUFFIX holds its error

UNIT is `-` for a number without a unit. A NAME may stand for several columns: `x_1 ... x_k` and `x_i_y` for
all numbers in place of 1 and i, `<scores>` for each column of the measure `scores`, and `<measure>` for the
name of any measure. The sources of a measure are the citations in the docstring of its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sharpcli import CONF
from sharpcli.commands.show import docstring, first_sentence, target

# the columns that no measure writes, in the same form
LOOP = """Columns:
    step [-]: the number of steps taken; the row describes the weights after them
    epoch [-]: step over the number of steps in an epoch
    lr_now [weight^2/loss]: the step size of the next step, and in the last row that of the last step, where
        the setting `lr` is that of the whole schedule; its unit is weight for Adam and RMSProp
    edge [loss/weight^2, exact]: the edge of stability: the sharpness above which the optimizer diverges on a
        quadratic, 2/lr for gradient descent; absent for an optimizer that states none
    added_curvature [loss/weight^2, exact]: what the objectives add to every curvature of the loss that a step
        descends on, as weight decay its strength: lambda_1 and this together meet the edge; absent where they
        add none, or another curvature than the same in all directions (gradient_penalty, trace_penalty)
    base_edge [loss/weight^2, exact]: SAM: the edge of the optimizer that SAM wraps
    central_variance [weight^2]: method=central_flow: tr S, S the covariance of gradient descent's oscillation
        around the flow: the predicted mean of |w_t - w|^2 over its steps t (Cohen et al. 2024,
        arXiv:2410.24206)
    diverged [-]: true where the weights are not finite or train_loss is beyond 3.4e38, and in all later rows
        of the same replica; else absent
    stopped [-]: true in the last row of a run that `stop_loss` ended before its last step; else absent
    diverged_at [-]: replicas: the step at which the replica diverged, in its first row with diverged
    replica [-]: replicas: the number of the replica, from 0
    seed [-]: replicas: the seed of the replica; each setting in which replicas differ is such a column, under
        its own name (lr, optimizer.rho)
    seconds [s]: the time spent on the run until this row, by all processes that worked on it
    params [-]: `sharp measure` with --params or --by: the pattern or the layer of the parameters that were
        measured
    provenance [-]: `sharp measure`: the command, the versions and the settings of the measures
    run [-]: `sharp measure -o`: the name of the run
    file [-]: `sharp measure -o`: the path of the file of weights
    <measure>_not_finite [-]: true where the weights, or the curvature that the measure needs, are NaN or
        infinite, and the only column of the measure then; else absent
    <measure>_products [-]: the number of products with the Hessian, or with a matrix of the same cost, each
        over all measured examples
    <measure>_gradients [-]: the number of gradients over all measured examples; a value of the loss counts a
        third
    <measure>_examples [-]: the number of measured examples
    <measure>_seconds [s]: the time that the measure took
"""

INTRODUCTION = """# The columns

Every column that a row of a run can hold: in `metrics.jsonl`, which training writes, and in `measured.jsonl`,
which `sharp measure` writes. `make columns` writes this page from the docstrings in `sharpcli/measures/`.

- L is the training loss, a mean over its n examples: with `loss=half_squared` (1/2n) sum_i |f_i - y_i|^2,
  half the squared error of the outputs f_i, summed over outputs; with `loss=cross_entropy` in nats. A test
  loss is a mean in the same way.
- w [D] are the weights, g the gradient of L and H its Hessian at w, lr the step size.
- The sharpness, `lambda_1`, is the algebraically largest eigenvalue of H, not the largest in absolute value.
- Curvature is that of the loss on the measured examples, the first `measure_examples` of the training set.
- Units: `weight` is the unit of w, `loss` that of L, `output` that of f_i; `-` is a number without a unit.
- The error column holds the error of an estimate: `_error` an estimated error, `_stderr` a standard error
  over random samples, `_spread` the best less the worst start of an ascent; `exact` is no error but rounding.
- A number that is not finite is written as null. A text that begins with problems, such as `uv:` or
  `networks:`, is about a column that these problems alone have.
- `x_1 ... x_k` and `x_i_residual` stand for a column for each i = 1 ... k, `<scores>` and `<norms>` for each
  column of these measures, `<measure>` for the name of each measure.
"""

ENTRY = re.compile(
    r"(?P<name>[\w<>]+(?: \.\.\. \w+)?) "
    r"\[(?P<unit>[^],]+)(?:, (?P<exact>exact)|, error (?P<suffix>_\w+))?\]: (?P<what>.+)"
)
ARXIV = r"arXiv:([\w./-]*\w)"
# names and a year; where the file gives them, the number at arXiv and the place in the paper
CITATION = re.compile(
    r"[A-Z][\w-]+(?:(?:, | & )[A-Z][\w-]+)*(?: et al\.)? (?:19|20)\d\d"
    r"(?:, arXiv:[\w./-]*\w)?(?:, (?:section|definition|appendix|figure) \w+)?"
)


@dataclass(frozen=True)
class Column:
    """A column, or all columns of one form: its `name` and `unit`, the name of its `error` column ("exact" or
    "" where it has none), and `what` it is."""

    name: str
    unit: str
    error: str
    what: str


def measures() -> dict[str, str]:
    """The path of the function of each measure in conf/measure, by the measure's name."""
    return {
        file.stem: target(file.read_text(), "measure") for file in sorted((CONF / "measure").glob("*.yaml"))
    }


def of_measure(measure: str) -> list[Column]:
    """The columns that a measure's docstring describes. Raises ValueError where it describes none."""
    return parsed(docstring(measures()[measure]), measure)


def of_loop() -> list[Column]:
    """The columns that no measure writes."""
    return parsed(LOOP, "")


def parsed(text: str, measure: str) -> list[Column]:
    """The columns of the block at the end of a docstring. Raises ValueError where no block is, and for an
    entry of another form."""
    head, *lines = text.rstrip().rpartition("\n\n")[2].split("\n")
    if head != "Columns:":
        raise ValueError(f"measure {measure}: the docstring does not end with a block `Columns:`")
    entries: list[str] = []
    for line in lines:
        if entries and line.startswith(8 * " "):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    out = []
    for entry in entries:
        if (match := ENTRY.fullmatch(entry)) is None:
            raise ValueError(
                f"measure {measure}: not of the form `NAME [UNIT, error _SUFFIX]: TEXT`: {entry}"
            )
        error = match["exact"] or (indexed(match["name"]) + match["suffix"] if match["suffix"] else "")
        out.append(Column(match["name"], match["unit"], error, match["what"]))
    return out


def indexed(name: str) -> str:
    """`x_i` for `x_1 ... x_k`; any other name as it is."""
    first, several, _ = name.partition(" ... ")
    return re.sub("_1$", "_i", first) if several else name


def patterns(described: list[Column]) -> list[str]:
    """The regular expressions of the names of columns and of their error columns."""
    names = [column.name for column in described]
    return [pattern(name) for name in names + [c.error for c in described if c.error not in ("", "exact")]]


def pattern(name: str) -> str:
    """The regular expression of the columns that a name stands for."""
    numbered = re.sub(r"_i(?=_|$)", r"_\\d+", indexed(name))
    return re.sub("<(.+?)>", lambda part: f"(?:{'|'.join(named(part[1]))})", numbered)


def named(kind: str) -> list[str]:
    """The regular expressions of what `<kind>` stands for: the name of a measure, or the columns of a
    measure."""
    return [*measures()] if kind == "measure" else patterns(of_measure(kind))


def sources(path: str) -> list[str]:
    """The citations in the docstring of the module of a function."""
    return CITATION.findall(" ".join(docstring(path, of_module=True).split()))


def page() -> str:
    """docs/columns.md."""
    parts = [INTRODUCTION, "## Of every run\n", *table(of_loop())]
    for measure, path in measures().items():
        file = "/".join(path.split(".")[:-1]) + ".py"
        cited = re.sub(ARXIV, r"[arXiv:\1](https://arxiv.org/abs/\1)", "; ".join(sources(path)))
        parts += [f"\n## `{measure}`\n", escaped(first_sentence(docstring(path))) + "\n"]
        parts += [*([f"Source: {cited}."] if cited else []), f"Code: [{measure}.py](../{file}).\n"]
        parts += table(of_measure(measure))
    return "\n".join(parts) + "\n"


def table(described: list[Column]) -> list[str]:
    """Columns as the lines of a table in markdown."""
    lines = ["| column | unit | error column | what it is |", "|---|---|---|---|"]
    for column in described:
        error = column.error if column.error in ("", "exact") else f"`{column.error}`"
        lines.append(f"| `{column.name}` | {column.unit} | {error} | {escaped(column.what)} |")
    return lines


def escaped(text: str) -> str:
    """The text of a docstring as markdown in a table; `code` stays code."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


if __name__ == "__main__":
    print(page(), end="")
