"""Words to checked settings: every yaml, precedence, labels, hashes, refusals."""

import inspect

import pytest
import yaml

from sharpcli import CONF
from sharpcli.config.build import part
from sharpcli.config.check import check, typed
from sharpcli.config.folders import options
from sharpcli.config.settings import GROUPS
from sharpcli.config.targets import hyperparameters, resolve
from sharpcli.config.words import compose
from sharpcli.errors import Refusal
from sharpcli.problems.problem import Problem

PARTS = [(group, name) for group in (*GROUPS, "plot") for name in options(group)]
FILL = {"arrays": ["data.file=x.npz"], "table": ["data.file=x.npz"]}


def checked(*words):
    return check(compose(list(words)), list(words))


def parts_of(group, name):
    if group == "plot":
        return {name: yaml.safe_load((CONF / "plot" / f"{name}.yaml").read_text())}
    words = [f"{group}=[{name}]" if GROUPS[group].several else f"{group}={name}", *FILL.get(name, [])]
    chosen = compose(words)[group]
    return dict(chosen) if GROUPS[group].several else {name: chosen}


@pytest.mark.parametrize("group, name", PARTS)
def test_every_yaml_names_exactly_its_target_s_parameters_and_they_have_no_default(group, name):
    for key, values in parts_of(group, name).items():
        assert key == name
        if rows := values.pop("rows", None) if group == "plot" else None:  # what computes the plot's rows
            _, needed, taken = hyperparameters(resolve(rows["_target_"], group, []))
            assert needed == taken and set(rows) - {"_target_"} == set(taken)
        target = resolve(values["_target_"], group, [])
        folder = {"loss": "losses", "data": "data"}.get(group, group + "s")
        file = (
            name if group != "problem" else target.__module__.rsplit(".", 1)[-1]
        )  # toys of one kind share a file
        assert target.__module__ == f"sharpcli.{folder}.{file}"
        _, needed, taken = hyperparameters(target)
        assert needed == taken
        assert set(values) - {"_target_", "every"} == set(taken)
        assert all(
            p.default is inspect.Parameter.empty for p in inspect.signature(target).parameters.values()
        )


@pytest.mark.parametrize("group", ["method", "experiment"])
def test_every_preset_composes_and_checks(group):
    for name in options(group):
        assert checked(f"{group}={name}").config["optimizer"]["_target_"].startswith("sharpcli.")


def test_a_toy_drops_data_model_and_loss():
    assert not {"data", "model", "loss"} & set(checked("problem=uv").config)


def test_the_command_line_wins_over_an_experiment_and_an_experiment_over_a_method():
    both = checked("experiment=resnet20_cifar10", "method=gd", "lr=.7").config
    assert both["batch_size"] == "full" and both["lr"] == 0.7 and both["model"]["depth"] == 20
    assert checked("experiment=label_noise_sparse").config["batch_size"] == 1


@pytest.mark.parametrize(
    "words, label",
    [
        ([], "gd"),
        (["method=sgd", "batch_size=32"], "sgd"),
        (["method=gd", "batch_size=32"], "custom"),
        (["method=sgd", "batch_size=full"], "custom"),
        (["method=sam", "batch_size=full"], "sam"),
        (["method=sgd", "optimizer=momentum"], "custom"),
        (["method=sgd", "optimizer=gd"], "sgd"),
        (["method=label_noise", "objective=[]"], "custom"),
        (["objective=[label_noise]"], "custom"),
        (["experiment=label_noise_sparse"], "label_noise"),
    ],
)
def test_the_label_is_the_preset_s_unless_the_words_contradict_it(words, label):
    assert checked(*words).config["method"] == label


def test_a_method_may_switch_off_the_objective_that_an_experiment_has_values_for():
    assert checked("experiment=label_noise_sparse", "method=sgd").config["objective"] == {}
    with pytest.raises(Refusal, match="a part is chosen by its name"):
        checked("method=sgd", "+objective.label_noise.delta=1")


def test_the_hash_depends_on_what_decides_the_numbers_and_on_nothing_else():
    base = checked("method=sam", "optimizer.rho=1")
    for same in (
        ["method=sam", "optimizer.rho=1.0"],
        ["optimizer=sam", "optimizer.rho=1", "batch_size=128"],
        [
            "method=sam",
            "optimizer.rho=1",
            "device=cpu",
            "threads=1",
            "runs_dir=x",
            "data_dir=y",
            "checkpoint_every=3",
            "trust=[a]",
        ],
    ):
        assert checked(*same).hash == base.hash
    for other in (
        ["method=sam", "optimizer.rho=2"],
        ["method=sam", "optimizer.rho=1", "seed=1"],
        ["method=sam", "optimizer.rho=1", "steps=1001"],
    ):
        assert checked(*other).hash != base.hash
    assert base.name == f"sam-network-lr0.2-seed0-{base.hash}"


def test_a_data_file_counts_by_its_content_and_not_by_its_place(tmp_path):
    for place in ("a.npz", "b.npz"):
        (tmp_path / place).write_bytes(b"same")
    (tmp_path / "c.npz").write_bytes(b"other")
    a, b, c = (
        checked("data=arrays", f"data.file={tmp_path / place}").hash for place in ("a.npz", "b.npz", "c.npz")
    )
    assert a == b != c


