"""The tutorial and the frequent questions: every command as it is written, in order and in one folder, against
the output that the page shows.

Words must be the same. Numbers may differ as far as an HTML comment in front of the output says, `<!-- numbers
within 3 %, losses within 60 % -->`, where a loss is a number after a word that contains `loss`; without a
comment by 0.1 %. Whole numbers on both sides must be equal. Errors, which follow a `±`, may differ by a factor
of 10. Not compared are the hash of a run, the costs of a measure (products, gradients, seconds), and the step
at which a run was interrupted.
"""

import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
from conftest import ROOT

PAGES = ("tutorial.md", "faq.md")
BLOCK = re.compile(r"(?:<!-- (?P<within>numbers within [^>]*) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")
RTOL, ERROR_FACTOR = 1e-3, 10
PROGRESS = re.compile(r"step \d+/\d+ |\[job \d+\] ")  # lines that a terminal shows as a bar
COSTS = ("products", "gradients", "seconds", "examples")


@dataclass
class Shown:
    """What a command prints by the page: the text, and the relative tolerances of its numbers and losses."""

    text: str
    rtol: float = RTOL
    loss_rtol: float = RTOL

    @classmethod
    def of(cls, text, within):
        percent = [float(n) / 100 for n in re.findall(r"within ([\d.]+) %", within or "")] or [RTOL]
        return cls(text, percent[0], percent[-1])

    def differences(self, said):
        """The pairs of lines that differ; a line `...` on the page stands for any lines."""
        wanted, got = lines(self.text), lines(said)
        in_costs, out = False, []
        while wanted:
            line = wanted.pop(0)
            if line == "...":
                while got and wanted and not self.same(wanted[0], got[0], False):
                    got.pop(0)
                got = got if wanted else []
                continue
            if not got or not self.same(line, got[0], in_costs):
                out.append((line, got[0] if got else None))
            in_costs = all(word in line for word in COSTS) or (in_costs and line != "")
            got = got[1:]
        return out + [(None, line) for line in got]

    def same(self, wanted, got, in_costs):
        if words(wanted) != words(got):
            return False
        if in_costs:
            return True
        before, pairs = "", list(zip(NUMBER.finditer(wanted), NUMBER.finditer(got), strict=True))
        for number, other in pairs:
            before = wanted[: number.start()]
            a, b = number[0], other[0]
            if before.endswith("interrupted at step ") or before.endswith(" at step ") and "resuming" in before:
                continue
            if a.lstrip("-").isdigit() and b.lstrip("-").isdigit():
                ok = a == b or "±" in before
            elif "±" in before:
                ok = float(a) == float(b) or 1 / ERROR_FACTOR <= float(b) / float(a) <= ERROR_FACTOR
            else:
                rtol = self.loss_rtol if "loss" in before.split()[-1:][0:1].__str__() else self.rtol
                ok = abs(float(a) - float(b)) <= rtol * abs(float(a))
            if not ok:
                return False
        return True
