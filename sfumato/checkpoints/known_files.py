"""What published networks were trained with, which their files do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sfumato.core.arguments import Checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import AttentionOrder, Count, Schedule, TrainingSide
from sfumato.core.terminal import count
from sfumato.diffusion.domains import distinct


@dataclass(frozen=True)
class Trained(Checked):
    """What a network was trained with and its weights do not tell; None is what is not known.

    Args:
        size: side in pixels of the pictures that it was trained on.
        schedule: of the betas: linear or cosine.
        chain_steps: number T of betas.
        attention_order: of queries, keys and values: new (`use_new_attention_order`) or old.
        heads: number of attention heads; or:
        head_channels: channels of each.
        rescale_timesteps: it was told the number of a step times 1000/T; asked for where T is not 1000.
        domains: names of its classes, in their order; by default their numbers.  One for a network
            without classes, by default the file's name.
    """

    size: TrainingSide | None = None
    schedule: Schedule | None = None
    chain_steps: Count | None = None
    attention_order: AttentionOrder | None = None
    heads: Count | None = None
    head_channels: Count | None = None
    rescale_timesteps: bool | None = None
    domains: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """What is known."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) not in (None, ())}

    def missing(self) -> list[str]:
        """Flags of what is not known."""
        asked = "size", "schedule", "chain_steps", "attention_order"
        flags = {"schedule": "linear|cosine", "attention_order": "new|old"}
        wanted = [(n, flags.get(n, "N")) for n in asked if getattr(self, n) is None]
        words = [f"--{name.replace('_', '-')} {value}" for name, value in wanted]
        if self.heads is None and self.head_channels is None:
            words.append("--head-channels N (or --heads N)")
        if self.chain_steps not in (None, 1000) and self.rescale_timesteps is None:
            words.append("--rescale-timesteps (or --no-rescale-timesteps)")
        return words


BIG = Trained(256, "linear", 1000, "old", head_channels=64)
IMPROVED = Trained(64, "cosine", 4000, "old", heads=4, rescale_timesteps=True)
KNOWN = {
    "afhq_dog_4m": replace(BIG, domains=("dog",)),
    "ffhq_10m": replace(BIG, domains=("face",)),
    "lsun_bedroom": replace(BIG, domains=("bedroom",)),
    "lsun_cat": replace(BIG, domains=("cat",)),
    "lsun_horse": replace(BIG, domains=("horse",)),
    "64x64_diffusion": replace(BIG, size=64, schedule="cosine", attention_order="new"),
    "128x128_diffusion": replace(BIG, size=128, heads=4, head_channels=None),
    "256x256_diffusion": BIG,
    "256x256_diffusion_uncond": replace(BIG, domains=("imagenet",)),
    "512x512_diffusion": replace(BIG, size=512),
    "64x64_classifier": replace(BIG, size=64, schedule="cosine"),
    "128x128_classifier": replace(BIG, size=128),
    "256x256_classifier": BIG,
    "512x512_classifier": replace(BIG, size=512),
    "cat2dog_dse": BIG,
    "wild2dog_dse": BIG,
    "male2female_dse": BIG,
    "cifar10_uncond": replace(IMPROVED, size=32, domains=("cifar10",)),
    "imagenet64_uncond": replace(IMPROVED, domains=("imagenet",)),
    "imagenet64_cond_270m": replace(IMPROVED, rescale_timesteps=False),
    "lsun_uncond_100m": replace(BIG, heads=1, head_channels=None, domains=("bedroom",)),
}
"""Files of improved- and guided-diffusion by the beginning of their names."""


def class_names(given: tuple[str, ...], classes: int, alone: str) -> tuple[str, ...]:
    """The given names of so many classes, or their numbers; without classes one name, by default `alone`.

    Raises:
        UserError: they are not as many, or two are the same.
    """
    domains = distinct(given or (tuple(map(str, range(classes))) if classes else (alone,)))
    if not all(domains):
        raise UserError(f"a domain has a name: expected cat,dog,..., not {','.join(domains)!r}")
    if len(domains) != (classes or 1):
        raise UserError(
            f"it has {classes or 'no'} classes: expected {count(classes or 1, 'domain')}, not {len(domains)}"
        )
    return domains


def in_short(domains: tuple[str, ...]) -> str:
    """The names of domains, or of many the first and the last."""
    return ", ".join(domains) if len(domains) < 6 else f"{domains[0]}, {domains[1]}, .. {domains[-1]}"


def trained_with(
    file: Path, given: Trained, files: Mapping[str, Trained] = KNOWN, other: str = ""
) -> tuple[Trained, str | None]:
    """What one of these files was trained with, by its name and by what is given, and the name.

    Args:
        file: the file.
        given: what is known besides.
        files: the published ones.
        other: in what its network differs from that of its name, which then says nothing of it.

    Raises:
        UserError: it is not known.
    """
    named = max((n for n in files if file.name.lower().startswith(n)), key=len, default=None)
    name = None if other else named
    known = files[name] if name else Trained()
    if given.heads and given.head_channels:
        raise UserError("--heads and --head-channels say the same: give one of them")
    if given.heads or given.head_channels:
        known = replace(known, heads=None, head_channels=None)
    how = replace(known, **given.given())
    if (missing := how.missing()) and other:
        raise UserError(
            f"it is called as the published {named}, and holds another network ({other}), of which nothing "
            f"is known: add {' '.join(missing)}"
        )
    if missing:
        raise UserError(
            f"{file} does not tell what it was trained with, and is by its name none of "
            f"{', '.join(files)}: add {' '.join(missing)}"
        )
    return how, name
