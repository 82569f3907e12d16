"""The page and the notebook on measuring from Python, run as they are written."""

import re
import warnings

import nbformat
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import sharpcli as sharp


def gpt():
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=17, n_positions=12)
    config.bos_token_id = config.eos_token_id = 0
    return GPT2LMHeadModel(config).eval()


def test_every_block_of_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 5), torch.randint(0, 3, (40,))
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    ids = torch.randint(0, 17, (6, 9))
    labels = ids.clone()
    labels[3:, 5:] = -100
    names = {"torch": torch, "model": model, "inputs": inputs, "targets": targets}
    names |= {"loss": nn.CrossEntropyLoss(), "data": (inputs, targets), "v": torch.randn(57)}
    names |= {"grid": torch.linspace(-1, 1, 9), "language_model": gpt()}
    names["batches"] = [
        {"input_ids": part, "labels": of} for part, of in ((ids[:3], labels[:3]), (ids[3:], labels[3:]))
    ]
    text = (ROOT / "docs" / "python.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(code, "docs/python.md", "exec"), names)
    assert len(names["watch"].rows) == 5 and names["found"]["lambda_1"] > 0
    assert [row["step"] for row in names["watch"].rows] == [0, 5, 10, 15, 20]


def test_the_notebook_runs_and_its_sharpness_reaches_the_edge():
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "own_loop.ipynb", as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Jupyter itself
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [str(out) for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("lambda_1" in out and "±" in out for out in outputs)
    assert any("image/png" in out for out in outputs) and not any("ename" in out for out in outputs)


def test_the_names_of_the_page_are_those_of_the_package():
    text = (ROOT / "docs" / "python.md").read_text()
    for name in set(re.findall(r"sharp\.(\w+)\(", text)):
        assert name in sharp.__all__, name


@pytest.mark.parametrize("kind", ["lightning", "huggingface"])
def test_the_callbacks_of_the_page_are_there(kind):
    module = pytest.importorskip(f"sharpcli.api.{kind}")
    assert module.SharpnessCallback
