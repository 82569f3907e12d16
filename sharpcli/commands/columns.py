"""The columns of a run's rows, in metrics.jsonl and measured.jsonl, and the page docs/columns.md that lists them;
read from the files of the measures, without importing torch.

`make columns` writes the page. A measure describes its columns in the last paragraph of its function's docstring:

    Columns:
        NAME [UNIT]: what the column is
        NAME [UNIT, exact]: what the column is; it has no error but rounding
        NAME [UNIT, error _SUFFIX]: what the column is, in a text that may go on in
            lines indented further; the column NAME_SUFFIX holds its error

UNIT is `-` for a number without a unit. A NAME may stand for several columns: `x_1 ... x_k` and `x_i_y` for all
numbers in place of 1 and i, `<scores>` for each column of the measure `scores`, and `<measure>` for the name of any
measure. The sources of a measure are the citations in the docstring of its file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sharpcli import CONF
from sharpcli.commands.show import PACKAGE, docstring, first_sentence, target

# columns that no measure writes, by the same grammar
LOOP = """Columns:
    step [-]: the number of steps taken before this row, whose columns are about the weights before the next step
    epoch [-]: step over the number of steps in an epoch
    lr [weight^2/loss]: the step size of the next step, and of the last step in the row after it; in weight for Adam
        and RMSProp, whose steps are divided by P
    edge [loss/weight^2, exact]: the edge of stability, the sharpness above which the optimizer diverges on a quadratic:
        2/lr for gradient descent; absent for an optimizer that states none
    base_edge [loss/weight^2, exact]: SAM: the edge of the optimizer that SAM wraps
    central_variance [weight^2]: method=central_flow: tr S, S the covariance of gradient descent's oscillation around
        the flow: the predicted mean of |w_t - w|^2 over steps t (Cohen et al. 2024, arXiv:2410.24206)
    diverged [-]: true in a row whose weights are not finite or whose train_loss is beyond 3.4e38, and with replicas
        in all later rows of that replica; else absent
    diverged_at [-]: replicas: the step at which this replica diverged, in the first row that says so
    replica [-]: replicas: the number of the replica, from 0
    seed [-]: replicas: the seed of the replica; settings in which the replicas differ are columns in its place or
        beside it, by their names (lr, optimizer.rho)
    seconds [s]: the time spent on the run before this row was written, by all processes that worked on it
    params [-]: `sharp measure` with --params or --by: the pattern or the layer of the parameters that were measured
    provenance [-]: `sharp measure`: the command, the versions and the settings of the measures
    run [-]: `sharp measure -o`: the name of the run
    file [-]: `sharp measure -o`: the path of the file of weights
    <measure>_products [-]: the number of products with the Hessian, or with a matrix of the same cost, each over all
        measured examples
    <measure>_gradients [-]: the number of gradients over all measured examples; a value of the loss counts a third
    <measure>_examples [-]: the number of measured examples
    <measure>_seconds [s]: the time that the measure took
"""

INTRODUCTION = """# The columns

Every column that a row of a run can hold: in `metrics.jsonl`, which training writes, and in `measured.jsonl`, which
`sharp measure` writes. Made by `make columns` from the docstrings in `sharpcli/measures/`: edit those.

Conventions:

- L is the training loss, a mean over the n examples; `loss=half_squared` is half the squared error, summed over the
  outputs of an example: (1/2n) sum_i |f_i - y_i|^2. Losses of a test set are means in the same way.
- w [D] are the weights, flat; g is the gradient and H the Hessian of L at w; lr is the step size.
- The sharpness `lambda_1` is the algebraically largest eigenvalue of H, not the largest in absolute value.
- Curvature is that of the measured examples, the first `measure_examples` of the training set, without augmentation.
- Units: `weight` is that of w, `loss` that of L, `output` that of the outputs of a model, `-` a number without a unit.
- The error column holds an estimated error of the column beside it: `_error` of an eigenvalue, `_stderr` a standard
  error over random samples, `_spread` the difference between the best and the worst start of an ascent. `exact`: no
  error but rounding.
- A value that is not a finite number is null. `x_1 ... x_k` and `x_i_residual` stand for the columns of all numbers 1
  ... k, `<scores>` for each column of the measure `scores`, and `<measure>` for the name of each measure.
