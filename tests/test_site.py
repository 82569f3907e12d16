"""The site of `make docs`: built without a warning, and searchable."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings_handlers") is None:
    pytest.skip("no MkDocs here; `make docs` installs it", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return folder


@pytest.fixture(scope="module")
def index(site):
    """The texts of the search index by their places."""
    docs = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    return {doc["location"]: doc["title"] + " " + doc["text"] for doc in docs}


def test_the_index_holds_pages_options_and_docstrings(index):
    assert sum("sharpness" in text for text in index.values()) > 50
    assert "edge of stability" in index["tutorial.html"] + index["index.html"]
    assert "faq.html#how-is-a-run-named" in index
    assert "ascent radius" in index["options/optimizer.html#sam"]
    assert "eigenpairs" in index["api/linalg.html#sharpcli.linalg.lanczos"]
    assert "api/index.html#sharpcli.run.Run" in index


def test_every_group_and_option_has_its_place(index):
    for file in (ROOT / "conf").glob("*/*.yaml"):
        assert f"options/{file.parent.name}.html#{file.stem}" in index, file


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        for sign in ('src="http', 'rel="stylesheet" href="http', 'rel="preconnect"', "@import"):
            assert sign not in text, (page, sign)
