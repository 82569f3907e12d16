"""The page of `sharp report` and `sharp board`, in a real browser where there is one."""

import http.client
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import TINY

from sharpcli.commands.page import content
from sharpcli.runs_dir import in_directory

CHROMIUM = next(
    (path for name in ("chromium", "google-chrome", "chromium-browser") if (path := shutil.which(name))), ""
)
SHORT = (*TINY, "steps=8", "measure_every=2", "threads=1")


@pytest.fixture
def browser():
    if not CHROMIUM:
        pytest.skip("needs chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield launched
        launched.close()


def opened(browser, address, **context):
    """A page that has drawn itself, and the errors of its console."""
    page = browser.new_context(**context).new_page()
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda request: errors.append(request.url) if request.url.startswith("http://x") else None
    )
    page.goto(address)
    if context.get("java_script_enabled", True):
        page.wait_for_selector("body[data-ready]", timeout=60_000)
    return page, errors


def cells(page, column):
    return page.eval_on_selector_all(
        f"#runs tbody td:nth-child({column})", "cells => cells.map(cell => cell.textContent)"
    )


def test_the_page_sorts_filters_hides_and_draws(sharp, folder, browser):
    assert sharp("train", *SHORT, "lr=0.1,0.05,0.2", "-m").code == 0
    runs = in_directory(folder / "runs")
    assert sharp("plot", "landscape", runs[0].name, "points=5", "-o", "l.png").code == 0
    said = sharp("report", "-o", "out/r.html")
    assert said.code == 0 and said.out.strip() == "out/r.html", said.err
    file = folder / "out" / "r.html"
    assert file.stat().st_size < 5e6
    assert not re.search(r"(src|href)=.?https?:", file.read_text())  # no network
    page, errors = opened(browser, file.as_uri())
    heads = page.eval_on_selector_all("#runs th", "cells => cells.map(cell => cell.textContent)")
    lr, loss = heads.index("lr") + 1, heads.index("train_loss") + 1
    for column in (lr, loss):
        page.click(f"#runs th:nth-child({column})")
        rising = [float(cell) for cell in cells(page, column)]
        assert len(rising) == 3 and rising == sorted(rising)
        page.click(f"#runs th:nth-child({column})")
        assert [float(cell) for cell in cells(page, column)] == rising[::-1]
    page.fill("#filter", "lr0.05")
    assert cells(page, 1) == [run.name for run in runs if "lr0.05" in run.name]
    page.fill("#filter", "")
    drawn = "document.getElementById('curves').data"
    curve = page.evaluate(f"{drawn}[0]")
    assert curve["y"] == [float(f"{row['train_loss']:.5g}") for row in runs[0].rows()]
    page.select_option("#x", "lr · step")
    assert page.evaluate(f"{drawn}[0].x") == pytest.approx([row["step"] * 0.05 for row in runs[0].rows()])
    page.check("#logy")
    assert page.evaluate("document.getElementById('curves').layout.yaxis.type") == "log"
    page.click("#curves .legendtoggle >> nth=0")
    page.wait_for_function(f"{drawn}[0].visible === 'legendonly'")
    assert page.locator("#runs tr.off").count() == 1
    loss_of_plane = page.evaluate("document.getElementById('plane').data[0].z")
    assert len(loss_of_plane) == len(loss_of_plane[0]) == 5
    assert loss_of_plane[2][2] == pytest.approx(runs[0].last()["train_loss"], rel=1e-4)
    page.uncheck("#surface")
    page.wait_for_function("document.getElementById('plane').data[0].type === 'contour'")
    assert errors == []


