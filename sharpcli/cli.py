"""The commands: read words, call one function, print one result. Importing this never imports torch."""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from sharpcli import __version__
from sharpcli.config import folders
from sharpcli.config.paths import exists, expanded, folder_of_runs, path_of
from sharpcli.errors import OwnFault, Refusal, faults, printable, signals

app = typer.Typer(
    name="sharp",
    help="The laboratory for sharpness, implicit bias and generalization of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would take the brackets of measure=[sharpness,trace] for a style
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
SETTING = re.compile(r"\+{0,2}[A-Za-z_][\w.@-]*=|~[A-Za-z_][\w.@-]*(=|$)")  # a word that sets or removes


def _use_folder(folder: str | None) -> None:
    folders.use(folder)


# no command reads the value: the folder is added as the option is parsed, before words are completed
ConfigDir = Annotated[
    str | None,
    typer.Option(
        "--config-dir",
        metavar="DIR",
        callback=_use_folder,
        is_eager=True,
        help="A folder of yaml files of your own, with the groups of conf/; or SHARP_CONFIG_DIR.",
    ),
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def complete_words(ctx: typer.Context, incomplete: str) -> list[str]:
    """Groups, options and settings, from Hydra's own completer."""
    from sharpcli.commands.completion import overrides

    return overrides(incomplete)


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the runs."""
    from sharpcli.runs_dir import in_directory

    return [run.name for run in in_directory(folder_of_runs([])) if run.name.startswith(incomplete)]


def complete_plots(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the plots."""
    from sharpcli.commands.completion import options_of

    return options_of("plot", incomplete)


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    """The laboratory for sharpness, implicit bias and generalization of neural networks."""
    if version:
        print(f"sharp {__version__}")
        raise typer.Exit


@app.command(context_settings=PASS_ON)
def train(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", autocompletion=complete_words)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the jobs, with the state of the run of each.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Train one run, or with -m a sweep; the same command again resumes, and skips what is complete.

    \b
    Example: sharp train method=gd,sgd,sam,label_noise lr=0.005,0.05 -m
    """
    from sharpcli.commands import train

    run = train.dry_run if dry_run else train.main
    run([*(words or []), *ctx.args])


@app.command()
def measure(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN|FILE... [KEY=VALUE]...", autocompletion=complete_runs)
    ],
    step: Annotated[str, typer.Option(help="Checkpoints to measure, as in 400,800; all by default.")] = "",
    params: Annotated[str, typer.Option(help="Only the parameters of this pattern, as in 'layer3.*'.")] = "",
    by: Annotated[str, typer.Option(help="layer: one line for each layer.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for each point instead of a table.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Append rows to this .jsonl, not to the run's own.")
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Write the eigenvectors to this .safetensors, named as the parameters."),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Measure the checkpoints of runs, or a file of weights; a run's numbers are added to its measured.jsonl.

    Of a run, without measure=..., what it measured itself: with the same settings the same numbers, bit for
    bit. Of a file, say model=, data= and loss= as for sharp train; `sharp show measure` lists the measures.

    \b
    Example: sharp measure runs/gd-network-lr0.2-seed0-1a2b3c4d --step 400,800 measure=[sharpness,trace]
    Example: sharp measure weights.pt model=resnet data=cifar10 loss=cross_entropy measure=[sharpness] --json
    """
    from sharpcli.commands.measure import Options, measure_all

    names, overrides = _split(words)
    if not any(word.startswith("weights=") for word in overrides):
        _need_runs(names, "sharp measure RUN|FILE... [KEY=VALUE]...")
    into = None if out is None else expanded(out)
    directions = None if vectors is None else expanded(vectors)
    options = Options(params, by, as_json, into, directions)
    measure_all(names, overrides, step, folder_of_runs(overrides), options)


@app.command(add_help_option=False)
def plot(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="PLOT", help="As sharp show plot lists.", autocompletion=complete_plots)
    ] = "",
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN... [where CONDITION] [KEY=VALUE]...", autocompletion=complete_runs),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="PNG, PDF or SVG; a table: TXT, MD, TEX or CSV; by its ending."),
    ] = None,
    wants_help: Annotated[
        bool, typer.Option("-h", "--help", help="Show this message, or after a PLOT its settings.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Draw runs, or all runs of a directory, or the rows of a file that sharp measure -o wrote.
    style=paper|paper_wide|talk|dark makes a figure for that.

    \b
    Example: sharp plot compare runs y=test_accuracy by=[method] -o compare.pdf
    Example: sharp plot compare runs where "lr > 0.01 and seed == 0" x="lr * step" style=paper -o compare.svg
    Example: sharp plot table runs -o table.tex
    Example: sharp plot scatter --help
    """
    if wants_help or not name:
        from sharpcli.commands.show import show

        print(show("plot", name, folder_of_runs([])) if name else ctx.get_help())
        return
    from sharpcli.commands.plot import draw

    words = words or []
    words, where = _condition(words)
    names, overrides = _split(words)
    into = None if out is None else expanded(out)
    print(draw(name, names, overrides, into, folder_of_runs(overrides), where))


claims = typer.Typer(
    name="claim", help="Published statements, checked: list, check, power, show.", no_args_is_help=True
)
app.add_typer(claims)


def complete_claims(ctx: typer.Context, incomplete: str) -> list[str]:
    """The claims' names."""
    from sharpcli.commands.completion import options_of

    return options_of("claim", incomplete)


ClaimWords = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]... [runs_dir=DIR]", autocompletion=complete_claims)
]
Tier = Annotated[str, typer.Option(help="All claims of a tier: quick (minutes), cpu (hours), gpu.")]
Jobs = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Runs at once.")]


@claims.command("list")
def claim_list(
    words: Annotated[list[str] | None, typer.Argument(metavar="[runs_dir=DIR]")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a table for a page.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """List the claims, with the last verdict on each.

    \b
    Example: sharp claim list --markdown
    """
    from sharpcli.claims import verdicts
    from sharpcli.commands.report import aligned, complain

    runs_dir = _only_runs_dir(words or [])
    if markdown:
        print("\n".join(verdicts.markdown(runs_dir, complain)))
    else:
        print("\n".join(aligned(verdicts.listing(runs_dir, complain), 5)))


@claims.command("check")
def claim_check(
    words: ClaimWords = None,
    tier: Tier = "",
    jobs: Jobs = 2,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Record verdicts of files that differ from the commit, too.")
    ] = False,
    shift: Annotated[
        int,
        typer.Option("--shift-seeds", min=0, help="Add this to all seeds, judge, and record nothing."),
    ] = 0,
    config_dir: ConfigDir = None,
) -> None:
    """Run what is missing for claims, judge them, and write verdict.json and a figure; exit code 1 where one
    fails.

    \b
    Example: sharp claim check label_noise_constant sparse_recovery
    """
    from dataclasses import replace

    from sharpcli.claims.claim import check, chosen
    from sharpcli.claims.history import refuse_dirty
    from sharpcli.claims.verdicts import line, summary

    names, overrides = _split(words or [])
    asked, runs_dir = [replace(c, shift=shift) for c in chosen(names, tier)], _only_runs_dir(overrides)
    if not dirty and not shift:
        refuse_dirty()
    results = []
    for claim, verdict in check(asked, runs_dir, jobs, _tell, dirty or bool(shift)):
        print("\n".join(line(claim, verdict)), flush=True)
        results.append(verdict)
    print(summary(results))
    raise typer.Exit(0 if all(verdict.expected for verdict in results) else 1)


@claims.command("power")
def claim_power(
    words: ClaimWords = None,
    tier: Tier = "",
    jobs: Jobs = 2,
    config_dir: ConfigDir = None,
) -> None:
    """Break the constants that claims predict, and show which checks turn; runs what is missing, as check
    does, and records nothing.

    \b
    Example: sharp claim power label_noise_constant sam_radius
    """
    from sharpcli.claims.claim import chosen, powers
    from sharpcli.claims.verdicts import power_lines, would_change

    names, overrides = _split(words or [])
    agains = []
    for claim, broken, of_checks, again in powers(
        chosen(names, tier), _only_runs_dir(overrides), jobs, _tell
    ):
        agains.append(again)
        print("\n".join(power_lines(claim, broken, of_checks, again)), flush=True)
    if len(agains) > 1:
        print(would_change(agains))


@claims.command("show")
def claim_show(
    word: Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_claims)],
    words: Annotated[list[str] | None, typer.Argument(metavar="[runs_dir=DIR]")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Explain a claim: statement, source, convention, runs, what is checked and what must fail; and the last
    verdict.

    \b
    Example: sharp claim show label_noise_constant
    """
    from sharpcli.claims.verdicts import about

    print("\n".join(about(word, _only_runs_dir(words or []))))


def complete_studies(ctx: typer.Context, incomplete: str) -> list[str]:
    """The studies' names."""
    from sharpcli.commands.completion import options_of

    return options_of("study", incomplete)


@app.command()
def study(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ID] [runs_dir=DIR]", autocompletion=complete_studies)
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Runs at once.")] = 2,
    config_dir: ConfigDir = None,
) -> None:
    """Look into an open question: run what is missing, print the table and write it with a figure; without
    ID, list them.

    \b
    Example: sharp study cost_to_flatness
    """
    from sharpcli.claims.study import listing, read, run
    from sharpcli.commands.report import aligned

    names, overrides = _split(words or [])
    if len(names) > 1:
        raise Refusal(f"sharp study takes one study; got {', '.join(names)}")
    folder = _only_runs_dir(overrides)
    if not names:
        print("\n".join(aligned(listing(), 2)))
        return
    print("\n".join(run(read(names[0]), folder, jobs, _tell)))
    print(f"figure: {folder / 'studies' / names[0] / 'figure.png'}")


@app.command()
def report(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]... [where CONDITION] [runs_dir=DIR]", autocompletion=complete_runs),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, an HTML file.")] = Path("report.html"),
    with_claims: Annotated[bool, typer.Option("--claims", help="With the verdict on every claim.")] = False,
    study: Annotated[str, typer.Option(metavar="ID", help="With a study's table and figure.")] = "",
    config_dir: ConfigDir = None,
) -> None:
    """Write runs, all of a folder by default, as one page: a table to sort, curves to zoom into, landscapes,
    what differs and where each run comes from; a single file that needs no network.

    \b
    Example: sharp report runs where "method == 'sam'" -o sam.html
    Example: sharp report --claims -o verdicts.html
    """
    from sharpcli.claims import study as studies
    from sharpcli.claims import verdicts
    from sharpcli.commands.page import Figure, write
    from sharpcli.commands.report import complain

    words, where = _condition(words or [])
    names, overrides = _split(words)
    folder = _only_runs_dir(overrides)
    shown = [Figure(**about) for about in verdicts.pictures(folder, complain)] if with_claims else []
    shown += [Figure(**studies.picture(study, folder))] if study else []
    print(write(names, where, folder, expanded(out), shown, sys.argv[1:]))


