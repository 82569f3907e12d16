"""Files from anywhere: weights and data that are damaged or hostile are read to the numbers that they were
written with, or refused in one line. No code in them is run, no huge array is made, and no pipe is waited
for."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors
from torch import nn

from sharpcli.commands.state_dict import read
from sharpcli.data.arrays import arrays
from sharpcli.data.table import table
from sharpcli.errors import Refusal
from sharpcli.problems.weights import load
from torture import SHARDS, amount, at_most_gigabytes, cases, draws, each, limit
from torture import damage as ways

FILES = 2500
SECONDS, GIGABYTES = 20.0, 4.0
Numbers = dict[str, np.ndarray]
BYTES = (  # to a file's bytes, by a disk or a copy cut short
    *(ways.flip, ways.flip, ways.flip, ways.overwrite, ways.zeros, ways.cut, ways.cut_middle, ways.doubled),
    *(ways.empty, ways.digit, ways.escapes, ways.other_encoding),
)


def net() -> nn.Module:
    """A network with every kind of tensor of a state dict."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))


def of_weights(file: Path) -> Numbers:
    """The numbers of a file of weights, as they arrive in the network, without the count of batches."""
    fresh = net()
    load(fresh, read(file), statistics=True)
    held = fresh.state_dict()
    return {name: value.numpy() for name, value in held.items() if not name.endswith("tracked")}


