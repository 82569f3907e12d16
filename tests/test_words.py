"""What a word of the command line means: the same path in every command, a text that looks like a number, a
setting by another program's name, and everything that Hydra reads in a sweep."""

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, only_run
from omegaconf import OmegaConf

from sharpcli import CONF
from sharpcli.commands.completion import complete
from sharpcli.config import paths
from sharpcli.config import words as config_words
from sharpcli.config.check import check
from sharpcli.config.folders import options
from sharpcli.config.plain_yaml import dumped, plain_yaml, written_yaml
from sharpcli.config.quoting import TEXTS, marks, parsed, quoted
from sharpcli.config.settings import GROUPS
from sharpcli.config.sweep import is_sweep, sweep
from sharpcli.config.targets import hyperparameters, is_text, resolve
from sharpcli.config.words import compose
from sharpcli.errors import Refusal
from sharpcli.run import Run
from sharpcli.runs_dir import in_directory

NAMES = [
    *(
        "a(b)#c",
        "a=b",
        "it's",
        'say "x"',
        "a b",
        "é漢😀",
        "a,b",
        "{a}",
        "{a:1}",
        "$HOME",
        "${x}",
        "[a]",
        "45303e66",
    ),
    *(
        "1_000",
        "null",
        "true",
        "off",
        "00000000",
        "a\\b",
        "a:b",
        "~x",
        "%s",
        "a;b&c|d",
        "*",
        "nan",
        "-x",
        "choice(a,b)",
    ),
]
FEW = ["a(b)#c = it's, {x: 1}[y]$HOME ${z}", '"~é漢😀"~ \\*|;x', "45303e66", "choice(a,b)@1"]
TOY = ("problem=uv", "steps=1", "measure=[scores]")


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_characters_is_read_as_it_stands(name):
    config = compose(
        [f"runs_dir={name}", f"data_dir={name}", f"init_from={name}", "data=table", f"data.file={name}"]
    )
    assert [config.runs_dir, config.data_dir, config.data.file] == [name] * 3
    assert config.init_from == (None if name == "null" else name)
    assert paths.folder_of_runs([f"runs_dir={name}"]) == paths.path_of(name) == paths.Path(name)