@app.command()
def board(
    words: Annotated[list[str] | None, typer.Argument(metavar="[runs_dir=DIR]")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8017,
    config_dir: ConfigDir = None,
) -> None:
    """Serve the page of sharp report over a folder of runs to this machine, kept up to date as rows arrive.

    \b
    Example: sharp board --port 9000
    """
    from sharpcli.commands.board import serve

    serve(_only_runs_dir(words or []), port)


@app.command()
def watch(
    words: Annotated[list[str] | None, typer.Argument(metavar="[runs_dir=DIR]")] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print the table a single time.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show the runs that are under way: step, loss, lambda_1 over its edge, time left; until none is.

    \b
    Example: sharp watch --every 10
    """
    from sharpcli.commands.watch import watch as draw

    draw(_only_runs_dir(words or []), every, once)


@app.command()
def tag(
    words: Annotated[
        list[str], typer.Argument(metavar="TAG RUN... [runs_dir=DIR]", autocompletion=complete_runs)
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Give runs a tag, by which sharp ls and plots choose them: where "tags.str.contains('paper')".

    \b
    Example: sharp tag paper best:test_accuracy
    """
    from sharpcli.commands.keep import tag as give

    names, overrides = _split(words)
    print("\n".join(give(names, _only_runs_dir(overrides), remove)))


@app.command()
def note(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN [TEXT] [runs_dir=DIR]", autocompletion=complete_runs)
    ],
    config_dir: ConfigDir = None,
) -> None:
    """Keep a text with a run, or show the one that is kept; sharp show RUN shows it too.

    \b
    Example: sharp note latest "the one with the spike at step 300"
    """
    from sharpcli.commands.keep import note as keep

    overrides = [word for word in words if word.startswith("runs_dir=")]
    texts = [word for word in words if not word.startswith("runs_dir=")]
    print("\n".join(keep(texts, _only_runs_dir(overrides))))


@app.command()
def rm(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]... [runs_dir=DIR]", autocompletion=complete_runs)
    ] = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete for good; of no RUN, what is in .trash.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Move runs into .trash beside them, from which mv brings them back. Asks first.

    \b
    Example: sharp rm gd-network-lr0.1-seed0
    Example: sharp rm --purge --yes
    """
    from sharpcli.commands.keep import rm as remove

    def agreed(question: str) -> bool:
        if not yes and not sys.stdin.isatty():
            raise Refusal(f"{question} nobody can answer here; --yes agrees")
        return yes or typer.confirm(question)

    names, overrides = _split(words or [])
    print("\n".join(remove(names, _only_runs_dir(overrides), purge, agreed)))


MULTIRUN = ("-m", "--multirun")  # of sharp train


@app.command(context_settings={"ignore_unknown_options": True})
def rerun(
    words: Annotated[list[str], typer.Argument(metavar="RUN [KEY=VALUE]...", autocompletion=complete_runs)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the jobs, with their states.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Give the command again that made a run, with other settings where some are named; runs_dir= for another
    folder.

    \b
    Example: sharp rerun latest runs_dir=again
    Example: sharp rerun best:test_accuracy seed=1,2,3 -m
    """
    from sharpcli.commands import train as training
    from sharpcli.commands.keep import command_of
    from sharpcli.commands.report import note as say

    flags = [word for word in words if word.startswith("-")]
    if unknown := [word for word in flags if word not in MULTIRUN]:
        raise Refusal(f"sharp rerun: no such option: {unknown[0]}; possible: -m, --dry-run, --config-dir")
    names, own = _split([word for word in words if word not in flags])
    if len(names) != 1:
        raise Refusal(f"sharp rerun takes one run; got {', '.join(names) or 'none'}; sharp ls lists the runs")
    former = command_of(names[0], folder_of_runs([]))
    changed = {word.partition("=")[0] for word in own}
    command = [*(word for word in former if word.partition("=")[0] not in changed), *own, *flags]
    say(f"sharp train {shlex.join(command)}")
    (training.dry_run if dry_run else training.main)(command)


