"""A user's arrays: which numbers they become, which classes they have, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
import torch

from sharpcli.config.check import check
from sharpcli.config.former import as_format_1, updated
from sharpcli.config.identity import numbers_of
from sharpcli.config.words import compose
from sharpcli.data.arrays import arrays
from sharpcli.data.table import table
from sharpcli.errors import Refusal


def save(path, **changes):
    """A file of ten examples of three classes, with changes."""
    g = np.random.default_rng(0)
    held = {
        "x_train": g.normal(size=(10, 4)),
        "y_train": np.arange(10) % 3,
        "x_test": g.normal(size=(4, 4)),
        "y_test": np.arange(4) % 3,
    }
    np.savez(path, **held | changes)
    return path


def both(dtype, values):
    """The same inputs of a dtype for training and test."""
    x = np.asarray(values, dtype)
    return {"x_train": np.resize(x, (10, len(x))), "x_test": np.resize(x, (4, len(x)))}


@pytest.mark.parametrize(
    "dtype, becomes",
    [
        ("float64", torch.float64),
        (">f8", torch.float64),
        ("float32", torch.float32),
        ("float16", torch.float32),
        ("uint8", torch.int64),
        ("int64", torch.int64),
        ("uint64", torch.int64),
        ("longdouble", torch.float64),
    ],
)
def test_inputs_keep_every_number_of_the_file(tmp_path, dtype, becomes):
    values = both(dtype, [0, 1, 100])
    d = arrays(wrong=None, file=save(tmp_path / "a.npz", **values))
    assert d.x_train.dtype == becomes
    assert np.array_equal(d.x_train.numpy().astype(dtype), values["x_train"])


@pytest.mark.parametrize(
    "dtype, number", [("uint64", 2**64 - 1), ("longdouble", np.longdouble(1) + np.finfo(np.longdouble).eps)]
)
def test_inputs_that_would_become_other_numbers_are_refused(tmp_path, dtype, number):
    with pytest.raises(Refusal, match="x_train is .* does not hold exactly"):
        arrays(wrong=None, file=save(tmp_path / "a.npz", **both(dtype, [number])))
    with pytest.raises(Refusal, match="Z is int64 with numbers that float64 does not hold"):
        np.savez(tmp_path / "t.npz", Z=np.array([[2**53 + 1]]), y=np.ones(1))
        table(file=tmp_path / "t.npz")


def test_real_targets_keep_their_precision(tmp_path):
    y = np.array([1 / 3] * 10)
    d = arrays(wrong=None, file=save(tmp_path / "a.npz", y_train=y, y_test=y[:4]))
    assert d.y_train.dtype == torch.float64 and d.y_train[0].item() == 1 / 3 and not d.classes


@pytest.mark.parametrize(
    "train, test, given, said",
    [
        ([0, 1, 255], [0], None, r"3 classes occur in y_train \(0, 1, 255\).* 256 .*classes=256"),
        ([1, 2, 3], [1], None, "number them from 0 to 2"),
        ([0, 1], [2], None, r"y_test has classes that y_train has not \(2\).*classes=3"),
        ([0, 0], [0], None, "a single class occurs in y_train"),
        ([0, 1], [0], 1, "classes is 1, and 2 classes occur"),
        ([0, 5], [0], 4, "save at least 6"),
        ([0, 1], [7], 4, "classes=8"),
        ([0, 1], [0], 10**9, "2 to 1000000"),
        ([0, -1], [0], None, "classes"),
        ([0.0, 1.0], [0.0], 3, "classes is 3 and y_train real-valued"),
        ([0, 10**12], [0], None, "2 classes occur"),
    ],
)
def test_classes_are_counted_in_training_and_said(tmp_path, train, test, given, said):
    changes = {"y_train": np.resize(train, 10), "y_test": np.resize(test, 4)}
    changes |= {} if given is None else {"classes": given}
    with pytest.raises(Refusal, match=said):
        arrays(wrong=None, file=save(tmp_path / "a.npz", **changes))


def test_the_number_of_classes_may_be_given_where_some_do_not_occur(tmp_path):
    d = arrays(wrong=None, file=save(tmp_path / "a.npz", y_test=np.full(4, 7), classes=10))
    assert d.y_train.shape == (10, 10) and d.y_test[0].argmax() == 7
    for wrong in (np.ones(2), "ten", np.nan):
        with pytest.raises(Refusal, match="classes .*give (a|finite) number"):
            arrays(wrong=None, file=save(tmp_path / "a.npz", classes=wrong))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_inputs_that_are_single_numbers_or_empty_are_refused(tmp_path, shape):
    with pytest.raises(Refusal, match=r"give x \[n, \.\.\.\] with a dimension beside n"):
        arrays(
            wrong=None,
            file=save(tmp_path / "a.npz", x_train=np.zeros((10, *shape)), x_test=np.zeros((4, *shape))),
        )


def header(shape, dtype="<f8", size=0):
    """An array's file that declares a shape and holds `size` bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(size)


