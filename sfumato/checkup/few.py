"""What to do with a few photographs: a model that others trained on many, instead of a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sfumato.checkpoints.known_files import KNOWN
from sfumato.core.terminal import an, count

FEW = 100
"""Photographs of a domain below which a training of new weights is not worth its time."""
PHOTOGRAPH = 128
"""Pixels from which on a picture in colour may be a photograph of what published models know."""
SIDE = 256
"""Pixels of the published models' pictures."""
ANYTHING = "256x256_diffusion_uncond"
"""The published model of ImageNet's pictures, for what no other is of."""


def one(name: str) -> str:
    """What a folder is of: dog, of dog, Dog and dogs."""
    return name.casefold().removesuffix("s")


def published(name: str) -> str:
    """The published model of pictures of 256 pixels that has seen what a folder is of, or anything."""
    of = {how.domains[0]: file for file, how in KNOWN.items() if len(how.domains) == 1 and how.size == SIDE}
    return of.get(one(name), ANYTHING)


def instead_of_training(
    parts: Mapping[str, Path], fewest: int, least: int, place: Path, line: Callable[..., str],
    flags: Sequence[str] = (),
) -> tuple[str, list[str]]:  # fmt: skip
    """Why a few photographs are not trained on, and what to type instead.

    Args:
        parts: folders to translate from and to learn from, the target's last.
        fewest: pictures that the smallest of them has.
        least: the shortest side of a picture, in pixels.
        place: where runs and results go.
        line: makes a command of its words.
        flags: what a training needs besides.
    """
    *source, target = parts
    larger = ["--upscale"] * (least < SIDE)
    file = published(target)
    model, seen = (
        place / "runs" / file,
        "ImageNet's pictures" if file == ANYTHING else f"many {an(one(target))}",
    )
    commands = [line(f"sfumato import {file}.pt --out", model)]
    if source:
        guide: tuple[str | Path, ...] = ("--realism 0",)
        if (dse := f"{one(source[0])}2{one(target)}_dse") in KNOWN:
            guide, names = ("--classifier", place / "runs" / dse), f"{one(source[0])},{one(target)}"
            commands.append(line(f"sfumato import {dse}.pt --domains {names} --out", guide[1]))
        commands.append(
            line("sfumato translate", parts[source[0]], "--method egsde --target", model, *guide,
                 *larger, "--out", place / "out" / f"{target}_egsde")
        )  # fmt: skip
    specs = [f"{name}={folder}" for name, folder in parts.items()]
    commands.append(
        line("sfumato train diffusion", *specs, "--from", model, f"--size {SIDE} --batch 1 --keep 2",
             *larger, *flags, "--out", place / "runs" / "fine_tuned")
    )  # fmt: skip
    return (
        f"Do not train new weights on {count(fewest, 'photograph')}: they would be memorised. Import "
        f"{file}.pt, which has seen {seen}, and use EGSDE, which trains nothing; or fine-tune it, the last "
        f"command. Get the file from its authors, and read its licence.",
        commands,
    )


def are_few(sides: Sequence[int], gray: Sequence[bool], fewest: int) -> bool:
    """Whether these are a few photographs, by their shorter sides in pixels, and by whether they are gray."""
    return 0 < fewest < FEW and min(sides) >= PHOTOGRAPH and not all(gray)