@pytest.mark.parametrize(
    "word, said",
    [
        ("lr=fast", "lr=fast: not a number"),
        ("lr=", "lr=: not a number"),
        ("lr=0", "lr=0.0: give a finite number above 0"),
        ("lr=-1", "above 0"),
        ("lr=nan", "above 0"),
        ("lr=inf", "above 0"),
        ("seed=1.5", "seed=1.5: not a whole number"),
        ("steps=-1", "steps=-1: give a whole number"),
        ("steps=many", "a number of epochs"),
        ("steps=true", "steps=True: give a whole number"),
        ("batch_size=0", "batch_size=0: give a whole number of at least 1, or full"),
        ("batch_size=all", "or full"),
        ("chunk=0", "chunk=0"),
        ("threads=0", "threads=0"),
        ("measure_examples=-3", "measure_examples=-3"),
        ("graph_gb=0", "graph_gb=0.0"),
        ("device=tpu", "device=tpu: possible: auto, cpu"),
        ("compile_products=perhaps", "compile_products=perhaps: possible: auto, true, false"),
        ("method=sma", "method=sma: no such method; did you mean sam? possible: adam, adamw,"),
        (
            "optimizer=adan",
            "optimizer=adan: no such optimizer; did you mean adam? possible: adam, adamw, averaging,",
        ),
        ("measure=[sharpnes]", "did you mean sharpness?"),
        ("experiment=eos", "possible: eos_cifar10_5k"),
        ("learning_rate=1", "learning_rate=1: no such setting;"),
        ("sede=1", "did you mean seed?"),
        ("model.width=[3]", "did you mean model.widths?"),
        ("model.widths=3", "model.widths=3: give a list, as in model.widths=[3]"),
        ("+foo.bar=1", "+foo.bar=1: no such setting"),
        ("data=null", "data=null: "),
        ("lr=[1", "no viable alternative"),
        ("lr", "missing EQUAL"),
        ("model.widths=[a]", "not a whole number"),
        ("model.activation=tnah", "model.activation=tnah: did you mean tanh? possible:"),
        ("optimizer.rho=1", "optimizer.rho=1: no such setting"),
        ("+optimizer.rho=1", "optimizer.rho=1: GD does not take it, and optimizer=sam does"),
        ("data=arrays", "data.file is missing: give data.file=..."),
        ("~optimizer", "optimizer is missing"),
        ("measure.sharpness.k=two", "measure.sharpness.k=two: not a whole number"),
        ("measure.sharpness.tol=nan", "give a finite number"),
        ("compile_toys=maybe", "compile_toys=maybe: not true or false"),
        ("replacement=2.5", "not true or false"),
        ("measure.sharpness.every=never", "measure.sharpness.every=never: give a whole number"),
    ],
)
def test_a_wrong_word_is_refused_in_words(word, said):
    with pytest.raises(Refusal) as refusal:
        checked(word)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "word, said",
    [
        (
            "data.file=x.npz",
            "data.file=x.npz: this problem has no data; for your own file add data=table, or use "
            "problem=network",
        ),
        (
            "model.widths=[3]",
            "model.widths=[3]: this problem has no model; leave it out, or use problem=network",
        ),
    ],
)
def test_a_setting_of_what_a_toy_has_not_is_refused_in_words(word, said):
    with pytest.raises(Refusal) as refusal:
        checked("problem=uv", word)
    assert str(refusal.value) == said


def test_code_outside_the_package_is_built_only_with_trust(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n\ndef linear(shape, outputs, *, bias: bool):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs, bias=bias))\n"
    )
    words = ["model._target_=my_nets.linear", "~model.widths", "~model.activation", "+model.bias=true"]
    with pytest.raises(
        Refusal, match=r"model._target_=my_nets.linear: code outside sharpcli; .* trust=\[my_nets\]"
    ):
        checked(*words)
    assert checked(*words, "trust=[my_nets]").config["model"] == {"_target_": "my_nets.linear", "bias": True}


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "sharpcli.provenance.subprocess.run",
        "sharpcli.run.os.system",
        "sharpcli_evil.x",
        "builtins.eval",
    ],
)
def test_a_target_that_leaves_the_package_is_refused_even_by_way_of_one_of_its_modules(path):
    with pytest.raises(Refusal, match="code outside sharpcli|has no part of this path"):
        typed({"_target_": path}, "model", [])


def test_a_part_is_handed_only_what_it_names():
    toy = part({"_target_": "sharpcli.problems.plane.valley", "start": [1.0, 1.0], "box": 0.0}, [], "problem")
    assert isinstance(toy(seed=0, chunk=9, data=None), Problem)


@pytest.mark.parametrize(
    "word",
    [
        "problem.d=99999999999999999999",
        "steps=9223372036854775808",
        "model.widths=[6,9223372036854775808]",
        "measure.sharpness.k=-99999999999999999999",
    ],
)
def test_a_whole_number_beyond_64_bits_is_one_line(sharp, word):
    problem = "problem=uv" if word.startswith("problem.") else "problem=network"
    assert word.partition("=")[0] in sharp("train", problem, word).refusal


@pytest.mark.parametrize(
    "words",
    [
        ("measure=[least_norm]", "measure.least_norm.positive=null"),
        ("measure=[sharpness]", "measure.sharpness.least=null"),
        ("model=cnn", "model.widths=null"),
        ("problem=uv", "problem.d=null"),
    ],
)
def test_null_in_the_place_of_a_value_names_the_setting(sharp, words):
    assert words[-1].partition("=")[0] in sharp("train", *words).refusal
