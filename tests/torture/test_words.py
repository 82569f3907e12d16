"""2,000 command lines and yaml files that nobody would write: each is a config whose parts can be built, or a
single line of at most 400 characters that names a setting of it. Nothing is trained.

The cases are hypothesis's: a failure prints the smallest case that it found, and SHARP_TORTURE_SEED repeats
it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sharpcli import CONF
from sharpcli.config import folders
from sharpcli.config.check import check
from sharpcli.config.elsewhere import places
from sharpcli.config.folders import options
from sharpcli.config.settings import GROUPS, METHODS, NAMES
from sharpcli.config.sweep import sweep
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.engine.replicas import experiments, labels
from sharpcli.errors import Refusal
from tests.torture import SEED, amount, at_most_gigabytes, limit

LONGEST = 400  # characters of a refusal
MANY = 100  # replicas that are not built: 10,000, the most, take longer than a case may
TINY = ["data.train_examples=20", "model.widths=[3]"]
HEAVY = (
    "cifar10",
    "timm",
    "torchvision",
)  # a download, or networks of millions of weights: checked, not built
GROUP_NAMES = (*GROUPS, *METHODS)
NUMBERS = """0 1 2 3 -1 0.5 1e-3 1e300 -1e300 1e-320 inf -inf nan 1_000 007 1e5 45303e66 .5 5.
99999999999999999999999"""
WORDS = """0x1F null true false on off auto full cpu cuda gd sam tanh relu x ??? ~ * . .. / - -- @ : ; # % &
! é
漢 😀 a\\b"""
BROKEN = """[ ] { } ( ) [1 1] {a {a: a:1} (1) ' " 'a "a a' \\ \\' ${ ${} ${a} ${lr} ${oc.env:NO} ${x:}
${a.b[0]} $ ,, = =="""
NESTED = """[] [1] [[1]] [1,[2]] {} {a:1} {a:{b:[1]}} {_target_:os.system} {_target_:x.y} [null] [nan] ['a']
{'':1} {1:2} [{a:1}]"""
SWEPT = """1,2 a,b 1, ,1 , range(3) range(3,1) range(1e9) choice(1,2) choice() sort(2,1) shuffle(1,2) glob(*)
glob([a,*],exclude=b) interval(0,1) tag(a,choice(1,2)) int(1.5) float(x) str(1) bool(2) json_str({a:1})"""
SOUND = "0 1 2 3 5 0.1 0.5 1e-3 1_000 auto full null true false cpu tanh [1] [2,3] [] a"
TIMES = [
    "1 epoch",
    "2 epochs",
    "0 epochs",
    "1.2.3 epochs",
    "log 5",
    "log 1",
    "even 99999999999",
    "log",
    "-1 epochs",
]
sound = st.one_of(
    st.sampled_from(SOUND.split()),
    st.integers(-2, 50).map(str),
    st.floats(-2, 3).map(lambda x: f"{x:.3g}"),
    st.sampled_from(["1 epoch", "log 5", "even 3"]),
)
odd = st.one_of(
    *(st.sampled_from(text.split()) for text in (NUMBERS, WORDS, BROKEN, NESTED, SWEPT)),
    st.sampled_from([*TIMES, "", " ", "  1", "a b", "1 2"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
    st.lists(st.integers(-3, 9), max_size=3).map(lambda v: str(v).replace(" ", "")),
    st.text("[]{}(),:='\"\\$ ab1.-", min_size=1, max_size=9),
    st.integers(1, 300).map(lambda n: "9" * n),
    st.sampled_from([f"{group}.{option}" for group in GROUPS for option in options(group)]),
)


values = st.one_of(sound, odd)


def defaults() -> dict[str, str]:
    """The values that conf/ gives to the settings of parts, as words."""
    out: dict[str, str] = {}
    for group in GROUPS:
        for option in options(group):
            text = (CONF / group / f"{option}.yaml").read_text()
            found = yaml.safe_load(text)
            found = found.get(group, {}) if "@package _global_" in text else found.get(option, found)
            place = f"{group}.{option}" if GROUPS[group].several else group
            out |= {f"{place}.{key}": str(value).replace(" ", "") for key, value in found.items()}
    return {key: value for key, value in out.items() if key in places()}


DEFAULTS = defaults()


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """One or two words that set a setting: a plain one, one of a part with the choice that has it, or a
    choice."""
    value = draw(values)
    sign = draw(st.sampled_from([*[""] * 12, "+", "++", "~"]))
    kind = draw(
        st.sampled_from(["plain", "plain", "part", "part", "part", "part", "choice", "other", "hydra"])
    )
    if kind == "plain":
        return [f"{sign}{draw(st.sampled_from(NAMES))}={value}"]
    if kind == "choice":
        group = draw(st.sampled_from(GROUP_NAMES))
        named = draw(st.sampled_from([*options(group), *options(draw(st.sampled_from(GROUP_NAMES)))]))
        value = draw(
            st.sampled_from([named, f"[{named}]", f"[{named},{named}]", f"{named},", value, named[:-1]])
        )
        return [f"{sign}{group}={value}"]
    if kind == "hydra":
        key = draw(
            st.sampled_from(["hydra.run.dir", "hydra.mode", "hydra/launcher", "hydra.searchpath", "hydra.x"])
        )
        return [f"{sign}{key}={value}"]
    setting = draw(st.sampled_from(sorted(places())))
    chosen = [draw(st.sampled_from(places()[setting]))] if draw(st.integers(0, 9)) else []
    if setting in DEFAULTS and draw(st.booleans()):
        value = DEFAULTS[setting]
    if kind == "other":  # a name with a slip, or of another program
        setting = draw(
            st.sampled_from(
                [setting[:-1], setting.rsplit(".", 1)[-1], f"{setting}.x", f"{setting}[0]", "a.b"]
            )
        )
    return [*chosen, f"{sign}{setting}={value}"]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """The words of a command line: a tiny network or a toy, and one to four settings, some of them broken or
    twice."""
    toy = draw(st.sampled_from([None, None, *options("problem")]))
    words = TINY if toy in (None, "network") else [f"problem={toy}"]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        words = [*words, *draw(overrides())]
    if any(word.startswith("problem=") and word != "problem=network" for word in words):
        words = [word for word in words if word not in TINY]
    change = draw(st.sampled_from([*["none"] * 12, "twice", "cut", "raw", "insert"]))
    at = draw(st.integers(0, len(words) - 1))
    if change == "twice":
        words = [*words, words[at]]
    if change == "cut":
        words = [*words[:at], words[at][: draw(st.integers(0, len(words[at])))], *words[at + 1 :]]
    if change == "insert":
        place = draw(st.integers(0, len(words[at])))
        words = [
            *words[:at],
            words[at][:place] + draw(st.sampled_from("=,.[]{}()'\"$ ~+@/\\")) + words[at][place:],
            *words[at + 1 :],
        ]
    return [*words, draw(st.text(max_size=6))] if change == "raw" else words


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(NUMBERS.split()),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abk_", max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def yaml_files(draw: st.DrawFn) -> str:
    """A user's yaml of settings: values of any type in any place, or a text that is hardly yaml."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.text("ab:-[]{}#&*!|>'\"%@` \n\t0?,_$", max_size=40))
    out: dict[str, object] = {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*NAMES, *GROUPS, "defaults", "hydra", "a", "_target_"]))
        inner = draw(plain)
        if key in GROUPS and draw(st.booleans()):
            names = [name.split(".", 1)[1] for name in places() if name.startswith(f"{key}.")] or ["x"]
            inner = {draw(st.sampled_from(["_target_", *names])): inner}
        out[key] = inner
    if draw(st.booleans()):
        out["defaults"] = [
            {f"override /{group}": draw(st.sampled_from(options(group)))}
            for group in ["optimizer", "problem"]
        ]
    text = yaml.safe_dump(out, allow_unicode=True)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 5)) == 0 else text


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """No more than 2 GB, and 20 seconds."""
    with limit(20), at_most_gigabytes(2):
        yield


