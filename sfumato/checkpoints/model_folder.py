"""Model folders: model.json (how to rebuild it) + weights.safetensors + README.md (the card).

Loading a folder executes nothing: model.json names parts of this package and their fields, and weights
are plain tensors.  Everything that can be wrong with a folder is said in one line.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.checkpoints import hub
from sfumato.checkpoints.card import card
from sfumato.checkpoints.tensors import (
    check_tensors,
    full_state,
    open_tensors,
    read_opened,
    to_store,
    unique_state,
    write_tensors,
)
from sfumato.core.arguments import check_value, checked, fits
from sfumato.core.devices import with_torch_defaults, without_values
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import TrainingSide
from sfumato.core.terminal import an
from sfumato.data.folders import for_folder, made, parse_json, regular, write_text
from sfumato.data.hashing import hash_of
from sfumato.data.in_memory import FLOATS
from sfumato.data.preparation import Preparation
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.domains import domain_index
from sfumato.diffusion.guidance import Conditioned
from sfumato.methods.registry import name_of
from sfumato.methods.registry import said as said_of
from sfumato.module import Part, at_most, build, describe, short
from sfumato.windows import Windowed

FORMAT = 2
"""Raised when a newer version writes folders that older ones cannot read; 1 named parts by their files."""

MODELS = Path(__file__).parents[1] / "models"
"""Those that ship with the package."""

LARGEST = 2**24
"""Bytes of a model.json; those of models have a few thousand."""


@checked
@with_torch_defaults
def save(
    part: Part,
    folder: str | Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    info: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a model folder; every file appears complete or not at all.

    Args:
        part: the model.
        folder: where to; made if missing. It may hold a model of this kind already, which is replaced.
        weights: other values for its state_dict, for instance those of an EMA.
        info: JSON-able facts kept in model.json and shown in the card (data, training, image size).
        dtype: dtype of the stored weights; float16 halves the size.

    Raises:
        UserError: the folder is a file, or holds other things than a model of this kind; the model is
            `windowed`; the type has no fractions; JSON cannot hold the info; or the weights are not the
            part's, or no numbers.
    """
    if any(isinstance(m, Windowed) for m in part.modules()):
        raise UserError("a model that sees windows is not saved: save the model that it was made of")
    write_model(part, _place(folder, part), weights=weights, info=info, dtype=dtype)