def test_the_page_fits_a_phone_and_is_dark_where_the_reader_is(sharp, folder, browser):
    assert sharp("train", *SHORT).code == 0
    assert sharp("report").code == 0
    address = (folder / "report.html").as_uri()
    page, errors = opened(browser, address, viewport={"width": 390, "height": 800}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"
    assert errors == []


def test_the_page_is_read_without_javascript(sharp, folder, browser):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    assert sharp("report").code == 0
    page, _ = opened(browser, (folder / "report.html").as_uri(), java_script_enabled=False)
    assert cells(page, 1) == [run.name] and cells(page, 2) == ["complete"]
    image = page.locator("noscript img, img").first
    assert image.is_visible() and image.bounding_box()["width"] > 200
    assert "sharp train" in page.locator("details").first.inner_text() or page.locator("details code").count()


def test_a_page_says_what_is_wrong_with_each_run(sharp, folder):
    assert sharp("train", *SHORT, "lr=0.1,0.05,0.2", "-m").code == 0
    assert sharp("train", "problem=quadratic", "lr=1000", "steps=400").code == 0
    damaged, changed, unfinished, diverged = (
        next(run for run in in_directory(folder / "runs") if word in run.name)
        for word in ("lr0.1-", "lr0.05-", "lr0.2-", "quadratic")
    )
    rows = (damaged.path / "metrics.jsonl").read_text()
    (damaged.path / "metrics.jsonl").write_text(rows.replace('"step"', "step", 1))
    config = (changed.path / "config.yaml").read_text()
    (changed.path / "config.yaml").write_text(config.replace("lr: 0.05", "lr: 0.06"))
    rows = (unfinished.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (unfinished.path / "metrics.jsonl").write_text("".join(rows[:2]))
    facts = json.loads((unfinished.path / "provenance.json").read_text())
    facts.pop("rows", None)
    (unfinished.path / "provenance.json").write_text(json.dumps(facts))
    empty = folder / "runs" / "empty"
    shutil.copytree(unfinished.path, empty)
    (empty / "metrics.jsonl").write_text("")
    shown = content(in_directory(folder / "runs"))
    status = {row["name"]: row["status"] for row in shown.table}
    assert status == {
        damaged.name: "damaged",
        changed.name: "changed",
        unfinished.name: "unfinished",
        diverged.name: "diverged",
        "empty": "empty",
    }
    said = " ".join(shown.problems)
    assert damaged.name in said and changed.name in said
    assert sharp("report", "-o", "r.html").code == 0
    assert "damaged" in (folder / "r.html").read_text()


def test_names_are_no_markup(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    run.path.rename(folder / "runs" / "<script>alert(1)<")
    assert sharp("report", "-o", "r.html").code == 0
    assert "<script>alert" not in (folder / "r.html").read_text()


WRONG = {
    ("report",): "no runs to report",
    ("report", "-o", "x.pdf"): "possible endings: .html",
    ("report", "gd-x"): "no such run",
    ("report", "--study", "nothing"): "no such study",
    ("report", "--study", "{study}"): "not run in runs yet",
    ("board", "runs_dir=nowhere"): "no such directory",
    ("watch", "runs_dir=nowhere"): "no such directory",
    ("watch", "--every", "0"): "above 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(sharp, folder, words):
    from sharpcli.config.folders import options

    (folder / "runs").mkdir()
    words = [word.format(study=options("study")[0]) for word in words]
    assert WRONG[tuple(w if w != options("study")[0] else "{study}" for w in words)] in sharp(*words).refusal


def test_verdicts_are_on_the_page_with_their_figures(sharp, folder):
    assert sharp("claim", "check", "sam_edge", "--dirty").code in (0, 1)
    assert sharp("report", "--claims", "-o", "r.html").code == 0
    text = (folder / "r.html").read_text()
    assert "sam_edge" in text and text.count("data:image/png") == 1


def test_watch_lists_the_runs_under_way(sharp, process, folder):
    assert sharp("train", *SHORT).code == 0
    child = process("train", *TINY, "steps=100000", "measure_every=100", "threads=1", "lr=0.01")
    try:
        for _ in range(400):
            said = sharp("watch", "--once")
            if "lr0.01" in said.out:
                break
            time.sleep(0.1)
        assert "lr0.01" in said.out and "lr0.2" not in said.out and "1 under way" in said.out
        name = next(path.name for path in Path("runs").iterdir() if "lr0.01" in path.name)
        assert name in said.out, "a name is not folded where nobody set a width"
    finally:
        child.terminate()
        child.communicate(timeout=60)
    assert "no run under way" in sharp("watch", "--once").out
    assert sharp("watch", "runs", "--once").out == sharp("watch", "--once").out
    assert "only runs_dir=DIR" in sharp("watch", "no_folder", "--once").refusal


def test_the_board_is_kept_up_to_date_and_speaks_to_this_machine_alone(sharp, process, folder, browser):
    assert sharp("train", *SHORT).code == 0
    board = process("board", "--port", "0")
    port = int(re.search(r"127\.0\.0\.1:(\d+)/", board.stderr.readline())[1])
    try:
        page, errors = opened(browser, f"http://127.0.0.1:{port}/")
        assert len(cells(page, 1)) == 1
        assert sharp("train", *SHORT, "lr=0.05").code == 0
        page.wait_for_function("document.querySelectorAll('#runs tbody tr').length === 2", timeout=30_000)
        page.wait_for_function("document.getElementById('curves').data.length === 2", timeout=30_000)
        for host, path, code in ((f"127.0.0.1:{port}", "/x", 404), (f"elsewhere.example:{port}", "/", 403)):
            asked = http.client.HTTPConnection("127.0.0.1", port)
            asked.request("GET", path, headers={"Host": host})
            assert asked.getresponse().status == code
        assert errors == []
    finally:
        board.terminate()
        board.communicate(timeout=30)