@app.command()
def ls(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DIR] [where CONDITION] [sort=COLUMN] [columns=[...]] [runs_dir=DIR]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a run: its settings and its last row.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """List the runs of a directory: where each is and what it last saw. A condition, an order and columns may
    name settings (method, lr, seed, ...) and what the last row holds; sort=-COLUMN is from the largest.

    \b
    Example: sharp ls runs_dir=/scratch/me/runs
    Example: sharp ls where "method == 'sam' and lr > 0.01" sort=-test_accuracy columns=[lr,test_accuracy]
    """
    from sharpcli.commands.listing import ls as lines

    words, where = _condition(words or [])
    names, overrides = _split(words)
    if len(names) > 1:
        raise Refusal(f"sharp ls takes one directory; got {', '.join(names)}")
    folder = Path(names[0]) if names else folder_of_runs(overrides)
    print("\n".join(lines(folder, where, overrides, as_json)))


@app.command()
def diff(
    words: Annotated[list[str], typer.Argument(metavar="RUN RUN", autocompletion=complete_runs)],
    config_dir: ConfigDir = None,
) -> None:
    """Compare two runs: the settings that differ, the last numbers side by side, and the first step at which
    their rows part. A run is named by its path, the beginning of its name, its hash, latest, or best:COLUMN.

    \b
    Example: sharp diff latest best:test_accuracy
    """
    from sharpcli.commands.diff import diff as lines

    names, overrides = _split(words)
    print("\n".join(lines(names, _only_runs_dir(overrides))))


