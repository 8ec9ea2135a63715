"""The networks of published files, to see that a file that has such a name holds such a network.

guided-diffusion      its README, and `channel_mult` of its script_util.py
improved-diffusion    its README
ILVR                  https://github.com/jychoi118/ilvr_adm, its README
EGSDE                 https://github.com/ML-GSAI/EGSDE, profiles/ and its script_util.py
DDIM                  https://github.com/ermongroup/ddim, configs/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Network = Mapping[str, Any]
"""Channels of each level, blocks of a level, levels with attention, classes, and so on."""

UP = {256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4), 32: (1, 2, 2, 2)}
"""Times the channels of the first level, by the size of the pictures."""


def _adm(size: int, width: int, blocks: int, attention: tuple[int, ...], **more: Any) -> Network:
    """A network of `width` channels, with attention where the features have these sides."""
    widths = (width // 2, *(width * n for n in UP[256])) if size == 512 else [width * n for n in UP[size]]
    levels = tuple(n for n in range(len(widths)) if size >> n in attention)
    given = {"classes": 0, "updown": True, "scale_shift": True, "decoder": True} | more
    return {"widths": tuple(widths), "blocks": blocks, "attention": levels, **given}


def _guided(size: int, **more: Any) -> Network:
    return _adm(size, *((192, 3) if size == 64 else (256, 2)), (32, 16, 8), **more)


def _classifier(size: int, classes: int = 1000) -> Network:
    return _adm(size, 128, 4 if size == 64 else 2, (32, 16, 8), classes=classes, decoder=False)


def _improved(size: int, width: int = 128, **more: Any) -> Network:
    return _adm(size, width, 3, (16, 8), updown=False, **more)


NETWORKS: Mapping[str, Network] = {
    "afhq_dog_4m": _adm(256, 128, 1, (16,)),
    "ffhq_10m": _adm(256, 128, 1, (16,)),
    **{f"lsun_{name}": _guided(256) for name in ("bedroom", "cat", "horse")},
    **{f"{n}x{n}_diffusion": _guided(n, classes=1000) for n in (64, 128, 256, 512)},
    "256x256_diffusion_uncond": _guided(256),
    **{f"{n}x{n}_classifier": _classifier(n) for n in (64, 128, 256, 512)},
    **{f"{name}_dse": _classifier(256, 2) for name in ("cat2dog", "wild2dog", "male2female")},
    "cifar10_uncond": _improved(32),
    "imagenet64_uncond": _improved(64),
    "imagenet64_cond_270m": _improved(64, 192, classes=1000),
    "lsun_uncond_100m": _adm(256, 128, 2, (16,), updown=False, scale_shift=False),
}
"""Of improved- and guided-diffusion, as `sfumato.checkpoints.known_files.KNOWN` names them."""
DDIM_256 = {"widths": (128, 128, 256, 256, 512, 512), "blocks": 2, "attention": (4,)}
DDIM_32 = {"widths": (128, 256, 256, 256), "blocks": 2, "attention": (1,)}
WORDS = {
    "widths": "channels", "blocks": "blocks a level", "attention": "attention at the levels",
    "classes": "classes", "updown": "blocks that change the size", "scale_shift": "scales by the time",
    "decoder": "a way up",
}  # fmt: skip
SHOWN = 2
"""Differences that are said."""


def others(found: Network, published: Network | None) -> str:
    """In words, in what a network differs from a published one; nothing if it is that, or none is known."""
    known = published or {}
    differ = [f"{WORDS[k]} {_said(found[k])}, not {_said(v)}" for k, v in known.items() if found[k] != v]
    return "; ".join(differ[:SHOWN])


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
