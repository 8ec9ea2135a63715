"""Pickles of objects, read without making one of them: `pickle.load` would run what they name.

What a pickle makes by a class or function stands here as a `Recorded`: the name, the arguments, the state.
Of these `tensor_of` makes tensors.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.folders import regular


class Recorded:
    """What stands for an object of a file; nothing of it runs.

    Attributes:
        made_by: MODULE.NAME of what would make it.
        args: that it would be made with.
        state: that it would be given.
    """

    made_by: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Self:
        self = object.__new__(cls)
        self.args, self.state = args, {}
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Names(dict[Any, Any]):
    """Any kind of dictionary."""

    def __setstate__(self, _: Any) -> None:
        pass


PLAIN = {"collections.OrderedDict": Names, "dnnlib.util.EasyDict": Names, "builtins.set": set}
"""Plain data, which is made."""

KNOWN = (
    "torch_utils.persistence.", "torch._utils.", "torch.storage.", "torch.nn.modules.", "torch.device",
    "torch.Size", "torch.float", "torch.dtype", "numpy.", "_codecs.encode",
)  # fmt: skip
"""What files name besides: beginnings of names.  Nothing of it is called, so this is for what is said."""


class _Reader(pickle._Unpickler):
    """The unpickler of Python code: of the other one an index of four bytes can claim all memory."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path, self.kinds = path, dict[str, Any]()

    def find_class(self, module: str, name: str) -> Any:
        said = f"{module}.{name}"
        if said in PLAIN:
            return PLAIN[said]
        if not said.startswith(KNOWN):
            raise UserError(
                f"{self.path} holds {said}, which is neither numbers nor a part of a network; nothing was run"
            )
        return self.kinds.setdefault(said, type("Recorded", (Recorded,), {"made_by": said}))


MOST = 10**6
"""Things that a tuple may hold, each counted as often as it is held: Python's hash looks at all of them."""
MARK = 0


def load_tensors(opened: IO[bytes]) -> Any:
    """What a file of torch.save holds, of tensors and plain data; nothing in it can run, or take hours.

    Raises:
        ValueError: a tuple in it holds more than `MOST` things; or other errors of what is no such file.
    """
    if zipfile.is_zipfile(opened):
        with zipfile.ZipFile(opened) as packed:
            for entry in packed.infolist():
                if entry.filename.endswith("data.pkl"):
                    check_tuples(io.BytesIO(packed.read(entry)))
    else:
        opened.seek(0)
        for _ in range(5):  # the pickles of an old file
            check_tuples(opened)
    opened.seek(0)
    return torch.load(opened, map_location="cpu", weights_only=True)


def check_tuples(opened: IO[bytes]) -> None:
    """Follows how a pickle would be read, making nothing, and counts what its tuples would hold.

    Raises:
        ValueError: one holds more than `MOST` things, or this is no pickle.
    """
    stack, memo = list[int](), dict[Any, int]()  # the size of each thing
    for code, arg, _ in pickletools.genops(opened):
        name, taken, at = code.name, list[int](), int(str(arg)) if str(arg).isdigit() else len(memo)
        if "GET" in name:
            stack.append(memo.get(at, 1))
        elif "PUT" in name or name == "MEMOIZE":
            memo[at] = stack[-1] if stack else 1
        elif name == "DUP":
            stack += stack[-1:]
        else:
            for kind in reversed(code.stack_before):
                if kind is pickletools.stackslice:
                    while stack and stack[-1] != MARK:
                        taken.append(stack.pop())
                elif stack:
                    taken.append(stack.pop())
            holds = name.startswith("TUPLE") or name == "FROZENSET"
            size = 1 + sum(taken) if holds else 1
            if size > MOST:
                raise ValueError("a tuple of tuples without end")
            stack += [MARK if kind is pickletools.markobject else size for kind in code.stack_after]


def read_pickle(file: Path) -> Any:
    """What a pickle holds, of plain data and `Recorded`s.

    Raises:
        UserError: it is missing, no pickle, damaged, or names what no network needs.
    """
    if not file.is_file():
        raise UserError(f"there is no file {str(file)!r}; expected a .pkl file of weights")
    try:
        with regular(file).open("rb") as opened:
            check_tuples(opened)
            opened.seek(0)
            return _Reader(opened, file).load()
    except UserError:
        raise
    except Exception:  # whatever the unpickler says to what is no pickle
        raise UserError(f"{file} is not a pickle, or is damaged: copy it again") from None


def tensor_of(value: Any, storages: dict[int, Any]) -> Tensor:
    """The tensor that a pickle would make.

    Args:
        value: what stands for it.
        storages: those that were read, which tensors may share.

    Raises:
        ValueError: it is none; or another error of what does not fit its storage.
    """
    if value.made_by == "torch._utils._rebuild_parameter":
        value = value.args[0]
    if value.made_by != "torch._utils._rebuild_tensor_v2":
        raise ValueError(f"{value.made_by} is no tensor")
    storage, offset, size, stride = value.args[:4]
    if storage.made_by != "torch.storage._load_from_bytes":
        raise ValueError(f"{storage.made_by} is no storage")
    (packed,) = storage.args
    if bytes(packed[:2]) == b"PK":  # a few packed bytes may be gigabytes of zeros
        raise ValueError("expected a storage as it is pickled")
    with warnings.catch_warnings(action="ignore"):  # storages are old
        if id(packed) not in storages:
            storages[id(packed)] = load_tensors(io.BytesIO(packed))
        read = storages[id(packed)]
        return torch.empty(0, dtype=read.dtype).set_(read.untyped(), offset, size, stride)
