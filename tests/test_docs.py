"""Every command that the documentation shows, run on less data and for fewer steps."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest
from conftest import CIFAR, ROOT

from sharpcli.config.folders import options

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def modules(page, folder, monkeypatch):
    """Writes each python block of a page into the module that its first line names, as in `# lion.py`."""
    monkeypatch.syspath_prepend(str(folder))
    for code in blocks(page, "python"):
        if name := re.match(r"# (\w+)\.py\n", code):
            (folder / f"{name[1]}.py").write_text(code)
            sys.modules.pop(name[1], None)


IN_ORDER = (
    "tutorial.md",
    "faq.md",
)  # test_tutorial.py runs them as they are written, one command after the other
CASES = [
    (page, i, block)
    for page in PAGES
    if page.name not in IN_ORDER
    for i, block in enumerate(blocks(page, "bash"))
]


def smaller(words):
    """The same command on a smaller problem."""
    if words[1:3] == ["claim", "check"]:
        return [*words, "--dirty"]  # a page may be tried before its code is committed
    if words[1] != "train" or "--cfg" in words:
        return words
    text, more = " ".join(words), []
    if "steps=" not in text:
        more += ["steps=20", "measure_every=10"]
    if "cifar10" in text:
        more += ["data.train_examples=60", "data.test_examples=30", "measure_examples=8"]
    elif not re.search(r"data=|data\._target_|problem=", text) and "sparse" not in text:
        more += ["data.train_examples=60"]
    if not re.search(r"model\b|problem=|sparse|resnet", text):
        more += ["model.widths=[6]"]
    return [*words, *more]


@pytest.mark.parametrize("page, number, block", CASES, ids=[f"{page.name}-{i}" for page, i, _ in CASES])
def test_the_commands_of_a_page_work(sharp, folder, monkeypatch, page, number, block):
    if "cifar10" in block and not (CIFAR / "cifar-10-batches-py").is_dir():
        pytest.skip("no CIFAR-10 here")
    modules(page, folder, monkeypatch)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], check=True, cwd=folder)
        elif words:
            assert words[0] == "sharp", line
            said = sharp(*smaller(words)[1:])
            assert said.code == 0, (line, said.err)


def test_the_talk_s_page_has_every_claim_and_the_verdicts_of_the_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    gen_talk = importlib.import_module("gen_talk")
    page = (ROOT / "docs/talk.md").read_text()
    assert page == gen_talk.page(), "make verdicts writes it again"
    assert all(f"`{claim}`: " in page for claim in options("claim")), "name each claim in docs/talk.yaml"
    assert "`sparse_recovery`: holds" in page and not re.search(r"\|\s*\|\n", page)


def test_links_lead_to_files_and_targets_named_are_in_the_makefile():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
        for target in re.findall(r"^make (\w+)", "\n".join(blocks(page, "console")), re.M):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text()