"""

ENTRY = re.compile(
    r"(?P<name>[\w<>]+(?: \.\.\. \w+)?) \[(?P<unit>[^],]+)(?:, (?P<exact>exact)|, error (?P<error>_\w+))?\]: (?P<what>.+)"
)
# names and a year, with the number at arXiv and the place in the paper where the file gives them
CITATION = re.compile(
    r"[A-Z][\w-]+(?:(?:, | & )[A-Z][\w-]+)*(?: et al\.)? (?:19|20)\d\d(?:, arXiv:[\w./-]*\w)?"
    r"(?:, (?:section|definition|appendix|figure) \w+)?"
)


@dataclass(frozen=True)
class Column:
    """A column, or several of one form: its `name` and `unit`, what it is, its `error` column ("" for none, or
    exact), the `measure` that writes it ("" for the loop) and the `source` of that measure."""

    name: str
    unit: str
    error: str
    what: str
    measure: str
    source: str

    @property
    def names(self) -> list[str]:
        """The names of this column and of its error column."""
        return [self.name, *([self.error] if self.error not in ("", "exact") else [])]


def columns() -> dict[str, list[Column]]:
    """The columns of each measure, and under "" those of the loop. Raises ValueError for a measure without a block,
    and for a line that is no entry."""
    return {"": block("", LOOP, "")} | {measure: of_measure(path) for measure, path in measures().items()}


def measures() -> dict[str, str]:
    """The path of the function of each measure, by the measure's name."""
    return {file.stem: target(file.read_text()) for file in sorted((CONF / "measure").glob("*.yaml"))}


def of_measure(path: str) -> list[Column]:
    """The columns that the docstring of a measure's function describes."""
    return block(path.rpartition(".")[2], docstring(path), "; ".join(sources(path)))


def block(measure: str, text: str, source: str) -> list[Column]:
    """The columns of the block that ends a docstring."""
    head, *lines = text.rstrip().rpartition("\n\n")[2].split("\n")
    if head != "Columns:":
        raise ValueError(f"measure {measure}: the last paragraph of its docstring is no block `Columns:`")
    entries: list[str] = []
    for line in lines:
        if entries and line.startswith(8 * " "):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    out = []
    for entry in entries:
        match = ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"measure {measure}: not of the form NAME [UNIT, error _SUFFIX]: TEXT: {entry}")
        one = match["name"].partition(" ... ")
        name = re.sub(r"_1$", "_i", one[0]) if one[1] else one[0]
        error = match["exact"] or (f"{name}{match['error']}" if match["error"] else "")
        out.append(Column(match["name"], match["unit"], error, match["what"], measure, source))
    return out


def sources(path: str) -> list[str]:
    """The citations in the docstring of the file of a measure."""
    file = PACKAGE.joinpath(*path.split(".")[1:-1]).with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return CITATION.findall(" ".join(text.split()))


def pattern(name: str) -> str:
    """The regular expression of the columns that a name stands for."""
    first, several, _ = name.partition(" ... ")
    out = ""
    for part in re.split(r"(<\w+>)", re.sub(r"_1$", "_i", first) if several else first):
        if not part.startswith("<"):
            out += re.sub(r"_i(?=_|$)", r"_\\d+", part)
        elif part == "<measure>":
            out += r"\w+"
        else:
            out += "(" + "|".join(patterns(part.strip("<>"))) + ")"
    return out


def patterns(measure: str) -> Iterator[str]:
    """The regular expressions of the columns and error columns of a measure, or of the loop for ""."""
    described = of_measure(measures()[measure]) if measure else block("", LOOP, "")
    return (pattern(name) for column in described for name in column.names)


def page() -> str:
    """docs/columns.md."""
    parts = [INTRODUCTION]
    paths = measures()
    for measure, described in columns().items():
        if measure:
            file = "/".join(paths[measure].split(".")[:-1]) + ".py"
            about = f"{first_sentence(docstring(paths[measure])).rstrip('.:;')}. [{file}](../{file})"
            source = re.sub(r"arXiv:([\w./-]*\w)", r"[arXiv:\1](https://arxiv.org/abs/\1)", described[0].source)
            parts.append(f"## `{measure}`\n\n{escaped(about)}\n\nSource: {source or '-'}\n")
        else:
            parts.append("## Of every run\n\nThese columns are written by the training loop and by `sharp measure`.\n")
        rows = ["| column | unit | error column | what it is |", "|---|---|---|---|"]
        for column in described:
            error = column.error if column.error in ("", "exact") else f"`{column.error}`"
            cells = (f"`{column.name}`", escaped(column.unit), error, escaped(column.what))
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def escaped(text: str) -> str:
    """A text of a docstring as the cell of a table in markdown; what stands in backticks is code there too."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


if __name__ == "__main__":
    print(page(), end="")
