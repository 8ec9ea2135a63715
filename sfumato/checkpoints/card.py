"""Model cards: what a model is, what it was trained on and how, and how to use it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from sfumato.core.terminal import an
from sfumato.methods.registry import name_of
from sfumato.module import Part


def card(part: Part, info: Mapping[str, Any]) -> str:
    """The model card: what it is, what it was trained on and how, how to use it."""
    name = name_of(part)
    facts: dict[str, dict[str, Any]] = {k: v for k, v in info.items() if isinstance(v, dict)}
    data, settings, start, codec = (facts.get(k, {}) for k in ("data", "settings", "start", "codec"))
    counts, hashes = data.get("count", {}), data.get("digest", {})
    domains = list(getattr(part, "domains", ()))
    use = (
        f"--method ddib --source FOLDER:{domains[0]} --target FOLDER:{domains[-1]}"
        if domains
        else "--model FOLDER"
    )
    use = "--beside FOLDER " * len(facts.get("preparation", {}).get("beside", ())) + use
    lines = [
        f"# A{an(name)[1:]} model", "",
        f"{sum(p.numel() for p in part.parameters()):,} parameters, made by sfumato.", "",
        *([f"It began with the weights of `{start['model']}` (sha256 `{start['sha256'][:16]}`).", ""]
          if start else []),
        *([f"It works in latents; its codec was that of `{codec['model']}`.", ""] if codec else []),
        "    sfumato translate PICTURES --out RESULTS " + use, "",
        "`model.json` describes it, `weights.safetensors` holds its weights; loading runs no code.", "",
        *(["| trained on | images | sha256 of names and contents |", "|---|---|---|"] if counts else []),
        *(f"| {k} | {n:,} | `{str(hashes.get(k, ''))[:16]}` |" for k, n in counts.items()), "",
        *(f"- {k.replace('_', ' ')}: {v}" for k, v in info.items() if k not in facts),
    ]  # fmt: skip
    if settings:
        lines += ["", "Settings of the training:", "", f"    {typed(settings)}"]
    return "\n".join(lines) + "\n"


def typed(settings: Mapping[str, Any]) -> str:
    """Settings as the flags of `sfumato train`: what is off or absent is not typed."""
    words = []
    for name, value in settings.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [shlex.quote(str(value))]
    return " ".join(words)