@app.command()
def export(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN... [where CONDITION] [runs_dir=DIR]", autocompletion=complete_runs),
    ],
    to: Annotated[str, typer.Option(help="tensorboard, wandb or mlflow.")] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A .parquet or .csv file; of a tracker, its folder."),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Write all rows of runs, with their settings, into one table; or hand them to a tracker: TensorBoard,
    Weights & Biases (WANDB_MODE=offline) or MLflow.

    \b
    Example: sharp export runs -o all.parquet
    Example: sharp export runs where "method == 'sam'" -o sam.csv
    Example: sharp export runs --to tensorboard
    """
    from sharpcli.commands.export import export as hand_on
    from sharpcli.commands.export import to_file

    words, where = _condition(words)
    names, overrides = _split(words)
    _need_runs(names, "sharp export RUN... -o FILE, or --to TRACKER")
    into = None if out is None else expanded(out)
    if to:
        if where is not None:
            raise Refusal("where chooses rows of a file; a tracker takes whole runs")
        print("\n".join(hand_on(names, to, into, _only_runs_dir(overrides))))
    else:
        print(to_file(names, where, into, _only_runs_dir(overrides)))


@app.command()
def show(
    word: Annotated[str, typer.Argument(metavar="RUN|GROUP", autocompletion=complete_runs)],
    words: Annotated[list[str] | None, typer.Argument(metavar="[OPTION] [runs_dir=DIR]")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Show a run (settings, provenance, last row, checkpoints), the options of a group such as optimizer, or
    an option with its settings.

    \b
    Example: sharp show optimizer
    Example: sharp show measure sharpness
    """
    from sharpcli.commands.show import show as text_of

    names, overrides = _split(words or [])
    if len(names) > 1:
        raise Refusal(f"sharp show takes a run, or a group and an option; got {', '.join([word, *names])}")
    path = str(expanded(word)) if word.strip() else word  # Path("") is the working directory
    print(text_of(path, names[0] if names else None, _only_runs_dir(overrides)))


