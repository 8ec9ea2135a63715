"""Versions of packages, which run.json, reports and --version say; also of a tree that is not installed."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path


def version(package: str = "sfumato") -> str:
    """The version of a package.

    Of sfumato in a source tree that is not installed, what its pyproject.toml says; "unknown" of any
    other package that is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
        return str({project["project"]["name"]: project["project"]["version"]}[package])
    except (OSError, ValueError, KeyError, TypeError):  # no tree of ours, or not of this package
        return "unknown"