def tried(words: list[str], many: bool = False) -> str | None:
    """What the refusal of these words says; None where they are built."""
    try:
        for job in sweep(words)[:2] if many else [words]:
            checked = check(compose(job), job)
            if any(f".{name}." in str(checked.config) for name in HEAVY):
                continue
            if checked.config["replicas"] == 1:
                build(checked)
            elif len(labels(checked.config)) < MANY:
                experiments(checked)
    except Refusal as refusal:
        return str(refusal)
    return None


def wrong(said: str | None, settings_of_it: list[str]) -> str | None:
    """What is wrong with a refusal: not a line, too long, or about nothing that came."""
    if said is None:
        return None
    if "\n" in said or len(said) >= LONGEST:
        return f"{len(said)} characters: {said!r}"
    return None if any(name and name in said for name in settings_of_it) else f"names no setting: {said!r}"


def names(words: list[str]) -> list[str]:
    """The settings that words name, and the words."""
    out = ["''"]
    for word in map(str, map(Refusal, words)):  # as a refusal shows characters that a terminal would obey
        key, _, value = word.lstrip("+~").partition("=")
        out += [
            key.split("[")[0],
            key.split("@")[0],
            key.rsplit(".", 1)[-1],
            word.strip(),
            " ".join(value.split()),
        ]
    return out


def of_text(text: str) -> list[str]:
    """What may be a setting in a text that is hardly yaml: its beginning, its lines and its words."""
    lines = str(Refusal(text)), *(line.strip() for line in text.splitlines()), *text.replace(":", " ").split()
    return [line[:20] for line in lines]


common = settings(
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@seed(SEED)
@settings(common, max_examples=amount(1500))
@given(words=command_lines(), many=st.sampled_from([False, False, False, True]))
def test_a_command_line_is_a_config_or_one_line_that_names_a_setting(words, many):
    with watched():
        said = tried(words, many=many)
    assert wrong(said, names(words)) is None, (words, many)


@seed(SEED)
@settings(common, max_examples=amount(500))
@given(text=yaml_files())
def test_a_yaml_file_is_a_config_or_one_line_that_names_a_setting(text):
    with tempfile.TemporaryDirectory() as folder, watched(), folders.kept():
        file = Path(folder, "experiment", "mine.yaml")
        file.parent.mkdir()
        file.write_text(f"# @package _global_\n{text}", errors="replace")
        folders.use(folder)
        said = tried(["experiment=mine", *TINY])
    assert wrong(said, [*NAMES, *GROUP_NAMES, "mine", "train_examples", *of_text(text)]) is None, text


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SHARP_DATA", "SHARP_RUNS"):
        monkeypatch.setenv(name, str(tmp_path / name))
