"""The tutorial and the frequent questions: every command as it is written, in order and in one folder,
against the output that the page shows.

Words must be the same. A number may differ by 0.1 %, or as far as an HTML comment in front of the output
says: `<!-- numbers within 3 %, losses within 60 % -->`, a loss being a number whose name contains `loss`.
Whole numbers must be equal. Errors, which follow a `±`, may differ by a factor of 10. Not compared are the
hash in a run's name, what a measure cost, and the step at which a run was interrupted.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from typing import NamedTuple

import pytest
from conftest import ROOT

PAGES = ("tutorial", "faq")
RTOL, ERROR_FACTOR = 1e-3, 10
BLOCK = re.compile(
    r"^(?:<!-- (?P<within>numbers within [^>]*) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S
)
NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")
HASH = re.compile(r"-(?:[0-9a-f]{16}|[0-9a-f]{8})\b")
AS_A_BAR = re.compile(
    r"step \d+/\d+ |\[job \d+\] "
)  # lines that a terminal shows as a bar, or as a heading of it
INTERRUPTED = re.compile(r"(interrupted|resuming \S+) at step \d+")
COSTS = ("products", "gradients", "seconds", "examples")


class Tolerance(NamedTuple):
    """How far a number may be from the page's, relatively, and how far a loss."""

    number: float = RTOL
    loss: float = RTOL

    @classmethod
    def stated(cls, within):
        """What a comment says, as in `numbers within 3 %, losses within 60 %`."""
        shares = [float(percent) / 100 for percent in re.findall(r"within ([\d.]+) %", within or "")]
        return cls(shares[0], shares[-1]) if shares else cls()


DEFAULT = Tolerance()


def normal(text):
    """The lines of an output without what no page can foresee."""
    text = INTERRUPTED.sub(r"\1 at some step", HASH.sub("-hash", text))
    return [" ".join(line.split()) for line in text.strip("\n").splitlines()]


def differences(shown, said, tolerance=DEFAULT):
    """The lines of a page's output that a command did not say so, each beside what it said instead."""
    out, header, of_costs = [], "", False
    for line, got in zip_longest(normal(shown), normal(said)):
        if line is None:
            out.append((line, got))
            continue
        if got is None or not (same_words(line, got) if of_costs else same(line, got, tolerance, header)):
            out.append((line, got))
        of_costs = line != "" and (of_costs or all(word in line.split() for word in COSTS))
        header = header if NUMBER.search(line) else line
    return out


def same_words(line, got):
    return NUMBER.sub("#", line) == NUMBER.sub("#", got)


def same(line, got, tolerance, header=""):
    """Whether two lines have the same words and numbers; a number's name is the word before it, or above."""
    if not same_words(line, got):
        return False
    tokens, others, names = line.split(), got.split(), header.split()
    error = False
    for i, (token, other) in enumerate(zip(tokens, others, strict=True)):
        before = tokens[i - 1] if i else ""
        name = before if re.search("[a-z]", before) or len(names) != len(tokens) else names[i]
        error = error or token == "±"
        for a, b in zip(NUMBER.findall(token), NUMBER.findall(other), strict=True):
            if not close(a, b, tolerance.loss if "loss" in name else tolerance.number, error):
                return False
    return True


def close(a, b, rtol, error):
    if a == b:
        return True
    x, y = float(a), float(b)
    if error:
        return x > 0 and y > 0 and max(x / y, y / x) <= ERROR_FACTOR
    return not (a.isdigit() and b.isdigit()) and abs(x - y) <= rtol * max(abs(x), abs(y))


def blocks(page):
    """The blocks of a page in order: language, text, and the tolerance stated in front of it."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return [(m["language"], m["body"], Tolerance.stated(m["within"])) for m in BLOCK.finditer(text)]


def run(line, sharp, folder):
    """What a command of a page prints: remarks and refusals, then the output."""
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        command = [sys.executable, *words[1:]]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, check=True, cwd=folder, env=env, stdout=subprocess.PIPE, text=True
        ).stdout.rstrip()
    assert words[0] == "sharp", line
    said = sharp(*words[1:])
    remarks = [text for text in said.err.splitlines() if not AS_A_BAR.match(text)]
    assert said.code == 0, (line, said)
    return "\n".join([*remarks, said.out.rstrip()])


def interrupted(line, process, folder):
    """What a command prints that Ctrl-C stops as soon as its run has measured a few times."""
    known = set(folder.glob("runs/*"))
    child = process(*shlex.split(line)[1:])

    def measured():
        files = [run / "metrics.jsonl" for run in set(folder.glob("runs/*")) - known]
        return any(file.exists() and file.read_text().count("\n") > 5 for file in files)

    while not measured():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    err = child.communicate()[1]
    return "\n".join(text for text in err.splitlines() if not AS_A_BAR.match(text))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_its_commands_print(sharp, process, folder, page):
    wrong, said = [], ""
    for language, body, tolerance in blocks(page):
        if language == "python":
            name = re.match(r"# (\w+\.py)", body)[1]
            (folder / name).write_text(body)
        elif language == "bash":
            assert not said.strip(), f"a command of {page}.md whose output is not shown: {said}"
            said = "\n".join(run(line, sharp, folder) for line in body.splitlines())
        elif language == "console":
            command, rest = body.split("\n", 1)
            text = interrupted(command.removeprefix("$ "), process, folder)
            wrong += differences(rest.removeprefix("^C\n"), text)
        elif language == "text":
            wrong += differences(body, said, tolerance)
            said = ""
    assert not wrong, f"docs/{page}.md is out of date:\n" + "\n".join(f"- {a}\n+ {b}" for a, b in wrong)


def test_numbers_are_compared_and_words_strictly():
    page = "runs/gd-network-lr0.3-seed0-594ada4f: complete\nlambda_1 settled at 6.89, 2/lr = 6.667\n"
    assert not differences(page, page.replace("594ada4f", "00000000").replace("6.89,", "6.891,"))
    assert differences(page, page.replace("6.89,", "6.99,"))
    assert not differences(page, page.replace("6.89,", "6.99,"), Tolerance(0.03, 0.6))
    assert differences(page, page.replace("settled", "ended"))
    assert differences(page, page.replace("lr0.3", "lr0.4"))
    assert differences(page, page + "another line\n")
    assert differences(page, page.splitlines()[0])


def test_losses_and_errors_have_tolerances_of_their_own():
    table = "step  train_loss  lambda_1\n1000  0.018  6.85\n"
    assert not differences(table, table.replace("0.018", "0.025"), Tolerance(0.03, 0.6))
    assert differences(table, table.replace("6.85", "9.85"), Tolerance(0.03, 0.6))
    assert differences(table, table.replace("1000", "1020"), Tolerance(0.03, 0.6))
    assert not differences("trace  130.6  ± 6", "trace  130.6  ± 5")
    assert differences("trace  130.6  ± 6", "trace  130.6  ± 0.06")
