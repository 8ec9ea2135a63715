"""Where a training stands, in words: does it still learn, and are its pictures any good?

The first is read from the held-out loss, the second from the previews: how far their colours and detail
are from the targets', and, of pairs, how far each result is from its truth.  Both are compared with what
needs no training: a copy of the source, one flat colour.  This tells noise from pictures and measures no
quality, which is what `sfumato evaluate` is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FAR, NEAR = 1.0, 0.5
"""Distances above which results are not like the targets, and below which they are: a trained model of
digits comes to 0 to 0.4, with noise of a tenth of the range on top to 0.8 to 1.1, untrained to 2."""
FOG = "noise or fog"
"""What a verdict calls results that are no pictures; whoever translates with such a model is told."""
FALLS, RISES = 0.02, 0.05
"""Shares of the held-out loss: it still falls by so much in a quarter, it is so much above its lowest."""
FOLLOWS = 0.9
"""A result follows its source if its error is below this share of that to other pictures' targets."""
SAME = 0.05
"""Root mean square below which a result is its source."""


def traits(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
    """Colours and detail of images in [-1, 1]: mean and spread of each channel, and of each octave of
    detail, d = x - (x at half its size), how much there is and how sparse it is:

        log(rms d + 0.01)      log((mean |d| + 0.01) / (rms d + 0.01))

    Edges are sparse, noise is not.
    """
    found = [x.mean((2, 3)), x.std((2, 3))]
    while min(x.shape[2:]) >= 4:
        low = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        d = x - F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)
        rms, mean = d.square().mean((2, 3)).sqrt() + 0.01, d.abs().mean((2, 3)) + 0.01
        found += [rms.log(), (mean / rms).log()]
        x = low
    return torch.cat(found, 1)


def distance(x: Float[Tensor, "n c h w"], y: Float[Tensor, "m c h w"]) -> float:
    """How far the mean traits of x are from those of y, in standard deviations among y.

    The root mean square over traits, of which what chance adds to few pictures is taken away; so two
    samples of the same pictures have 0 or little more.
    """
    a, b = traits(x.float()), traits(y.float())
    variance = b.var(0, unbiased=False).clamp(min=0.1**2)
    chance = sum(v.var(0, unbiased=False) / max(1, len(v) - 1) for v in (a, b))
    z2 = ((a.mean(0) - b.mean(0)).square() - chance) / variance
    return float(z2.mean().clamp(min=0).sqrt())


def translated(
    source: Tensor, made: Tensor, truth: Tensor, sources: Tensor, targets: Tensor, paired: bool
) -> dict[str, float]:
    """Distances and errors of results, and of what needs no training.

    Args:
        source: images (n, C, H, W) in [-1, 1].
        made: the results.
        truth: what they should be, of pairs.
        sources: more sources (m, C, H, W).
        targets: more targets.
        paired: is truth the truth?
    """
    flat = targets.mean((0, 2, 3), keepdim=True).expand_as(made)
    found = {
        "distance": distance(made, targets), "distance of a copy": distance(sources, targets),
        "change": _rms(made, source),
    }  # fmt: skip
    if paired:
        found |= {
            "error": _rms(made, truth), "error of a copy": _rms(source, truth),
            "error of one flat colour": _rms(flat, truth),
            "error to other targets": _rms(made, truth.roll(1, 0)),
        }  # fmt: skip
    return {k: round(v, 3) for k, v in found.items()}


