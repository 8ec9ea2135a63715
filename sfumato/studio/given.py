"""What was named when the studio was started: models that ship, model folders, folders of pictures.

A visitor chooses by name among these.  No path comes from a browser.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.data import find_images
from sfumato.errors import UserError, choose
from sfumato.folder import describe_folder, resolve
from sfumato.method import find

from .limits import EXAMPLES

SHIPPED = ("sfumato/digits", "sfumato/earth", "sfumato/earth_pairs", "sfumato/digits_classifier")
HERE = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Model:
    """A model folder: what `resolve` calls it, its method, its domains, and facts about it."""

    name: str
    method: str
    domains: tuple[str, ...]
    info: dict[str, Any]

    @property
    def translates(self) -> bool:
        """Whether it is a translator, not a part of one."""
        return hasattr(find(self.method), "translate") and not self.domains

    def card(self) -> str:
        """The model card, as plain text; not a file that a link leads to out of the folder."""
        folder = resolve(self.name)[0]
        file = folder / "README.md"
        if not _inside(file, folder):
            return "README.md is a link out of the model's folder, and is not shown."
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


@dataclass
class Given:
    """Models and folders of pictures, by the names that they are chosen by."""

    models: dict[str, Model] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def denoisers(self) -> list[str]:
        """FOLDER:DOMAIN of every domain of the diffusion models."""
        return list(self._ends())

    def classifiers(self) -> list[str]:
        """The domain classifiers."""
        return [m.name for m in self._with("domain_classifier")]

    def trained(self, method: str) -> list[str]:
        """The trained translators of a method."""
        return [m.name for m in self._with(method) if m.translates]

    def _with(self, method: str) -> Iterable[Model]:
        return (m for m in self.models.values() if m.method == method)

    def pictures(self, folder: str) -> list[Path]:
        """Some pictures of a folder, evenly; none that a link leads out of it.

        Raises:
            UserError: for a folder that was not given.
        """
        choose("folder", folder, self.folders)
        root = self.folders[folder]
        inside = [f for f in find_images(root) if _inside(f, root)]
        count = min(len(inside), EXAMPLES)
        return [inside[int((i + 0.5) * len(inside) / count)] for i in range(count)]

    def domain_of(self, picture: Path) -> str | None:
        """FOLDER:DOMAIN of the domain that is called like the picture's folder, if there is one."""
        named = (end for end, (_, own) in self._ends().items() if own == picture.parent.name)
        return next(named, None)

    def other(self, domain: str) -> str:
        """The next domain of the same model."""
        model, own = self._ends()[domain]
        domains = model.domains
        return f"{model.name}:{domains[(domains.index(own) + 1) % len(domains)]}"

    def _ends(self) -> dict[str, tuple[Model, str]]:
        """Model and domain of every FOLDER:DOMAIN; both may hold colons."""
        return {f"{m.name}:{d}": (m, d) for m in self._with("diffusion") for d in m.domains}


def gather(folders: Sequence[str | Path] = ()) -> Given:
    """The shipped models and examples, and the folders that a user names.

    Raises:
        UserError: for a folder that is missing, or holds neither a model nor pictures.
    """
    given = Given()
    for name in SHIPPED:
        _add_model(given, name)
    for name in ("digits", "earth"):
        given.folders[f"examples: {name}"] = HERE / name
    for folder in map(Path, folders):
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}: expected a model folder or a folder of pictures")
        if (folder / "model.json").is_file():
            _add_model(given, str(folder))
            continue
        inner = sorted(f.parent for f in folder.glob("*/model.json"))
        for model in inner:
            _add_model(given, str(model))
        try:
            if not inner:
                find_images(folder)
                given.folders[str(folder)] = folder
        except UserError:
            raise UserError(
                f"{folder} holds neither a model nor pictures: name a folder made by "
                f"`sfumato train`, or one of .png, .jpg, .webp, .bmp or .tif files"
            ) from None
    return given


def _inside(file: Path, folder: Path) -> bool:
    """Whether no link leads out of the folder."""
    return file.resolve().is_relative_to(folder.resolve())


def _add_model(given: Given, name: str) -> None:
    described = describe_folder(resolve(name)[0])
    model = described["model"]
    method = str(model["is"]).partition(":")[0].rpartition(".")[2]
    find(method)
    domains = tuple(map(str, model.get("domains") or ()))
    given.models[name] = Model(name, method, domains, dict(described.get("info") or {}))
