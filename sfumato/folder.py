"""Model folders: model.json (how to rebuild it) + weights.safetensors + README.md (the card).

Loading a folder executes nothing: model.json names parts of this package and their fields, and weights
are plain tensors.  Everything that can be wrong with a folder is said in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sfumato.data.folders import replacing, write_text
from sfumato.denoiser import Denoiser, domain_index
from sfumato.errors import UserError
from sfumato.guide import Conditioned
from sfumato.method import name_of
from sfumato.part import Part, build, describe
from sfumato.settings import typed

FORMAT = 1
"""Raised when a newer version writes folders that older ones cannot read."""


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
        folder: where to; made if missing.
        weights: other values for its state_dict, for instance those of an EMA.
        info: JSON-able facts kept in model.json and shown in the card (data, training, image size).
        dtype: of the stored weights; float16 halves the size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = unique_state(part) | dict(weights or {})
    description = {"format": FORMAT, "model": describe(part), "info": dict(info or {})}
    write_tensors(
        folder / "weights.safetensors",
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()},
    )
    write_text(folder / "model.json", json.dumps(description, indent=2) + "\n")
    write_text(folder / "README.md", card(part, dict(info or {})))


def load(folder: str | Path, *, allow: tuple[str, ...] = ("sfumato",)) -> Part:
    """The model of a folder, in evaluation mode on the CPU; "FOLDER:DOMAIN" binds a domain.

    Args:
        folder: a model folder, or FOLDER:DOMAIN for one domain of a diffusion model; sfumato/NAME
            is one of the models that ship with the package.
        allow: packages whose parts a model may be made of.

    Raises:
        UserError: if the folder is missing, damaged, foreign, or of a future format.
    """
    path, domain = resolve(folder)
    info = describe_folder(path)
    try:
        with torch.device("meta"):  # nothing is allocated before the weights are known to fit
            part = build(info["model"], allow)
        if not isinstance(part, Part):
            raise TypeError(f"a {type(part).__name__} is not a model")
    except ValueError:
        raise
    except Exception as error:  # whatever a constructor says to fields of the wrong kind
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path / 'model.json'} does not describe a model ({reason})") from None
    weights = _weights_of(part, path)
    part.load_state_dict(weights, assign=True)
    if any(value.is_meta for m in part.modules() for value in _tensors(m)):
        part = build(info["model"], allow)  # what a constructor computes, and no weight replaces
        part.load_state_dict(weights, assign=True)
    part.eval()
    return part if domain is None else denoiser_of(part, domain, str(path))


def resolve(name: str | Path) -> tuple[Path, str | None]:
    """Folder and domain of "FOLDER" or "FOLDER:DOMAIN"; real folders win over shipped sfumato/NAME.

    Raises:
        UserError: if sfumato/NAME is neither a folder nor a model that ships with the package.
    """
    text, domain = str(name), None
    if not Path(text).exists() and ":" in text:
        text, domain = text.rsplit(":", 1)
    path = Path(text)
    if path.is_dir() or path.parts[:1] != ("sfumato",) or len(path.parts) != 2:
        return path, domain
    shipped = Path(__file__).parent / "models" / path.name
    if not (shipped / "model.json").is_file():
        known = sorted(f"sfumato/{m.parent.name}" for m in shipped.parent.glob("*/model.json"))
        raise UserError(f"no model {text!r} ships with sfumato; there are {', '.join(known)}")
    return shipped, domain


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
            f"{name} is a {name_of(part)}, which has no domains; name a model trained with "
            f"`sfumato train diffusion`"
        )
    if domain is None and len(denoiser.domains) > 1:
        raise UserError(
            f"{name} knows {', '.join(denoiser.domains)}: say which, as in "
            f"{name}:{denoiser.domains[0]}"
        )
    if domain is not None:
        domain_index(domain, denoiser.domains)
    return Conditioned(denoiser=denoiser, domain=domain or (denoiser.domains or (None,))[0])


def describe_folder(folder: str | Path) -> dict[str, Any]:
    """The contents of model.json, checked as far as that goes without building anything.

    Raises:
        UserError: if it is missing, not JSON, or of a format this version does not know.
    """
    path = Path(folder)
    file = path / "model.json"
    if not path.is_dir():
        raise UserError(f"there is no model folder {str(path)!r}; `sfumato train` makes one")
    if not file.is_file():
        raise UserError(f"{path} is not a model folder: it has no model.json")
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        form, _ = info["format"], info["model"]["is"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged or was not written by sfumato ({error!r})") from None
    if not isinstance(form, int) or form > FORMAT:
        raise UserError(
            f"{path} has format {form}, this sfumato reads up to {FORMAT}: update its source (git pull)"
        )
    return dict(info)


def unique_state(part: nn.Module) -> dict[str, Tensor]:
    """The state_dict, each tensor once even if the part holds it under several names."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for key, value in part.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[key] = value.detach()
    return state