def sampled(made: Sequence[Tensor], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean distance of the samples of each domain from its images (m, C, H, W) with these labels."""
    real = [images[labels == k] for k in range(len(made))]
    found = [distance(x, y) for x, y in zip(made, real, strict=True)]
    return {"distance": round(sum(found) / len(found), 3)}


def verdict(
    entries: Sequence[Mapping[str, Any]], steady: bool = True, held: bool = False, planned: int = 0
) -> str:
    """Where a training stands by the lines of its log, in two or three sentences.

    Args:
        entries: of log.jsonl, in order.
        steady: does a lower held-out loss mean a better model?  Not where players play against each
            other, or learn from what they make.
        held: are there pictures held out?
        planned: steps of the whole training; 0 if it has ended.
    """
    pictures = [e["pictures"] for e in entries if e.get("pictures")]
    said = [_learning(entries, steady, held, planned), *(_seeing(p) for p in pictures[-1:])]
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in said if s)


def loss(entry: Mapping[str, Any]) -> float:
    """The held-out loss of a line of the log: the sum over the players."""
    return sum(entry["held_out"].values())


def _learning(entries: Sequence[Mapping[str, Any]], steady: bool, held: bool, planned: int) -> str:
    scored = [e for e in entries if "held_out" in e]
    if not steady:
        return "its losses cannot say how far it is: look at the previews"
    if not scored and held:
        return "it stopped before its held-out pictures were scored for the first time"
    if not scored:
        return "no pictures were held out, so that the loss cannot say whether it learns or memorises"
    now = scored[-1]
    alike = [e for e in scored if e["held_out"].keys() == now["held_out"].keys()]
    early = [e for e in alike if e["step"] <= 0.75 * now["step"]]
    lowest = min(alike, key=loss)
    if not early:
        return "it is too young for its held-out loss to say where it goes"
    before = early[-1]
    over = "the last quarter" if before["step"] >= now["step"] / 2 else f"the steps since {before['step']}"
    fell = (loss(before) - loss(now)) / abs(loss(before))
    if loss(now) - loss(lowest) > RISES * abs(loss(lowest)):
        rose = (loss(now) - loss(lowest)) / abs(loss(lowest))
        return (
            f"it memorises its pictures: the held-out loss is {rose:.0%} above its lowest, at step "
            f"{lowest['step']}; train on more pictures, with --flip or --jitter, or stop there"
        )
    if fell > FALLS:
        longer = "" if now["step"] < planned else f" --steps {2 * now['step']}"
        return (
            f"still learning: the held-out loss fell by {fell:.0%} over {over}; go on with --resume{longer}"
        )
    return f"the held-out loss has levelled off: it fell by {fell:.1%} over {over}"


def _seeing(p: Mapping[str, float]) -> str:
    far, copy = p["distance"], p.get("distance of a copy")
    beside = "" if copy is None else f", a copy of the source {copy:.1f}"
    measured = f"colours and detail are {far:.1f} standard deviations from the targets'{beside}"
    if "error" in p and (far <= FAR or _follows(p)):
        return _against_truth(p)
    if far > FAR:
        return (
            f"the results are no pictures like the targets yet, but {FOG}: their {measured}; "
            f"train longer before you translate with it"
        )
    if p.get("change", 1.0) < SAME:
        return "the results are copies of their sources: nothing has been translated yet"
    if copy is not None and far >= copy > NEAR:
        return f"the results are no nearer to the targets than copies of the sources: {measured}"
    if far > NEAR:
        return f"the results are not like the targets yet, look at the previews: their {measured}"
    also = "; so has a copy, and only the eye can tell" if copy is not None and copy <= NEAR else ""
    return f"the results have the colours and the detail of the targets{also}: {measured}"


def _against_truth(p: Mapping[str, float]) -> str:
    error, names = p["error"], ("a copy", "one flat colour")
    best = min(names, key=lambda name: p[f"error of {name}"])
    others = ", ".join(f"{name} {p['error of ' + name]:.2f}" for name in names)
    numbers = f"rms error {error:.2f}, {others}"
    if error < p[f"error of {best}"]:
        return f"the results are nearer to their targets than a copy or one flat colour: {numbers}"
    if _follows(p):
        return (
            f"the results follow their sources, but no nearer than {best}: {numbers}, to other "
            f"targets {p['error to other targets']:.2f}"
        )
    return f"the results are no nearer to their targets than {best}: {numbers}"


def _follows(p: Mapping[str, float]) -> bool:
    """Whether results are nearer to their own targets than to others', as no noise or fog is."""
    return p["error"] < FOLLOWS * p["error to other targets"]


def _rms(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean().sqrt())