def write_model(
    part: Part, folder: Path, *, weights: Mapping[str, Tensor] | None = None,
    info: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Writes a model among whatever else the folder holds; see `save`."""
    if dtype not in FLOATS:
        raise UserError(f"dtype must be a type of floats of 16 to 64 bits such as torch.float16, not {dtype}")
    about = dict(info or {})
    if part.preparation is not None and not about.keys() & {"preparation", "size"}:
        about = {"preparation": part.preparation.to_json()} | about
    description = {"format": FORMAT, "model": describe(part), "info": about}
    try:
        said = json.dumps(description, indent=2, allow_nan=False)
        json.dumps(description, ensure_ascii=False).encode()  # the card has its words as they are
        about = parse_json(said)["info"]
    except RecursionError:
        raise UserError("info must be what JSON holds: it is nested too deep") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"info must be what JSON holds, names and numbers: {error}") from None
    stored = to_store(unique_state(part), weights or {}, dtype)
    text = card(part, about)
    write_tensors(made(folder) / "weights.safetensors", stored)
    write_text(folder / "model.json", said + "\n")
    write_text(folder / "README.md", text)


def _place(folder: str | Path, part: Part) -> Path:
    """Where a model is saved: in a new or empty folder, or in place of a model of its kind."""
    folder = for_folder(folder)
    names = {f.name for f in folder.iterdir()} if folder.is_dir() else set()
    if "model.json" in names:
        there, kind = (said_of(m)["is"] for m in (describe_folder(folder)["model"], describe(part)))
        if there != kind:
            raise UserError(f"{folder} holds {an(there)}, not {an(kind)}: name another folder")
    elif other := sorted(n for n in names - {"weights.safetensors"} if not n.startswith(".")):
        raise UserError(f"{folder} holds {other[0]} and no model: name a new folder")
    return folder


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was read.

    Attributes:
        folder: where it is.
        domain: that was named besides.
        part: the whole model.
        info: of model.json.
    """

    folder: Path
    domain: str | None
    part: Part
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """What it is called, see `hub.spelled`."""
        return hub.spelled(self.folder)

    @property
    def sha256(self) -> str:
        """Of the file of its weights."""
        return hash_of(self.folder / "weights.safetensors")

    @property
    def preparation(self) -> Preparation:
        """How the pictures of its training were prepared."""
        return Preparation.of(self.info)

    @property
    def denoiser(self) -> Conditioned:
        """Of the domain, see `denoiser_of`."""
        return denoiser_of(self.part, self.domain, self.name)


@checked
@with_torch_defaults
def load(folder: str | Path, *, allow: tuple[str, ...] = ("sfumato",)) -> Part:
    """The model of a folder, in evaluation mode on the CPU; "FOLDER:DOMAIN" binds a domain.

    Args:
        folder: a model folder, or FOLDER:DOMAIN for one domain of a diffusion model; sfumato/NAME
            is one of the models that ship with the package, hf://OWNER/NAME one on the Hugging Face Hub,
            of which hf://OWNER/NAME@REVISION is a branch, tag or commit.
        allow: packages whose parts a model may be made of.

    Raises:
        UserError: if the folder is missing, damaged, foreign, or of a future format.
    """
    found = open_model(*resolve(folder), allow)
    return found.part if found.domain is None else found.denoiser


def open_model(path: Path, domain: str | None, allow: tuple[str, ...] = ("sfumato",)) -> ModelFolder:
    """A model folder, as `resolve` names it, of which each file is read once; see `load`."""
    info, file = describe_folder(path), own_file(path, "weights.safetensors")
    with open_tensors(file) as weights:
        try:
            with without_values(), at_most(len(weights.keys())):
                part = build(info["model"], allow)
            if not isinstance(part, Part):
                raise TypeError(f"{an(type(part).__name__)} is not a model")
        except UserError:
            raise
        except Exception as error:  # whatever a constructor says to fields of the wrong kind
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path / 'model.json'} does not describe a model ({reason})") from None
        check_tensors(part, weights, file)  # before a weight is read
        full = full_state(part, read_opened(weights, file)[0], file)
    part.load_state_dict(full, assign=True)
    if any(value.is_meta for m in part.modules() for value in _tensors(m)):
        part = build(info["model"], allow)  # what a constructor computes, and no weight replaces
        part.load_state_dict(full, assign=True)
    part.eval()
    part.preparation = Preparation.of(info["info"])
    return ModelFolder(path, domain, part, info["info"])


def preparation_in(name: str | Path) -> Preparation:
    """How the pictures of a model's training were prepared; nothing else of it is read."""
    return Preparation.of(describe_folder(resolve(name)[0])["info"])


def resolve(name: str | Path) -> tuple[Path, str | None]:
    """Folder and domain of "FOLDER" or "FOLDER:DOMAIN"; real folders win over shipped sfumato/NAME.

    hf://OWNER/NAME is fetched, unless it is here already.

    Raises:
        UserError: if sfumato/NAME does not ship with the package, the Hub does not give hf://OWNER/NAME, or
            DOMAIN is no name of a domain.
    """
    check_value("the model folder", name, str | Path)
    if at := hub.address(name):
        return hub.fetched(at.repo, at.revision), at.domain
    words = str(name).split(":")
    ways = [(":".join(words[:n]), ":".join(words[n:])) for n in range(len(words), 0, -1)]
    for n, (text, domain) in enumerate(ways):  # both may hold colons: the longest that there is
        if (path := _found(text)) is not None:
            return path, domain if n else None
    text, domain = ways[:2][-1]
    if not text:
        raise UserError(f"{str(name)!r} names no model folder: expected FOLDER or FOLDER:DOMAIN")
    if Path(text).parts[:-1] == ("sfumato",):
        known = sorted(f"sfumato/{m.parent.name}" for m in MODELS.glob("*/model.json"))
        choose("shipped model", text, known)
    if "/" in domain:  # a path or an address, which is no name of a domain
        raise UserError(f"there is no model folder {str(name)!r}; `sfumato train` makes one")
    return Path(text), domain if len(ways) > 1 else None


