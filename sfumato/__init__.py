"""Translate pictures from one domain to another with diffusion models.

    model = sfumato.load("runs/pairs")
    target = model.translate(source, seed=0)          # images (B, C, H, W) in [-1, 1]
    sfumato.translate("photos", "out", model="runs/pairs")

Importing this package is cheap: torch is imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.checkpoints.export import export
    from sfumato.checkpoints.model_folder import load, save
    from sfumato.checkpoints.upload import push
    from sfumato.checkup.report import doctor
    from sfumato.core.errors import UserError
    from sfumato.data.files import read, write
    from sfumato.diffusion.denoiser import Denoiser
    from sfumato.diffusion.exact import Gaussian, Mixture
    from sfumato.diffusion.guidance import ClassifierFree, Clipped, Conditioned, Energy, Guided
    from sfumato.diffusion.integrate import integrate
    from sfumato.diffusion.noise import Noise
    from sfumato.diffusion.process import DDPM, IDDPM, VE, VP, Cosine, Flow, Process
    from sfumato.diffusion.time_grids import grid
    from sfumato.evaluation.compare import compare, evaluate
    from sfumato.evaluation.preference_study import study
    from sfumato.methods.outline import names
    from sfumato.methods.registry import cite, find
    from sfumato.module import Part
    from sfumato.training.fit import fit
    from sfumato.training.train import train
    from sfumato.translation.pictures import repeat, translate
    from sfumato.translation.stream import stream
    from sfumato.translation.translator import translator
    from sfumato.translation.watch_folder import watch_folder
    from sfumato.windows import windowed

    __version__: str

_HOME = {
    "checkpoints.export": ["export"],
    "checkpoints.model_folder": ["load", "save"],
    "checkpoints.upload": ["push"],
    "core.errors": ["UserError"],
    "data.files": ["read", "write"],
    "diffusion.denoiser": ["Denoiser"],
    "diffusion.exact": ["Gaussian", "Mixture"],
    "diffusion.guidance": ["ClassifierFree", "Clipped", "Conditioned", "Energy", "Guided"],
    "diffusion.integrate": ["integrate"],
    "diffusion.noise": ["Noise"],
    "diffusion.process": ["DDPM", "IDDPM", "VE", "VP", "Cosine", "Flow", "Process"],
    "diffusion.time_grids": ["grid"],
    "windows": ["windowed"],
    "checkup.report": ["doctor"],
    "evaluation.compare": ["compare", "evaluate"],
    "evaluation.preference_study": ["study"],
    "methods.outline": ["names"],
    "methods.registry": ["cite", "find"],
    "module": ["Part"],
    "training.fit": ["fit"],
    "training.train": ["train"],
    "translation.pictures": ["repeat", "translate"],
    "translation.watch_folder": ["watch_folder"],
    "translation.stream": ["stream"],
    "translation.translator": ["translator"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DDPM", "IDDPM", "VE", "VP", "ClassifierFree", "Clipped", "Conditioned", "Cosine", "Denoiser", "Energy",
    "Flow", "Gaussian", "Guided", "Mixture", "Noise", "Part", "Process", "UserError", "__version__",
    "cite", "compare", "doctor", "evaluate", "export", "find", "fit", "grid", "integrate", "load", "names",
    "push", "read", "repeat", "save", "stream", "study", "train", "translate", "translator", "watch_folder",
    "windowed", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from sfumato.core.versions import version

        return version("sfumato")
    if name not in _MODULE:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sfumato.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