def of_data(part: Callable[..., Any]) -> Callable[[Path], Numbers]:
    """The numbers of a data set that a part reads from a file."""

    def numbers(file: Path) -> Numbers:
        data = part(file=file)
        held = {"x": data.x_train, "y": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
        return {name: value.numpy() for name, value in held.items()}

    return numbers


def saved(held: Any, **settings: Any) -> bytes:
    """What torch.save writes."""
    into = io.BytesIO()
    torch.save(held, into, **settings)
    return into.getvalue()


def archive(**held: Any) -> bytes:
    """What numpy.savez writes."""
    into = io.BytesIO()
    np.savez(into, **held)
    return into.getvalue()


def decoded(content: bytes) -> Numbers | None:
    """The numbers of a file of safetensors by the format's definition; None where it is no such file."""
    try:
        size = int.from_bytes(content[:8], "little")
        entries, data = json.loads(content[8 : 8 + size]), content[8 + size :]
        entries.pop("__metadata__", None)
        kinds = {"F32": "<f4", "I64": "<i8", "F16": "<f2", "F64": "<f8", "I32": "<i4", "U64": "<u8"}
        return {
            name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(
                entry["shape"]
            )
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, what it holds undamaged, how it is read, and whether checksums guard its
    numbers. Without them a number in the place of another cannot be told from one that was written."""

    file: str
    content: Callable[[], bytes]
    numbers: Callable[[Path], Numbers]
    guarded: bool = True


def state() -> dict[str, Any]:
    return net().state_dict()


def examples() -> dict[str, Any]:
    g = np.random.default_rng(0)
    x, y = g.normal(size=(7, 3)), np.arange(7) % 3
    return {"x_train": x, "y_train": y, "x_test": x[:3] + 1, "y_test": y[:3]}


KINDS = (
    Kind("w.pt", lambda: saved(state()), of_weights),
    Kind(
        "w.ckpt",
        lambda: saved({"epoch": 1, "state_dict": {f"m.{k}": v for k, v in state().items()}}),
        of_weights,
    ),
    Kind("w.pth", lambda: saved(state(), _use_new_zipfile_serialization=False), of_weights, guarded=False),
    Kind("w.safetensors", lambda: safetensors(state()), of_weights, guarded=False),
    Kind("a.npz", lambda: archive(**examples()), of_data(partial(arrays, wrong=None))),
    Kind("t.npz", lambda: archive(Z=np.arange(6.0).reshape(3, 2), y=np.ones(3)), of_data(table)),
)


def fault(kind: Kind, file: Path, content: bytes, intact: Numbers) -> str | None:
    """What is wrong with the way a damaged file is read, or None."""
    file.write_bytes(content)
    try:
        with limit(SECONDS), at_most_gigabytes(GIGABYTES):
            numbers = kind.numbers(file)
    except Refusal as refusal:
        line = str(refusal)
        return None if line.isprintable() and 20 < len(line) < 1200 else f"not one clear line: {line[:300]!r}"
    if not all(np.isfinite(value).all() for value in numbers.values()):
        return "NaN or infinity was taken"
    if kind.file.endswith(".safetensors"):
        written = decoded(content)
        if written is None:
            return "read, though it is no file of safetensors"
        same = written.keys() >= numbers.keys() and _equal(numbers, {name: written[name] for name in numbers})
        return None if same else "other numbers were taken than the format says"
    return "other numbers were taken" if kind.guarded and not _equal(numbers, intact) else None


def _equal(a: Numbers, b: Numbers) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore")  # of libraries about what they read
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_damaged_file_is_read_to_its_numbers_or_refused(tmp_path, shard):
    intact = []
    for kind in KINDS:
        (tmp_path / kind.file).write_bytes(kind.content())
        intact.append((kind, kind.content(), kind.numbers(tmp_path / kind.file)))

    def one(case: int) -> str | None:
        draw = draws("files", case)
        kind, content, numbers = intact[case % len(KINDS)]
        damaged = draw.choice(BYTES)(draw, content)
        if draw.random() < 0.2:
            damaged = draw.choice(BYTES)(draw, damaged)
        found = fault(kind, tmp_path / kind.file, damaged, numbers)
        return found and f"{kind.file}: {found}"

    each("files", cases(FILES * 4 // 5, shard, SHARDS), one)


def renamed(draw: random.Random, held: dict[str, Any]) -> None:
    name = draw.choice(list(held))
    held[draw.choice(["", "x", f"{name}.", f".{name}", name[::-1], f"{name}\x1b[1m", "ü"])] = held.pop(name)


def missing(draw: random.Random, held: dict[str, Any]) -> None:
    del held[draw.choice([name for name in held if not name.endswith("tracked")])]


def reshaped(draw: random.Random, held: dict[str, Any]) -> None:
    name = draw.choice([name for name in held if not name.endswith("tracked")])
    held[name] = draw.choice(
        [held[name][None], held[name][..., None], held[name][:0], held[name].repeat(2, 1)]
    )


def not_finite(draw: random.Random, held: dict[str, Any]) -> None:
    name = draw.choice([name for name in held if not name.endswith("tracked")])
    held[name] = held[name].clone()
    held[name].view(-1)[0] = draw.choice([float("nan"), float("inf"), -float("inf")])


def other_dtype(draw: random.Random, held: dict[str, Any]) -> None:
    name = draw.choice([name for name in held if name.endswith(("weight", "bias"))])
    kinds = (torch.int8, torch.bool, torch.complex64, torch.float8_e5m2, torch.int64, torch.uint8)
    held[name] = held[name].to(draw.choice(kinds))


def no_tensor(draw: random.Random, held: dict[str, Any]) -> None:
    name = draw.choice([name for name in held if not name.endswith("tracked")])
    held[name] = draw.choice([None, 1, "x", [1.0], {}, {name: held[name]}, (held[name],)])


def another(draw: random.Random, held: dict[str, Any]) -> None:
    held[draw.choice(["4.weight", "0.weight.weight", "0", "model"])] = torch.zeros(
        draw.choice([(), (2,), (0,)])
    )


WRONG = (renamed, missing, reshaped, not_finite, other_dtype, no_tensor, another)


@pytest.mark.filterwarnings("ignore")
def test_weights_of_something_else_are_refused_with_every_checksum_right(tmp_path):
    def one(case: int) -> str | None:
        draw, held = draws("other weights", case), dict(state())
        way = WRONG[case % len(WRONG)]
        way(draw, held)
        file, content = tmp_path / "w.pt", None
        if draw.random() < 0.3 and all(isinstance(value, torch.Tensor) for value in held.values()):
            content = safetensors({name: value.contiguous() for name, value in held.items()})
        file.write_bytes(content or saved(held))
        try:
            with limit(SECONDS):
                of_weights(file)
        except Refusal as refusal:
            return None if str(refusal).isprintable() else f"{way.__name__}: {str(refusal)!r}"
        return f"{way.__name__}: {sorted(held)} was taken"

    each("other weights", cases(FILES // 10), one)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_index_of_shards_is_read_to_its_numbers_or_refused(tmp_path):
    held = list(state().items())
    places = {}
    for i, part in enumerate((held[:4], held[4:]), 1):
        shard = f"model-{i:05}-of-00002.bin"
        (tmp_path / shard).write_bytes(saved(dict(part)))
        places |= {name: shard for name, _ in part}
    index = tmp_path / "model.bin.index.json"
    whole = json.dumps({"weight_map": places}).encode()
    index.write_bytes(whole)
    kind = Kind(index.name, lambda: whole, of_weights)
    intact = of_weights(index)

    def one(case: int) -> str | None:
        draw = draws("index", case)
        return fault(kind, index, draw.choice([*BYTES, ways.change_json])(draw, whole), intact)

    each("index", cases(FILES // 10), one)


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def with_pickle(content: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """An archive as torch.save writes it, around a pickle of one's own."""
    return with_parts({"data.pkl": content, "byteorder": b"little", "version": b"3\n"} | more, compression)


def with_parts(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these parts."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", compression) as out:
        for name, part in parts.items():
            out.writestr(f"w/{name}", part)
    return into.getvalue()


def rewritten(content: bytes, old: bytes, new: bytes, name: str = "data.pkl") -> bytes:
    """An archive of torch.save with a change in its pickle or another part, and every checksum right."""
    into = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(into, "w") as after:
        for part in before.infolist():
            held = before.read(part)
            if part.filename.endswith(name):
                assert old in held
                held = held.replace(old, new)
            after.writestr(part.filename, held)
    return into.getvalue()


def in_directory(content: bytes, part: bytes, at: int, value: bytes) -> bytes:
    """An archive in whose directory the entry of a part has `value` at the offset `at`."""
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(part)) + at
    return content[:entry] + value + content[entry + len(value) :]


def with_header(entries: Any, size: int | None = None, data: int = 0) -> bytes:
    """A file of safetensors with this header, which states another size than it has where one is given."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(data)


def hostile(ran: Path) -> dict[str, bytes]:
    """Files that would write `ran`, or take all memory or time, if they were trusted."""
    touch, tensor = f"touch {ran}", torch.zeros(2)  # which torch.load would run, and numpy.load
    code = f"open({str(ran)!r}, 'w')"
    inner = saved({"a": Calls(os.system, touch)})
    itself: dict[str, Any] = {"epoch": 1}
    itself["model"] = itself
    wide: dict[str, Any] = {}
    for _ in range(6):
        wide = {f"{i}": wide for i in range(2000)}
    tensors = pickle.dumps({"w": 1}, 2)
    proto0 = b"cposix\nsystem\n(S'" + touch.encode() + b"'\ntR."
    storage = saved({"0.weight": torch.zeros(5)})
    zeros = b"\0" * 10**8
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "os.system": saved({"0.weight": Calls(os.system, touch)}),
        "os.system in torch's old format": saved(
            Calls(os.system, touch), _use_new_zipfile_serialization=False
        ),
        "eval": saved({"w": tensor, "x": Calls(eval, code)}),
        "exec as a key": with_pickle(pickle.dumps(OrderedDict([(("a", Calls(exec, code)), 1)]), 2)),
        "protocol 0": with_pickle(proto0),
        "a bare pickle": proto0,
        "a bare pickle of protocol 5": pickle.dumps(Calls(os.system, touch), 5),
        "the opcode INST": with_pickle(b"(S'" + touch.encode() + b"'\niposix\nsystem\n."),
        "the opcode OBJ": with_pickle(b"(cposix\nsystem\nS'" + touch.encode() + b"'\no."),
        "getattr": with_pickle(
            b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'x'\ntR."
        ),
        "a storage from bytes": saved({"w": Calls(torch.storage._load_from_bytes, inner)}),
        "torch.load": saved({"w": Calls(torch.load, io.BytesIO(inner), "cpu", None, None, None)}),
        "hooks of a tensor": saved(
            {"w": Calls(torch._utils._rebuild_parameter, tensor, True, Calls(eval, code))}
        ),
        "the state of a dict": with_pickle(b"ccollections\nOrderedDict\n)R}S'__class__'\ncos\nsystem\nsb."),
        "an evil class of storage": rewritten(
            saved({"w": tensor}), b"ctorch\nFloatStorage", b"cposix\nsystem"
        ),
        "a TorchScript program": with_pickle(
            tensors, **{"code/__torch__.py": code.encode(), "constants.pkl": b"N."}
        ),
        "a package": with_pickle(tensors, **{".data/extern_modules": b"os"}),
        "an archive in an archive": with_pickle(inner),
        "a zip bomb": with_pickle(tensors, zipfile.ZIP_DEFLATED, **{f"data/{i}": zeros for i in range(3)}),
        "numbers beyond their storage": rewritten(storage, b"K\x05\x85", b"K\x64\x85"),
        "a storage beyond its part": rewritten(storage, b"K\x05t", b"K\x64t"),
        "a part shorter than its storage": rewritten(
            saved({**state(), "0.weight": torch.ones(3, 4)}),
            bytes(torch.ones(12).numpy()),
            b"\0" * 8,
            "data/0",
        ),
        "both beyond": rewritten(rewritten(storage, b"K\x05\x85", b"K\x64\x85"), b"K\x05t", b"K\x64t"),
        "a storage of terabytes": rewritten(
            storage, b"K\x05t", b"\x8a\x08" + (2**45).to_bytes(8, "little") + b"t"
        ),
        "numbers before their storage": rewritten(storage, b"QK\x00", b"QJ\xff\xff\xff\xff"),
        "a stride beyond the storage": rewritten(storage, b"K\x01\x85", b"J\x00\x00\x00\x70\x85"),
        # torch would give memory that was never written
        "a part marked as a folder": in_directory(saved(state()), b"data/0", 38, b"\x10"),
        "a part of fewer bytes than it has": in_directory(saved(state()), b"data/0", 20, b"\x01"),
        "an archive behind another": saved({}) + saved(state()),
        "an archive without parts": with_parts({}),
        "a tensor of terabytes": saved({"0.weight": torch.zeros(1).expand(10**6, 10**7)}),
        "bytes of terabytes": with_pickle(
            b"cbuiltins\nbytearray\n(\x8a\x08" + (2**45).to_bytes(8, "little") + b"tR."
        ),
        "a dict that holds itself": saved(itself),
        "dicts held in thousands of places": saved(wide),
        "a very deep list": with_pickle(b"(" * 10**5),
        "twenty thousand names": saved({f"module.module.module.{i}": tensor for i in range(20_000)}),
        "safetensors: a header of exabytes": with_header({"w": entry}, 2**63 - 1, 8),
        "safetensors: a header beyond the file": with_header({"w": entry}, 1000, 8),
        "safetensors: no header": with_header(b"", 0),
        "safetensors: offsets that overlap": with_header({"a": entry, "b": entry}, None, 8),
        "safetensors: offsets beyond the file": with_header(
            {"a": entry | {"data_offsets": [0, 2**62]}}, None, 8
        ),
        "safetensors: offsets backwards": with_header({"a": entry | {"data_offsets": [8, 0]}}, None, 8),
        "safetensors: a shape of exabytes": with_header(
            {"a": entry | {"shape": [2**31, 2**31, 2**31]}}, None, 8
        ),
        "safetensors: a negative shape": with_header({"a": entry | {"shape": [-1, -2]}}, None, 8),
        "safetensors: one name twice": with_header(
            b'{"a":' + json.dumps(entry).encode() + b',"a":' + json.dumps(entry).encode() + b"}", None, 8
        ),
        "safetensors: a deep header": with_header(b'{"a":' * 10**5, None, 8),
        "safetensors: no tensors": with_header({}),
        "no tensors": saved({}),
        "no bytes": b"",
    }


@pytest.mark.filterwarnings("ignore")
def test_no_hostile_file_of_weights_runs_code_or_takes_the_machine(sharp, folder):
    ran = folder / "ran"
    files = hostile(ran)
    assert len(files) >= 40

    def one(case: int) -> str | None:
        name, content = list(files.items())[case]
        (folder / "w.pt").write_bytes(content)
        said = None
        try:
            with limit(SECONDS), at_most_gigabytes(GIGABYTES):
                of_weights(folder / "w.pt")
        except Refusal as refusal:
            said = str(refusal)
        if ran.exists():
            return f"{name}: its code was run"
        if said is None or not said.isprintable() or len(said) > 1200:
            return f"{name}: {said}"
        if case < amount(len(files)):
            with limit(SECONDS):
                end = sharp("measure", "w.pt", "data.train_examples=20", "model.widths=[2]")
            return None if end.refusal else f"{name}: {end.err}"
        return None

    each("hostile weights", range(len(files)), one)


@pytest.mark.filterwarnings("ignore")
def test_no_hostile_file_of_data_runs_code_or_takes_the_machine(folder):
    ran = folder / "ran"

    def npy(shape: tuple[int, ...], dtype: str = "<f8", content: bytes = b"") -> bytes:
        into = io.BytesIO()
        np.lib.format.write_array_header_1_0(into, {"descr": dtype, "fortran_order": False, "shape": shape})
        return into.getvalue() + content

    def with_Z(Z: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
        into = io.BytesIO()
        with zipfile.ZipFile(into, "w", compression) as out:
            out.writestr("Z.npy", Z)
            out.writestr("y.npy", npy((1,), content=bytes(8)))
        return into.getvalue()

    objects = np.array([Calls(os.system, f"touch {ran}")], dtype=object)
    files = {
        "objects": archive(Z=objects, y=np.ones(1)),
        "a pickle": pickle.dumps(Calls(os.system, f"touch {ran}")),
        "a pickle in the place of an array": with_Z(pickle.dumps(Calls(os.system, f"touch {ran}"))),
        "terabytes": with_Z(npy((10**6, 10**7))),
        "exabytes": with_Z(npy((2**40, 2**40))),
        "a zip bomb": with_Z(npy((1, 1), content=bytes(2 * 10**8)), zipfile.ZIP_DEFLATED),
        "code as a header": with_Z(npy((1, 1)).replace(b"'<f8'", b"exit()")),
        "fields": with_Z(npy((1,), content=bytes(16)).replace(b"'<f8'         ", b"[('a','<f8')] ")),
        "an archive in an archive": with_Z(archive(Z=np.ones((1, 1)))),
        "a list of numbers": b"1 2 3\n",
        "no bytes": b"",
    }

    def one(case: int) -> str | None:
        name, content = list(files.items())[case]
        (folder / "t.npz").write_bytes(content)
        try:
            with limit(SECONDS), at_most_gigabytes(GIGABYTES):
                table(file=folder / "t.npz")
        except Refusal as refusal:
            return f"{name}: its code was run" if ran.exists() or not str(refusal).isprintable() else None
        return f"{name}: was taken"

    each("hostile data", range(len(files)), one)


def test_what_is_no_file_is_refused_and_never_waited_for(sharp, folder):
    os.mkfifo(folder / "pipe.pt")
    (folder / "nowhere.pt").symlink_to("missing.pt")
    (folder / "circle.pt").symlink_to("circle.pt")
    (folder / "folder.pt").mkdir()
    (folder / "zero.pt").symlink_to("/dev/zero")
    (folder / "a.bin.index.json").write_text(json.dumps({"weight_map": {"w": "pipe.pt"}}))
    (folder / "b.bin.index.json").write_text(json.dumps({"weight_map": {"w": "zero.pt"}}))
    (folder / "c.bin.index.json").write_text(json.dumps({"weight_map": {"w": "c.bin.index.json"}}))
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 8
    for name in [*names, "/dev/zero", "x" * 300 + ".pt"]:
        with limit(SECONDS):
            assert sharp("measure", f"weights={name}").refusal, name
    for name in ("pipe.pt", "zero.pt", "folder.pt", "circle.pt", "x" * 300):
        with limit(SECONDS):
            assert sharp("train", "data=arrays", f"data.file={name}").refusal, name