def _condition(words: list[str]) -> tuple[list[str], str | None]:
    """The words without `where CONDITION`, and the condition."""
    if "where" not in words:
        return words, None
    at = words.index("where")
    if at + 1 == len(words):
        raise Refusal("where: no condition; give one, as in where \"method == 'sam' and lr > 0.01\"")
    return [*words[:at], *words[at + 2 :]], words[at + 1]


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Names, and settings: a word such as `key=value` or `~key` that is no path that exists, and no run."""
    runs_dir = folder_of_runs(word for word in words if not exists(word))
    names, settings = [], []
    for word in words:
        if not SETTING.match(word) or exists(word) or exists(runs_dir / word):
            names.append(str(expanded(word)) if word.startswith("~") else word)
        elif word.startswith("weights="):
            settings.append(f"weights={path_of(word.partition('=')[2])}")
        else:
            settings.append(word)
    return names, settings


def _only_runs_dir(words: list[str]) -> Path:
    """The runs directory, where that is all that may be set, by its name alone too: a claim's and a study's
    settings are in its yaml."""
    words = [f"runs_dir={word}" if "=" not in word and Path(word).is_dir() else word for word in words]
    if wrong := [word for word in words if not word.startswith("runs_dir=")]:
        raise Refusal(f"{wrong[0]}: only runs_dir=DIR can follow here; sharp train takes settings")
    return folder_of_runs(words)


def _tell(message: str) -> None:
    from sharpcli.commands.report import note

    note(message)


def _need_runs(names: list[str], usage: str) -> None:
    if not names:
        raise Refusal(f"no run given; {usage}; sharp ls lists the runs")


def main(as_program: bool = False) -> int:
    """The entry point; returns the exit code.

    A refusal is one line and exit code 2, Typer's own too; so is an exception in a user's own code. A fault
    of sharp's is a traceback and exit code 1. A signal ends it with 128 + its number (Ctrl-C: 130); as a
    program at any moment, called from Python only while something has to be saved.
    """
    # a worker process would begin its path of modules with the working directory: a random.py there would run
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    with signals.at_once() if as_program else nullcontext(), folders.kept():
        try:
            code = _code_of_command()
            if sys.stdout is not None:  # closed by `sharp ls >&-`
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has gone, as in `sharp ls | head`
            _discard_output()
            return 141
        except OSError as problem:
            _discard_output()
            return _say(f"standard output: cannot write ({problem.strerror or problem}); make room")
        return code


def _code_of_command() -> int:
    """Runs the command and returns its exit code. Raises OSError where standard output takes no more."""
    try:
        code = app(standalone_mode=False)
    except Refusal as problem:
        return _say(str(problem), problem.code)
    except OwnFault as fault:
        print(fault, file=sys.stderr)
        return 1
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort) as interrupt:
        signum = signals.number_of(interrupt.__cause__ or interrupt)
        return _say(signals.how(signum), 128 + signum)
    except Exception as problem:
        if hasattr(problem, "format_message"):
            return _say(problem.format_message())  # a usage error of Typer's
        if isinstance(problem, BrokenPipeError):
            raise
        if isinstance(problem, OSError) and problem.filename is None and sys.stdout is not None:
            print(flush=True)  # raises again where it is the output that fails
        told = faults.told(problem)
        if isinstance(told, Refusal):
            return _say(str(told))
        print(told, file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _discard_output() -> None:
    """Sends what is left of standard output nowhere, so that Python does not try again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int = 2) -> int:
    if os.environ.get("RANK", "0") == "0":  # one line, of however many processes torchrun started
        with suppress(OSError):  # standard error may be full or closed, too
            print(f"sharp: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(as_program=True))
