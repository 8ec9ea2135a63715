"""What was named when the studio was started: models that ship, model folders, folders of pictures.

A visitor chooses by name among these.  No path comes from a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.checkpoints.hub import spelled
from sfumato.checkpoints.model_folder import describe_folder, own_file, resolve
from sfumato.core.errors import UserError, choose, existing_folder
from sfumato.data import ImageFolder
from sfumato.data.folders import regular
from sfumato.data.show import evenly
from sfumato.methods.registry import info, named, said
from sfumato.studio.limits import EXAMPLES

SHIPPED = ("sfumato/digits", "sfumato/earth", "sfumato/earth_pairs", "sfumato/digits_classifier")
PREFIX = "examples: "
"""How the names of the examples' folders begin."""
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
        return info(self.method).translates and not self.domains

    def card(self) -> str:
        """The model card, as plain text; not a file that a link leads to out of the folder."""
        folder = resolve(self.name)[0]
        file = folder / "README.md"
        if not file.is_file():
            return ""
        try:
            file = own_file(folder, file.name)
        except UserError:
            return "README.md is a link out of the model's folder, and is not shown."
        return regular(file).read_text(encoding="utf-8", errors="replace")


class Start(NamedTuple):
    """Choices that belong together."""

    folder: str
    source: str
    target: str
    classifier: str | None


@dataclass
class Given:
    """Models and folders of pictures, by the names that they are chosen by; those of the user come first.

    Attributes:
        places: the folders that were named.
        models: model folders among them and those that ship.
        folders: folders of pictures among them and the examples.
        offered: controls of the page, and what follows from the above: {property: value} of each.
    """

    places: tuple[Path, ...] = ()
    models: dict[str, Model] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    offered: list[tuple[Any, Callable[[], dict[str, Any]]]] = field(default_factory=list)

    def look(self, strict: bool = False) -> None:
        """Looks again at the places: models may have been saved, pictures come.

        Args:
            strict: refuse a place that is of no use, instead of leaving it out.

        Raises:
            UserError: if strict, for a folder that is missing, or holds neither a model nor pictures.
        """
        models: dict[str, Model] = {}
        folders: dict[str, Path] = {}
        for place in self.places:
            try:
                _look_at(place, models, folders)
            except (UserError, OSError):  # may be on its way
                if strict:
                    raise
        models |= {name: _model(name) for name in SHIPPED}
        folders |= {f"{PREFIX}{name}": HERE / name for name in ("digits", "earth")}
        self.models, self.folders = models, folders

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

    def own(self) -> list[str]:
        """The folders of pictures that were named."""
        return [name for name in self.folders if not name.startswith(PREFIX)]

    def pictures(self, folder: str) -> list[Path]:
        """Some pictures of a folder, evenly; none that a link leads out of it.

        Raises:
            UserError: for a folder that was not given.
        """
        choose("folder", folder, self.folders)
        root = self.folders[folder]
        inside = [f for f in ImageFolder(root).paths if _inside(f, root)]
        return [inside[i] for i in evenly(len(inside), EXAMPLES)]

    def start(self) -> Start:
        """A folder of pictures, its domain, another domain of the same model, a classifier of both.

        What was named comes first: the first named model and folder that belong together, or the first.
        """
        models = [m for m in self._with("diffusion") if m.domains]
        models = [m for m in models if m.name not in SHIPPED] or models
        names = self.own() or list(self.folders)
        found = {name: {f.parent.name for f in self.pictures(name)} for name in names}
        model, name, domain = next(
            ((m, n, d) for m in models for n in names for d in m.domains if d in found[n]),
            (models[0], names[0], models[0].domains[0]),
        )
        source = f"{model.name}:{domain}"
        target = self.other(source)
        return Start(name, source, target, self.classifier_of(source, target))

    def classifier_of(self, *ends: str) -> str | None:
        """A classifier that knows these FOLDER:DOMAINs, if there is one."""
        domains = {end.rpartition(":")[2] for end in ends}
        known = (m.name for m in self._with("domain_classifier") if domains <= {*m.domains})
        return next(known, None)

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
    """The folders that a user names, and the shipped models and examples.

    Raises:
        UserError: for a folder that is missing, or holds neither a model nor pictures.
    """
    given = Given(tuple(map(Path, folders)))
    given.look(strict=True)
    return given


def _look_at(folder: Path, models: dict[str, Model], folders: dict[str, Path]) -> None:
    """Adds the model, the models or the pictures of a folder."""
    existing_folder(folder, "a model folder or a folder of pictures")
    inner = sorted(f.parent for f in folder.glob("*/model.json"))
    for place in [folder] if (folder / "model.json").is_file() else inner:
        models[spelled(place)] = _model(spelled(place))
    if spelled(folder) in models or inner:
        return
    try:
        ImageFolder(folder)
    except UserError:
        raise UserError(
            f"{folder} holds neither a model nor pictures: name a folder made by "
            f"`sfumato train`, or one of .png, .jpg, .webp, .bmp or .tif files"
        ) from None
    folders[str(folder)] = folder


def _model(name: str) -> Model:
    described = describe_folder(resolve(name)[0])
    model = said(described["model"])
    method = named(model["is"])
    domains = tuple(map(str, model.get("domains") or ()))
    return Model(name, method, domains, dict(described.get("info") or {}))


def _inside(file: Path, folder: Path) -> bool:
    """Whether no link leads out of the folder."""
    return file.resolve().is_relative_to(folder.resolve())
