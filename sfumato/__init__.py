"""Translate pictures from one domain to another with diffusion models.

    model = sfumato.load("runs/pairs")
    target = model.translate(source, seed=0)          # images (B, C, H, W) in [-1, 1]
    sfumato.translate("photos", "out", model="runs/pairs")

Importing this package is cheap: torch is imported when a name is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.data.kinds import read, write
    from sfumato.denoiser import Denoiser
    from sfumato.doctor import doctor
    from sfumato.evaluate.compare import compare, evaluate
    from sfumato.evaluate.study import study
    from sfumato.exact import Gaussian, Mixture
    from sfumato.fit import fit
    from sfumato.folder import load, save
    from sfumato.guide import ClassifierFree, Clipped, Conditioned, Energy, Guided
    from sfumato.method import cite, find
    from sfumato.noise import Noise
    from sfumato.outline import names
    from sfumato.part import Part
    from sfumato.process import DDPM, VE, VP, Cosine, Flow, Process
    from sfumato.solve import integrate
    from sfumato.times import grid
    from sfumato.train import train
    from sfumato.translate import repeat, translate
    from sfumato.translator import translator

    __version__: str

_HOME = {
    "denoiser": ["Denoiser"],
    "doctor": ["doctor"],
    "evaluate": ["compare", "evaluate", "study"],
    "data.kinds": ["read", "write"],
    "exact": ["Gaussian", "Mixture"],
    "fit": ["fit"],
    "folder": ["load", "save"],
    "guide": ["ClassifierFree", "Clipped", "Conditioned", "Energy", "Guided"],
    "method": ["cite", "find"],
    "outline": ["names"],
    "noise": ["Noise"],
    "part": ["Part"],
    "process": ["DDPM", "VE", "VP", "Cosine", "Flow", "Process"],
    "solve": ["integrate"],
    "times": ["grid"],
    "train": ["train"],
    "translate": ["repeat", "translate"],
    "translator": ["translator"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DDPM", "VE", "VP", "ClassifierFree", "Clipped", "Conditioned", "Cosine", "Denoiser", "Energy",
    "Flow", "Gaussian", "Guided", "Mixture", "Noise", "Part", "Process", "__version__", "cite",
    "compare", "doctor", "evaluate", "find", "fit", "grid", "integrate", "load", "names", "read", "repeat",
    "save", "study", "train", "translate", "translator", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from sfumato.versions import version

        return version("sfumato")
    if name not in _MODULE:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sfumato.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # importing the module sfumato.train must not hide the function sfumato.train
        if isinstance(value, ModuleType) and _MODULE.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