@pytest.mark.parametrize("name", FEW)
def test_a_path_of_any_characters_is_the_same_in_every_command(sharp, folder, monkeypatch, name):
    place = folder / name
    place.mkdir()
    assert sharp("train", *TOY, f"runs_dir={place}").code == 0
    assert [child.name for child in folder.iterdir()] == [name]
    (run,) = in_directory(place)
    for words in (
        ["ls", f"runs_dir={place}"],
        ["ls", place],
        ["show", run.name, f"runs_dir={place}"],
        ["show", run.path],
        ["plot", "loss", run.name, f"runs_dir={place}", "-o", place / "x.svg"],
        ["measure", run.name, "measure=[gradient_norm]", f"runs_dir={place}", "-o", place / "x.jsonl"],
        ["measure", run.path, "measure=[gradient_norm]"],
        ["train", *TOY, f"init_from={run.path}", f"runs_dir={place}"],
        ["train", *TOY, f"init_from={run.path}@0", "lr=0.1,0.3", "-m", f"runs_dir={place}"],
    ):
        said = sharp(*words)
        assert said.code == 0, (words, said.err)
        assert words[0] not in ("ls", "show") or run.name in said.out
    assert (place / "x.svg").exists() and (place / "x.jsonl").exists()
    assert len(in_directory(place)) == 4
    monkeypatch.setenv("SHARP_RUNS", str(place))
    assert "already complete" in sharp("train", *TOY).out
    assert run.name in sharp("ls").out and sharp("show", run.name).code == 0
    assert [child.name for child in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", FEW)
def test_a_file_of_any_name_is_read(sharp, folder, name):
    (folder / "in").mkdir()
    file = folder / "in" / f"{name}.npz"
    np.savez(file, Z=np.eye(3)[:2], y=np.ones(2))
    words = ["train", "problem=uv", "data=table", f"data.file={file}", "steps=1", "measure=[scores]"]
    assert sharp(*words).code == 0
    assert sharp(*words, "seed=0,1", "-m").out.count("already complete") == 1
    assert check(compose(words[1:]), words[1:]).config["data"]["file"] == str(file)
    weights = folder / "in" / f"{name}.pt"
    torch.save({"1.weight": torch.zeros(10, 64), "1.bias": torch.zeros(10)}, weights)
    for said in (
        sharp("measure", weights, "model.widths=[]", "measure=[gradient_norm]", "data.train_examples=60"),
        sharp(
            "measure", f"weights={weights}", "model.widths=[]", "measure=[norms]", "data.train_examples=60"
        ),
    ):
        assert said.code == 0, said.err


def test_home_is_expanded_in_every_command(sharp, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert sharp("train", *TOY, "runs_dir=~/r").code == 0
    (run,) = in_directory(folder / "r")
    for words in (
        ["ls", "~/r"],
        ["show", f"~/r/{run.name}"],
        ["plot", "loss", "~/r", "-o", "~/x.png"],
        ["train", *TOY, f"init_from=~/r/{run.name}", "runs_dir=~/r"],
    ):
        assert sharp(*words).code == 0, words
    monkeypatch.setenv("SHARP_RUNS", "~/r")
    assert run.name in sharp("ls").out and "already complete" in sharp("train", *TOY).out
    # matplotlib, imported for the first time, keeps its .config and .cache at home
    assert {child.name for child in folder.iterdir() if not child.name.startswith(".")} == {"r", "x.png"}


def test_a_user_who_knows_hydra_may_write_a_path_in_its_way(sharp, folder, monkeypatch):
    monkeypatch.setenv("HERE", "h")
    for word, name in [("'a b'", "a b"), (r"a\,b", "a,b"), ("${oc.env:HERE}", "h"), ("s${seed}", "s0")]:
        assert sharp("train", *TOY, f"runs_dir={word}").code == 0
        assert (folder / name).is_dir() and "gd-uv" in sharp("ls", f"runs_dir={word}").out, word


def test_an_empty_path_is_refused_and_an_empty_variable_is_none(sharp, folder, monkeypatch):
    monkeypatch.setenv("SHARP_RUNS", "")
    monkeypatch.setenv("SHARP_DATA", "")
    assert sharp("train", *TOY).code == 0 and "gd-uv" in sharp("ls").out and (folder / "runs").is_dir()
    monkeypatch.delenv("SHARP_RUNS")
    for words in (["train", *TOY], ["ls"], ["show", "x"]):
        assert "runs_dir=: give a path" in sharp(*words, "runs_dir=").refusal
    mine = folder / "mine" / "experiment" / "e.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\ninit_from: 45303e66\n")
    said = sharp("train", "--config-dir", "mine", "experiment=e", *TOY).refusal
    assert "init_from=4.5303e+70: a number; in yaml, put the name in quotation marks" in said


def test_an_environment_variable_is_no_interpolation(sharp, folder, monkeypatch):
    monkeypatch.setenv("SHARP_RUNS", "x${seed}${oc.env:HOME}'")
    assert sharp("train", *TOY).code == 0 and "gd-uv" in sharp("ls").out
    assert sharp("train", *TOY, "replicas=2").code == 0
    assert next(folder.iterdir()).name == "x${seed}${oc.env:HOME}'"


def test_a_run_whose_name_has_an_equals_sign_is_a_name(sharp, folder):
    assert sharp("train", *TOY, "method=gd", "runs_dir=r").code == 0
    (run,) = in_directory(folder / "r")
    run.path.rename(folder / "r" / "my=method-1")
    assert sharp("plot", "loss", "my=method-1", "runs_dir=r", "-o", "x.png").code == 0
    assert "problem.k=1: sharp ls takes sort=, columns=, runs_dir=" in sharp("ls", "problem.k=1").refusal


@pytest.mark.parametrize(
    "text", ["45303e66", "12e45678", "1_000", "00000000", "0x10", "1e5", "true", "{a}", "1:30"]
)
def test_a_text_that_looks_like_a_number_stays_a_text(text):
    words = [f"init_from={text}", "model=timm", f"model.name={text}"]
    found = check(compose(words), words)
    assert found.config["init_from"] == text and found.config["model"]["name"] == text
    assert yaml.safe_load(dumped(found.config)) == OmegaConf.create(dumped(found.config)) == found.config
    assert [job[0] for job in sweep([f"init_from={text},b"])] == [f"init_from={marks(text)}", "init_from='b'"]
    (first, _) = (
        sweep([f"init_from=choice({text},b)"]) if "{" not in text else ([f"init_from={marks(text)}"], 0)
    )
    assert compose(first).init_from == text


def test_every_parameter_that_is_a_text_is_known_to_be_one():
    for group in GROUPS:
        for option in options(group):
            values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
            values = values.get(option, values.get(group, values))  # under its own key, or the group's
            hints, _, _ = hyperparameters(resolve(values["_target_"], group, []))
            place = f"{group}.{option}" if GROUPS[group].several else group
            texts = [f"{place}.{key}" for key, hint in hints.items() if is_text(hint) and key in values]
            assert set(texts) <= {*TEXTS, *FREE}, texts


# of a few words, or of names in which only a whole number is like a number
FREE = ("objective.label_noise.distribution", "measure.relative_flatness.layer")


@pytest.mark.parametrize("text", [*NAMES, "'", '"', "\\", "a\\", "a\\'b", "\\${x}", "", " ", "a\nb", "'a'b'"])
def test_a_text_in_marks_is_read_back(text):
    read = parsed(f"runs_dir={marks(text)}").value()
    assert paths.unquoted(marks(text)) == text
    assert compose([f"runs_dir={marks(text)}"]).runs_dir == text
    assert "${" in text or read == text
    assert quoted([f"runs_dir={marks(text)}"]) == [f"runs_dir={marks(text)}"]


# --- sweeps ---

SWEEPS = [
    (["lr=sort(0.3,0.1)"], 2),
    (["lr=sort(choice(0.3,0.1),reverse=true)"], 2),
    (["seed=shuffle(range(3))"], 3),
    (["seed=range(1,6,step=2)"], 3),
    (["lr=tag(a,choice(0.1,0.2))"], 2),
    (["lr=choice(0.1,0.2)", "seed=0,1"], 4),
    (["model=glob([m*,c*],exclude=mi*)"], 2),
    (["loss=glob(*)"], len(options("loss"))),
    (["+experiment=glob(*_5k)"], 1),
    (["experiment=eos_cifar10_5k,label_noise_sparse"], 2),
    (["problem=uv,hadamard", "++problem.d=20"], 2),
    (["~measure.sharpness", "seed=0,1"], 2),
    (["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 2),
    (["+hydra.sweeper.params.lr='0.1,0.2'"], 2),
    (["+hydra.sweeper.params={seed:'range(3)'}", "lr=0.1,0.2"], 6),
    (["model.widths=[3],[4,5]"], 2),
    (["measure_every='log 5','even 5'"], 2),
    (["method=sam", "optimizer@optimizer.base=gd,momentum"], 2),
    (["seed=int(1.0)"], 1),
]


@pytest.mark.parametrize("words, jobs", SWEEPS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_what_hydra_documents_of_sweeps_is_rehearsed(words, jobs):
    found = sweep(words)
    assert len(found) == jobs
    for job in found:
        check(compose(job), job)


def test_a_glob_sees_the_options_of_a_user_s_own_folder(tmp_path, monkeypatch):
    own = tmp_path / "a (b)#c" / "experiment"
    own.mkdir(parents=True)
    (own / "mine_1.yaml").write_text("# @package _global_\nlr: 0.5\n")
    monkeypatch.setenv("SHARP_CONFIG_DIR", str(own.parent))
    (job,) = sweep(["experiment=glob(mine*)"])
    assert compose(job).lr == 0.5


def test_the_mode_of_hydra_is_a_sweep_from_the_words_and_from_a_yaml(sharp, folder):
    assert is_sweep(["hydra.mode=MULTIRUN", "lr=1,2"]) and not is_sweep(["lr=1"])
    (folder / "mine/experiment").mkdir(parents=True)
    (folder / "mine/experiment/two.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 0,1\n"
    )
    assert "job 2 of 2" in sharp("train", *TOY, "hydra.mode=MULTIRUN", "lr=0.1,-1").refusal
    assert sharp("train", "--config-dir", "mine", "+experiment=two", *TOY).code == 0
    assert len(in_directory(folder / "runs")) == 2


SWEEP_REFUSALS = [
    (["lr=interval(0.1,0.2)"], "lr=interval(0.1,0.2): Hydra's own sweeper takes no interval"),
    (["problem=uv,hadamard", "problem.d=20"], "write ++problem.d=20"),
    (["lr=choice(0.1"], "lr=choice(0.1: cannot be read"),
    (["loss=glob(z*)"], "a sweep without a job"),
    (["hydra.launcher.x=1,2"], "hydra.launcher.x=1,2"),
]


@pytest.mark.parametrize(
    "words, said", SWEEP_REFUSALS, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_a_sweep_that_cannot_be_is_one_line(sharp, folder, words, said):
    assert said in sharp("train", *words, "-m").refusal
    assert list(folder.iterdir()) == []


# --- wrong words ---

WRONG = [
    ("learning_rate=1", "give lr=1"),
    ("rho=1", "optimizer=sam has optimizer.rho"),
    ("optimizer.rho=1", "optimizer=sam has it"),
    ("+optimizer.rho=1", "GD does not take it, and optimizer=sam does; it has no settings"),
    ("loss=mse", "give loss=half_squared, which is C/2 times the mean squared error"),
    ("criterion=mse", "give loss=half_squared, which is C/2 times the mean squared error"),
    ("epochs=30", "give steps='30 epochs'"),
    ("momentum=0.9", "give optimizer=momentum optimizer.beta=0.9"),
    ("weight_decay=1e-4", "give objective=[weight_decay] objective.weight_decay.strength=1e-4"),
    ("objective.weight_decay.strength=1", "objective=[weight_decay] has it"),
    ("dataset=cifar10", "give data=cifar10"),
    ("bs=32", "give batch_size=32"),
    ("batchsize=32", "give batch_size=32"),
    ("optim=adam", "give optimizer=adam"),
    ("optimizer=sgd", "sgd is chosen by method=sgd"),
    ("method=clipping", "clipping is chosen by optimizer=clipping"),
    ("net=resnet", "give model=resnet"),
    ("model=resnet20", "give model=resnet model.depth=20"),
    ("device=gpu", "did you mean cuda?"),
    ("widths=[3]", "did you mean model.widths=[3]?"),
    ("sharpness.k=2", "did you mean measure.sharpness.k=2"),
    ("depth=20", "model=deep_linear or model=gpt or model=mixer has model.depth"),
    ("delta=1", "objective=[label_noise] has objective.label_noise.delta"),
    ("problem.d=20", "or problem=hadamard or problem="),
    ("optimizer=sam optimizer.base=2", "optimizer.base=2: this is a part; choose it by name"),
    ("optimizer=limiting_flow optimizer.regularizer=trace", "optimizer.regularizer=trace: this is a part"),
    ("graph_gb=1e300", "graph_gb=1e+300: give at most 1000000"),
    ("basis_gb=inf", "basis_gb=inf: give at most"),
    ("threads=1000000", "threads=1000000: give at most"),
    ("seed=99999999999999999999999999999", "give at most"),
    ("steps=99999999999999999999", "a whole number of steps from 0"),
    ("measure_every='log 3000000000'", "give 2 to 1000000 times"),
    ("measure.sharpness.every='even 99999999999999999999999999'", "give 2 to 1000000 times"),
    ("checkpoint_every='1 eternity'", "checkpoint_every=1 eternity: give a whole number of steps"),
    ("trust=[[1]]", "trust=[[1]]: [1] is the name of no package"),
    ("trust=[my.py/x]", "my.py/x is the name of no package"),
    ("model.widths=[[3]]", "model.widths=[[3]]: "),
    (
        "measure=[pac_bayes_sharpness] measure.pac_bayes_sharpness.sigmas=[1,[2]]",
        "measure.pac_bayes_sharpness.sigma",
    ),
    ("trust=mine", "trust=mine: give a list, as in trust=[mine]"),
    ("measure=0", "measure is chosen by name, as in measure=[adaptive_sharpness]; possible: adaptive_sharp"),
    ("data=[[1]]", "data=[[1]]: data is chosen by name, as in data=arrays"),
    ("loss={a:1}", "loss={a:1}"),
    ("optimizer=", "optimizer=: no such optimizer"),
    ("lr=???", "lr=???: no value"),
    ("steps=null", "steps=None: give a whole number of steps"),
    ("lr=null", "lr=null: this setting always has a value; leave lr= out"),
    ("data.train_examples=null", "data.train_examples=null: not a whole number"),
    ("model.widths=null", "model.widths=null: give a list, [] for an empty one"),
    ("batch_size=null", "batch_size=None: give a whole number"),
    ("replicas=null", "replicas=None: give a number of seeds"),
    ("lr", "lr: missing EQUAL: a setting is written key=value"),
    ("lr=[1", "lr=[1: cannot be read: no viable alternative"),
    ("lr=0.1,0.2", "lr=0.1,0.2: several values; add -m"),
    ("lr=range(3)", "lr=range(3): several values; add -m"),
    ("runs_dir=", "runs_dir=: give a path"),
    ("method=../optimizer/gd", "method=../optimizer/gd: method is chosen by name"),
    ("method=[1]", "method=[1]: method is chosen by name"),
]


@pytest.mark.parametrize("words, said", WRONG)
def test_a_word_of_another_program_is_refused_with_the_word_here(words, said):
    words = words.split(" ") if "'" not in words else [words]
    with pytest.raises(Refusal) as refusal:
        check(compose(words), words)
    assert said in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "words, said",
    [
        ("replicas={lr:[[1],[2]]}", "lr=[1]: not a number"),
        ("replicas={method:[sgd,sam]}", "decides no number"),
        ("replicas={device:[cpu,auto]}", "decides no number"),
        ("replicas=99999999", "99999999 replicas; give at most 10000"),
        ("replicas={lr:[1,2],seed:999999}", "1999998 replicas; give at most"),
        ("replicas={a.b:[1,2]}", "replicas.a.b: no setting"),
        ("model.widths=[1000000000000]", "more numbers than this machine has memory for"),
    ],
)
def test_replicas_that_would_be_equal_and_models_too_large_are_refused(sharp, folder, words, said):
    assert said in sharp("train", "data.train_examples=60", words, "steps=1").refusal
    assert list(folder.iterdir()) == []


def test_a_batch_larger_than_the_data_and_a_run_of_no_steps_are_remarked(sharp, folder):
    said = sharp("train", *TINY, "method=sgd", "batch_size=61", "steps=0")
    assert said.code == 0
    assert "batch_size=61: more than the 60 training examples" in said.err
    assert "nothing is trained" in said.err
    said = sharp("train", *TINY, "method=sgd", "batch_size=60", "steps=1")
    assert "training examples" not in said.err and "nothing" not in said.err


@pytest.mark.parametrize(
    "words, said",
    [
        ("optimizer=switch optimizer.at=4", "optimizer.at=4: of 4 steps all are GD's"),
        ("optimizer=switch optimizer.at=0 optimizer@optimizer.after=sam", "of 4 steps all are SAM's"),
        ("optimizer=averaging optimizer.start=5", "the run has 4 steps, and no weights are averaged"),
        ("optimizer=sam optimizer.m=21 batch_size=20", "optimizer.m=21: a batch has 20 examples"),
        ("optimizer=clipping optimizer@optimizer.base=switch optimizer.base.at=9", "of 4 steps all are GD's"),
        ("optimizer=sam optimizer.m=20 batch_size=20", ""),
        ("optimizer=switch optimizer.at=3", ""),
        ("optimizer=averaging optimizer.start=4", ""),
    ],
)
def test_a_setting_of_a_rule_that_changes_nothing_is_remarked(sharp, folder, words, said):
    of_run = sharp("train", *TINY, "steps=4", "measure=[scores]", *words.split())
    assert of_run.code == 0 and said in of_run.err
    assert said or not any(word in of_run.err for word in ("optimizer.at", "optimizer.start", "optimizer.m="))


def test_the_ascent_radius_of_a_measure_is_that_of_the_run():
    words = ["method=sam", "optimizer.rho=0.3", "measure=[sam_sharpness,sam_flow]"]
    measured = check(compose(words), words).config["measure"]
    assert measured["sam_sharpness"]["rho"] == 0.3 and measured["sam_flow"]["rho"] == 0.3
    assert check(compose(["measure=[sam_sharpness]"])).config["measure"]["sam_sharpness"]["rho"] == 0.05


def test_a_plot_reads_its_settings_as_train_does(sharp, folder):
    assert sharp("train", *TOY).code == 0
    run = only_run(folder)
    for words in (["by=[method,lr]"], ["y='train_loss'"], ["log=TRUE"], ["++log=true"], ["by=[ method ]"]):
        assert sharp("plot", "compare", run, "y=train_loss", *words, "-o", "x.png").code == 0, words
    for word, said in [
        ("y=a,b", "y=a,b: several values"),
        ("log=perhaps", "log=perhaps: not true or false"),
        ("z=1", "z=1"),
        ("by=[a", "by=[a: cannot be read"),
        ("by=method", "give a list, as in"),
    ]:
        assert said in sharp("plot", "compare", run, "y=train_loss", word).refusal, word


def test_measuring_reads_its_settings_as_train_does(sharp, folder):
    assert sharp("train", *TINY, "steps=1", "measure=[scores,sharpness]").code == 0
    run = only_run(folder)
    for words in (["~measure.sharpness"], ["measure.sharpness.k=2"], ["++chunk=50"], ["data_dir=a(b),c"]):
        said = sharp("measure", run, "--step", "1", *words)
        assert said.code == 0, said.err
    assert "lambda_2" in Run(run).rows()[-1]
    assert "write a list, as in measure=[norms,trace]" in sharp("measure", run, "measure=norms,trace").refusal


def test_an_option_may_be_asked_for_as_it_is_chosen(sharp):
    assert sharp("show", "optimizer=sam").out == sharp("show", "optimizer", "sam").out
    assert sharp("show", "measure=[sharpness]").out == sharp("show", "measure", "sharpness").out
    assert "no such optimizer" in sharp("show", "optimizer", "../model/mlp").refusal


@pytest.mark.parametrize("before", ["runs_dir=/tmp/a(b", "method=sam", "x", "lr=[", "optimizer=nothing"])
def test_completion_survives_what_was_typed_before(before):
    assert isinstance(complete("optimizer.rh", [before]), list)
    assert complete("optimizer=sa", [before]) in (["optimizer=sam"], [])


def test_a_config_read_setting_by_setting_is_the_same():
    inner = {"names": ["a: b", "- c", "#d"], "none": None, "deep": {"x": [1, [2.5, True]], "y": {}}}
    values = {
        "first": "two\nlines:\nx: 3\n",
        "second": "long " * 60,
        "third": [1, {"a": "b"}],
        "fourth": inner,
        "x y": "a key that is no name",
        "seed": 1,
        "lr": 1e-5,
        "empty": [],
        "quoted": "'it''s': \"x\"",
        "hash": "45303e66",
    }
    for chosen in (values, {k: v for k, v in values.items() if " " not in k}, {"a": inner, "b": inner}, {}):
        text = dumped(chosen).encode()
        assert written_yaml(text) == plain_yaml(text) == chosen
        assert list(written_yaml(text)) == list(chosen)
    read = written_yaml(dumped({"model": {"widths": [1, 2]}}).encode())
    read["model"]["widths"].append(3)  # no other run's
    assert written_yaml(dumped({"model": {"widths": [1, 2]}}).encode()) == {"model": {"widths": [1, 2]}}


@pytest.mark.parametrize(
    "words",
    [
        "",
        "lr=0.3 steps=2_epochs seed=4 data.train_examples=7 model.widths=[3,4]",
        "problem=uv problem.d=5 lr=1e-3 method=label_noise objective.label_noise.delta=0.5",
        "experiment=eos_cifar10_5k lr=0.01 model.widths=[5] measure=[scores,trace] measure.trace.rtol=0.1",
        "method=sam optimizer@optimizer.base=momentum optimizer.base.beta=0.5 optimizer.rho=0.2 model=resnet",
        "measure.sharpness.k=3 measure=[sharpness] measure_every=log_5 stop_loss=null runs_dir=a=b(c)",
        "lr=0.1 lr=0.2 replicas={lr:[0.1,0.2]} trust=[a] compile_toys=false",
    ],
)
def test_a_config_is_hydra_s_whether_its_choices_were_composed_before_or_not(words):
    words = [word.replace("_epochs", " epochs").replace("log_5", "log 5") for word in words.split()]
    with config_words.loading():
        hydra = config_words.hydra_compose("config", overrides=config_words.quoted(words))
    for _ in range(2):  # the second time its choices have been composed
        composed = config_words._with_values(words, "config")
        assert composed is not None
        assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(hydra) and OmegaConf.is_struct(composed)
        assert OmegaConf.to_yaml(composed, resolve=True) == OmegaConf.to_yaml(hydra, resolve=True)
        composed.lr = 77  # what is done to a config is not done to the next one


@pytest.mark.parametrize(
    "word",
    [
        "lr=1,2",
        "+new=1",
        "~lr",
        "data=null",
        "model=nosuch",
        "nosuch=1",
        "hydra.mode=RUN",
        "seed=abc",
        "a@b=c",
        "data.x.y=3",
        "lr=[",
        "model/base=mlp",
        "model=sharpcli.models.mlp",
    ],
)
def test_only_hydra_composes_what_is_more_than_a_value_or_a_choice(word):
    assert config_words._with_values([word], "config") is None