def archive(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in parts:
            out.writestr(name, content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_files_that_declare_what_they_do_not_hold_are_refused(tmp_path):
    good = header((1, 1), size=8)
    for Z, said in [
        (header((10**6, 10**6)), "declares"),  # eight terabytes
        (header((2**62, 8)), "declares"),
        (header((1, 1), size=16), "declares"),
        (header((1, 2), size=8), "declares"),
        (header((1, 1), "|O", 8), "pickled Python objects"),
        (b"", "not a readable"),
        (good[:9], "not a readable"),
        (good.replace(b"NUMPY", b"numpy"), "not a readable"),
        (good.replace(b"<f8", b"<x8"), "not a readable"),
        (good.replace(b"(1, 1)", b"(-1,1)"), "declares"),
    ]:
        file = archive(tmp_path / "t.npz", [("Z.npy", Z), ("y.npy", header((1,), size=8))])
        with pytest.raises(Refusal, match=said):
            table(file=file)
    twice = [("Z.npy", good), ("Z.npy", good), ("y.npy", header((1,), size=8))]
    with pytest.raises(Refusal, match="two arrays have the same name"):
        table(file=archive(tmp_path / "t.npz", twice))


def test_a_bit_that_flipped_in_an_array_is_found_by_its_checksum(tmp_path):
    np.savez(tmp_path / "t.npz", Z=np.full((3, 2), 1.5), y=np.ones(3))
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[content.index(np.float64(1.5).tobytes()) + 2] ^= 1
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(Refusal, match="not a readable .npz .*CRC"):
        table(file=tmp_path / "t.npz")


def test_arrays_larger_than_the_memory_are_refused_before_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 8)
    with pytest.raises(Refusal, match="GB of memory"):
        arrays(wrong=None, file=save(tmp_path / "a.npz"))


def test_a_run_without_a_later_setting_is_the_run_that_it_was_before_there_was_the_setting():
    for size in ("null", "32"):
        words = ["model=timm", f"model.img_size={size}"]
        checked = check(compose(words), words)
        for known_by in (numbers_of(checked.config, {}), as_format_1(checked.config, {})):
            assert ("img_size" in known_by["model"]) == (size != "null")
    before = {"model": {"_target_": "sharpcli.models.timm.timm", "name": "resnet18"}, "lr": 0.1}
    assert updated(before) == {**before, "model": {**before["model"], "img_size": None}}


def test_digits_are_scikit_learn_s_whether_its_file_is_where_it_was_or_not(monkeypatch):
    from sharpcli.data import digits

    images, labels = digits._read()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    theirs, their_labels = digits._read()
    assert images.dtype == theirs.dtype and (images == theirs).all() and (labels == their_labels).all()


def test_characters_are_numbered_in_order_and_predict_the_next(tmp_path):
    from sharpcli.data.characters import characters

    (tmp_path / "x.txt").write_text("badé" * 3 + "b")
    data = characters(file=tmp_path / "x.txt", length=3, test_share=0.4)
    assert data.outputs == 4 and data.x_train.tolist() == [[1, 0, 2], [1, 0, 2]]  # a b d é
    assert data.y_train.tolist() == [[0, 2, 3], [0, 2, 3]] and data.x_test.tolist() == [[1, 0, 2]]
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    for file, length, share, said in (
        (tmp_path / "latin", 3, 0.0, "not readable as text"),
        (tmp_path, 3, 0.0, "not readable as text"),
        (tmp_path / "x.txt", 13, 0.0, "13 characters; give at least 14"),
        (tmp_path / "x.txt", 0, 0.0, "at least 1 character"),
        (tmp_path / "x.txt", 3, 1.0, "a share in"),
    ):
        with pytest.raises(Refusal, match=said):
            characters(file=file, length=length, test_share=share)