def card(part: Part, info: Mapping[str, Any]) -> str:
    """The model card: what it is, what it was trained on and how, how to use it."""
    name = name_of(part)
    facts: dict[str, dict[str, Any]] = {k: v for k, v in info.items() if isinstance(v, dict)}
    data, settings = facts.get("data", {}), facts.get("settings", {})
    counts, hashes = data.get("count", {}), data.get("digest", {})
    domains = list(getattr(part, "domains", ()))
    use = (
        f"--method ddib --source FOLDER:{domains[0]} --target FOLDER:{domains[-1]}"
        if domains
        else "--model FOLDER"
    )
    lines = [
        f"# A {name} model", "",
        f"{sum(p.numel() for p in part.parameters()):,} parameters, made by sfumato.", "",
        "    sfumato translate PICTURES --out RESULTS " + use, "",
        "`model.json` describes it, `weights.safetensors` holds its weights; loading runs no code.", "",
        *(["| trained on | images | sha256 of names and contents |", "|---|---|---|"] if counts else []),
        *(f"| {k} | {n:,} | `{str(hashes.get(k, ''))[:16]}` |" for k, n in counts.items()), "",
        *(f"- {k.replace('_', ' ')}: {v}" for k, v in info.items() if k not in facts),
    ]  # fmt: skip
    if settings:
        lines += ["", "Settings of the training:", "", f"    {typed(settings)}"]
    return "\n".join(lines) + "\n"


def _digest(stored: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes of the tensors."""
    digest = hashlib.sha256()
    for key in sorted(stored):
        digest.update(key.encode())
        digest.update(stored[key].view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file (see `read_protocol` for the errors)."""
    return read_protocol(file)[0]


def read_protocol(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and the protocol they were written with, or {}.

    Raises:
        UserError: if it is missing, truncated, or its contents do not have the hash they were written with.
    """
    if not file.is_file():
        raise UserError(f"{file.parent} has no {file.name}")
    try:
        with safe_open(file, framework="pt") as f:
            stored = {key: f.get_tensor(key) for key in f.keys()}
            metadata = f.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or truncated ({error}); copy it again") from None
    try:
        protocol = json.loads(metadata.get("protocol", "{}"))
        wanted = protocol.pop("tensors", metadata.get("sha256"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} has a protocol that was not written by sfumato") from None
    if wanted is not None and wanted != _digest(stored):
        raise UserError(f"{file} is damaged: its contents do not have their hash; copy it again")
    return stored, protocol


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], protocol: Mapping[str, Any] | None = None
) -> None:
    """Writes a safetensors file atomically, with the hash of its contents.

    The hash, or a protocol that holds it as "tensors", is the only metadata: safetensors writes
    several in any order, and equal runs shall give equal files.
    """
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # the hash travels in the file it is the hash of: a kill between two writes cannot part them
    with replacing(file) as temporary:
        said = {"sha256": _digest(stored)}
        if protocol is not None:
            said = {"protocol": json.dumps({**protocol, "tensors": said["sha256"]})}
        temporary.write_bytes(to_bytes(stored, said))


def _tensors(module: nn.Module) -> list[Tensor]:
    """The buffers of a module, and whatever else it keeps under a name of its own."""
    return [v for v in (*module._buffers.values(), *vars(module).values()) if isinstance(v, Tensor)]


def _weights_of(part: Part, folder: Path) -> dict[str, Tensor]:
    """The folder's weights as a state_dict of the part, which may be on the meta device."""
    file = folder / "weights.safetensors"
    stored = read_tensors(file)
    wanted = unique_state(part)
    for key, value in wanted.items():
        if key not in stored or stored[key].shape != value.shape:
            was = tuple(stored[key].shape) if key in stored else "missing"
            raise UserError(
                f"{file} does not belong to its model.json: {key} is {was}, "
                f"expected {tuple(value.shape)}"
            )
    if extra := stored.keys() - wanted.keys():
        raise UserError(f"{file} does not belong to its model.json: unexpected {min(extra)}")
    aliases: dict[int, str] = {}
    full = {}
    for key, value in part.state_dict(keep_vars=True).items():
        source = aliases.setdefault(id(value), key)
        tensor = stored[source]
        full[key] = tensor.float() if tensor.is_floating_point() else tensor
        stored[source] = full[key]  # keep shared tensors shared
    return full
