"""Reading a file of weights that another program wrote. Which of its tensors is which of a network's is known
only with the network: `problems/weights.py`."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import Refusal

INDEX = ".index.json"  # the end of the name of a file that lists in which shard each tensor is
SHARD = re.compile(
    r"(.+)-\d{5}-of-(\d{5})(\.\w+)"
)  # the name of a shard, as Hugging Face's programs write it
# torch.save's number, after the two bytes of the pickle's protocol
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DOS_FOLDER = 0x10  # the bit of an archive's attributes that makes a part a folder
DEPTH = 5  # of dicts in dicts that are searched for tensors
SAVE = "save a state dict: torch.save(model.state_dict(), 'weights.pt') in the program that trained it"


def read(file: Path) -> dict[str, Any]:
    """What a file of safetensors or of `torch.save` holds: tensors by name, or dicts in dicts of them. With
    an index (`model.safetensors.index.json`), the tensors of all its shards. Code in a file is never run.

    Refuses a file that cannot be read as weights alone, and names the class that stands in the way; a file
    whose checksums are not those of its content; a shard alone; and a file without tensors.
    """
    if file.name.endswith(INDEX):
        return _sharded(file)
    if (shard := SHARD.fullmatch(file.name)) and int(shard[2]) > 1:
        index = file.with_name(f"{shard[1]}{shard[3]}{INDEX}")
        there = "" if index.is_file() else ", which is missing in this folder"
        raise Refusal(f"{file}: one of {int(shard[2])} shards; name the index of them all, {index}{there}")
    loaded = _loaded(file)
    if next(_tensors(loaded), None) is None:
        held = ", ".join(str(key)[:40] for key in list(loaded)[:5]) if isinstance(loaded, Mapping) else ""
        held = held or ("nothing" if isinstance(loaded, Mapping) else type(loaded).__name__)
        raise Refusal(f"{file}: holds no state dict (it has {held}); {SAVE}")
    return dict(loaded)


def content(file: Path) -> str:
    """The SHA-256 of a file's content, in hex digits; of an index, that of the index and of its shards."""
    digest = hashlib.sha256()
    files = [file]
    if file.name.endswith(INDEX):
        files += [file.with_name(name) for name in sorted(set(_shards(file).values()))]
    for part in files:
        with open(part, "rb") as stream:
            while piece := stream.read(2**24):
                digest.update(piece)
    return digest.hexdigest()


def _shards(index: Path) -> dict[str, str]:
    """The shard that an index names for each tensor: a file in the same folder."""
    try:
        names = json.loads(index.read_bytes())["weight_map"]
        if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
            raise ValueError("weight_map must give a file for each tensor")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Refusal(
            f"{index}: not readable as the index of shards ({_line(problem)}); save it anew"
        ) from None
    beside = {path.name for path in index.parent.iterdir() if path.is_file()}
    for name in set(names.values()) - beside:
        if "/" in name:
            raise Refusal(f"{index}: names the shard {name[:80]}, but shards are files beside their index")
        raise Refusal(f"{index}: names the shard {name[:80]}, which is missing; put all shards beside it")
    return names


def _sharded(index: Path) -> dict[str, Any]:
    """The tensors of all shards. Refuses a shard whose tensors are not those that the index says."""
    named, tensors = _shards(index), dict[str, Any]()
    for shard in sorted(set(named.values())):
        loaded = _loaded(index.with_name(shard))
        listed = {name for name, place in named.items() if place == shard}
        if not isinstance(loaded, Mapping) or (differ := listed ^ set(loaded)):
            example = (
                next(iter(sorted(map(str, differ))))[:80] if isinstance(loaded, Mapping) else "no tensors"
            )
            raise Refusal(f"{index}: {shard} does not hold what the index says ({example}); save both anew")
        tensors |= loaded
    return tensors


def _loaded(file: Path) -> Any:
    """The objects of a file, read by what its first bytes say that it is."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
        if head[8:9] == b"{":
            from safetensors.torch import load_file

            return load_file(file)
        if head.startswith(b"PK\x03\x04"):
            sizes = _check_zip(file)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
            _check_storages(loaded, sizes)
            return loaded
        if not head:
            raise ValueError("the file is empty")
        if not head[2:].startswith(TORCH_LEGACY):
            raise ValueError("its first bytes are not those of torch.save or safetensors")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # what these libraries raise on damaged files is of very many classes
        raise Refusal(f"{file}: not readable as weights alone ({_line(problem)}); {SAVE}") from None


def _check_zip(file: Path) -> Counter[int]:
    """How many parts of an archive of torch.save have how many bytes.

    Raises ValueError for an archive that torch.save did not write so: compressed, with more content than the
    file has bytes, with two parts of one name, or with content of another checksum (torch does not compare
    them). All checksums are 0 where torch.serialization.set_crc32_options(False) left them out.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("a compressed archive, which torch.save does not write")
        # torch gives memory that was never written for a part of fewer bytes, or one marked as a folder
        if any(part.compress_size != part.file_size or part.external_attr & DOS_FOLDER for part in parts):
            raise ValueError("damaged: a part is marked as a folder or as stored in fewer bytes than it has")
        # the offsets in the directory mean other bytes to torch than to zipfile behind something else
        if min(part.header_offset for part in parts) > 0:
            raise ValueError("damaged: there are bytes before the archive")
        if sum(part.file_size for part in parts) > file.stat().st_size:
            raise ValueError("its parts declare more bytes than the file has")
        if len({part.filename for part in parts}) < len(parts):
            raise ValueError("two parts have the same name")
        if any(part.CRC for part in parts) and (bad := archive.testzip()):
            raise ValueError(f"damaged: the content of {bad} does not have its checksum")
        return Counter(part.file_size for part in parts)


def _check_storages(loaded: Any, sizes: Counter[int]) -> None:
    """Raises ValueError where a tensor is declared with more or fewer bytes than a part of the archive has:
    versions of torch up to 2.6 at least read the memory behind it."""
    tensors = [value for value in _tensors(loaded) if value.layout == torch.strided and not value.is_meta]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
    if more := Counter(size for place, size in storages.items() if place) - sizes:
        raise ValueError(f"damaged: a tensor of {min(more)} bytes has no part of that size in the archive")


def _tensors(held: Any, depth: int = DEPTH, known: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors that dicts in dicts hold by a name. `known` are the dicts searched before: one may hold
    itself, or be held in a thousand places."""
    known = set() if known is None else known
    if not isinstance(held, Mapping) or id(held) in known:
        return
    known.add(id(held))
    for key, value in held.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            yield value
        elif isinstance(key, str) and depth > 0:
            yield from _tensors(value, depth - 1, known)


def _line(problem: Exception) -> str:
    """An exception in a few words: of torch's refusal to build an object, the class that it is of."""
    text = str(problem) or type(problem).__name__
    if name := re.search(r"GLOBAL (\S+) (?:was not|whose module)", text):
        return f"it holds an object of {name[1][:80]}, which is built by running code"
    text = text.partition("WeightsUnpickler error:")[2] or text
    if "TorchScript" in text:
        return "a TorchScript program"
    return text.strip().split("\n", maxsplit=1)[0][:160]