def _found(text: str) -> Path | None:
    path, shipped = Path(text), MODELS / Path(text).name
    ships = path.parts[:-1] == ("sfumato",) and (shipped / "model.json").is_file()
    there = text and os.path.exists(path)  # of a name that is too long, too, it says no
    if there and ships:
        warnings.warn(f"{text} is the folder here, and not the model that ships with sfumato", stacklevel=3)
    return path if there else shipped if ships else None


def denoiser_of(part: Part, domain: str | None, name: str = "the model") -> Conditioned:
    """The denoiser of one domain of a diffusion model.

    Raises:
        UserError: if the model has no such denoiser.
    """
    denoiser = getattr(part, "denoiser", part)
    if isinstance(denoiser, Conditioned):
        return denoiser
    if not isinstance(denoiser, Denoiser):
        raise UserError(
            f"{name} is {an(name_of(part))}, which has no domains; name a model trained with "
            f"`sfumato train diffusion`"
        )
    if domain is None and len(denoiser.domains) > 1:
        raise UserError(
            f"{name} knows {', '.join(denoiser.domains)}: say which, as in {name}:{denoiser.domains[0]}"
        )
    if domain is not None:
        domain_index(domain, denoiser.domains)
    bound = Conditioned(denoiser=denoiser, domain=domain or (denoiser.domains or (None,))[0])
    bound.preparation = part.preparation
    return bound


def describe_folder(folder: str | Path) -> dict[str, Any]:
    """The contents of model.json, checked as far as that goes without building anything.

    Raises:
        UserError: if it is missing, not JSON, or of a format this version does not know.
    """
    path = Path(folder)
    if not os.path.isdir(path):
        raise UserError(f"there is no model folder {str(path)!r}; `sfumato train` makes one")
    file = own_file(path, "model.json")
    foreign = f"{file} is damaged or was not written by sfumato"
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        said = parse_json(regular(file).read_text(encoding="utf-8-sig"))
        form, model = said["format"], said["model"]
        own = said_of(model)
        if not isinstance(own["is"], str):
            raise TypeError("the model's kind must be a name")
    except (ValueError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{foreign} ({why})") from None
    if type(form) is not int or form < 1:
        raise UserError(f"{path} is damaged: its format is {form!r}, expected a number from 1 on")
    if form > FORMAT:
        raise UserError(
            f"{path} has format {form}, this sfumato reads up to {FORMAT}: update its source (git pull)"
        )
    info, domains = said.get("info") or {}, own.get("domains", [])
    if not isinstance(info, dict):
        raise UserError(f"{foreign}: info must be names and values, not {info!r}")
    if not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
        raise UserError(f"{foreign}: domains must be a list of names, not {domains!r}")
    size = info.get("size")
    if not fits(size, TrainingSide | None):
        raise UserError(f"{foreign}: size must be a number of pixels, not {size!r}")
    try:
        Preparation.of(info)
    except UserError as error:
        raise UserError(f"{foreign}: {error}") from None
    return {**said, "model": short(model), "info": info}


def own_file(folder: Path, name: str) -> Path:
    """A file of a model folder, which no link leads out of: folders come from strangers.

    Raises:
        UserError: if there is none, or a link to somewhere else.
    """
    file, root = folder / name, Path(os.path.realpath(folder))
    real = Path(os.path.realpath(file))
    if real.parent != root and not any(real.is_relative_to(store) for store in hub.stores(root)):
        raise UserError(f"{file} is a link out of its folder: put the file itself there")
    if not file.is_file():
        raise UserError(f"{folder} is not a model folder: it has no {name}")
    return file


def _tensors(module: nn.Module) -> list[Tensor]:
    """The buffers of a module, and whatever else it keeps under a name of its own."""
    return [v for v in (*module.buffers(recurse=False), *vars(module).values()) if isinstance(v, Tensor)]
