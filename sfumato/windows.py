"""Large pictures by overlapping windows, blended at every evaluation: networks see what they learned from.

    net(x) = sum_w k_w net(x_w) / sum_w k_w        over the windows w that hold a pixel

with k = sin^2 across each side of a window (MultiDiffusion, Bar-Tal et al. 2023,
https://arxiv.org/abs/2302.08113).  E[x | x_t] is linear in what a network predicts, so this blends the
windows' means.  There is one state x_t and one noise field for the whole picture, so solvers, guidance and
the encoding of DDIB work as ever, and no seams appear: tiles have them for they know nothing of each other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.arguments import checked, described
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Interval, PictureSide
from sfumato.core.terminal import an

P = TypeVar("P", bound=nn.Module)
WHOLE = 2
"""Times the training's size up to which networks see pictures whole: beyond, attention and norms meet
statistics that no training picture had."""


class Windowed(nn.Module):
    """A network of small pictures as one of large pictures.

    Args:
        net: (pictures (B, C, H, W), anything for each of them ...) -> (B, C', H, W).
        size: side of a window in pixels.
        stride: distance of windows, at most.
        batch: windows that the network sees at a time, at most.
        whole: side in pixels up to which it sees pictures whole; by default a window's.

    Attributes:
        anywhere: pictures need not lie where the weights are.
    """

    anywhere = True

    def __init__(self, net: nn.Module, size: int, stride: int, batch: int, whole: int | None = None) -> None:
        super().__init__()
        self.net, self.size, self.stride, self.batch, self.whole = net, size, stride, batch, whole or size

    def forward(self, x: Tensor, *given: Any) -> Tensor:
        h, w = x.shape[-2:]
        if max(h, w) <= self.whole:
            return self._ask(x, *given)
        x = F.pad(x, (0, max(0, self.size - w), 0, max(0, self.size - h)), mode="replicate")
        k = torch.arange(self.size, device=x.device).add(0.5).mul(torch.pi / self.size).sin() ** 2
        k = (k[:, None] * k).clamp(min=1e-3).to(x)
        out, total = torch.zeros(0), x.new_zeros(x.shape[-2:])
        corners = [*product(*(self.places(n) for n in x.shape[-2:]))]
        one_by_one = any(callable(g) for g in given)  # what draws noise does it for a batch of pictures
        many = 1 if one_by_one else max(1, self.batch // len(x))
        for i in range(0, len(corners), many):
            at = [(..., slice(r, r + self.size), slice(c, c + self.size)) for r, c in corners[i : i + many]]
            made = self._ask(torch.cat([x[place] for place in at]), *_repeated(given, len(x), len(at)))
            out = out if len(out) else x.new_zeros(len(x), made.shape[1], *x.shape[-2:])
            for place, one in zip(at, made.chunk(len(at)), strict=True):
                out[place] += k * one
                total[place] += k
        return (out / total)[..., :h, :w]

    def _ask(self, *given: Any) -> Tensor:
        """What the network says, where its weights are; x_t may lie elsewhere."""
        x, home = given[0], next(self.net.parameters(), given[0]).device
        return self.net(*(g.to(home) if isinstance(g, Tensor) else g for g in given)).to(x.device)

    def places(self, n: int) -> list[int]:
        """Where windows begin along a side of n pixels: a function of the place, but for the last."""
        return [*range(0, n - self.size, self.stride), n - self.size]


def _repeated(given: Sequence[Any], batch: int, times: int) -> list[Any]:
    """What belongs to each picture of a batch, for that many windows of it."""
    each = [isinstance(g, Tensor) and g.ndim > 0 and len(g) == batch for g in given]
    return [g.repeat(times, *[1] * (g.ndim - 1)) if one else g for g, one in zip(given, each, strict=True)]


def networks(part: nn.Module) -> list[str]:
    """Where the networks of a model lie that see the pictures it translates: as its parts say."""
    found = dict(part.named_modules(remove_duplicate=False))  # a network may be a field, too
    places = [(name, at) for name, m in found.items() for at in getattr(m, "generators_at", ())]
    return [place for name, at in places if (place := f"{name}.{at}".lstrip(".")) in found]


def for_pictures(part: P, size: tuple[int, int]) -> P:
    """The model as it sees pictures of a (height, width): by windows if they are far larger than it knows."""
    told = any(isinstance(m, Windowed) for m in part.modules())
    return part if told or max(size) <= seen_whole(part, None) else windowed(part)


def trained_side(part: nn.Module) -> int | None:
    """The longer side in pixels of the training's pictures, if it is known."""
    how: Any = getattr(part, "preparation", None)
    return max(how.size) if how and how.size else None


def seen_whole(part: nn.Module, windows: bool | None) -> float:
    """The longer side up to which networks see pictures whole: without limit if they see no windows.

    Args:
        part: a model.
        windows: whether they are asked for or refused; by default they see far larger ones than training's.
    """
    trained = trained_side(part) or 0
    if windows is None:
        return WHOLE * trained if trained and networks(part) else math.inf
    return trained if windows else math.inf


def by_windows(part: P, whole_to: float) -> P:
    """A model that sees larger pictures than that by windows."""
    return windowed(part, whole=int(whole_to) or None)


def placed(part: P, device: torch.device) -> tuple[P, torch.device]:
    """The model on a device, and where its pictures belong.

    By windows they stay in the host's memory, which is larger, and a batch of windows travels at a time;
    but where the model has more than networks that see windows, such as a classifier, all is on the device.
    """
    seeing = nn.ModuleList(m for m in part.modules() if isinstance(m, Windowed))
    inside, every = ({*map(id, m.state_dict(keep_vars=True).values())} for m in (seeing, part))
    return part.to(device), torch.device("cpu") if seeing and every <= inside else device


@checked
def windowed(
    part: P,
    size: PictureSide | None = None,
    overlap: Annotated[float, Interval(0, 0.9)] = 0.25,
    batch: Count | None = None,
    whole: Count | None = None,
) -> P:
    """A model whose networks see large pictures by windows; it shares its weights with `part`.

    Generators of one pass have their results blended, denoisers what they predict in each step.  A
    classifier that guides sees the whole picture.

    Args:
        part: a translator, or a denoiser bound to a domain.
        size: side of a window in pixels; by default that of the training's pictures.
        overlap: share of a window that the next one covers, too; less shows seams, more costs more.
        batch: windows that a network sees at a time, at most; by default as many as 64 of 64x64 pixels.
        whole: longer side in pixels up to which pictures are seen whole; by default a window's.

    Raises:
        UserError: it translates with no network of its own, or the training's size is not known.
    """
    if not hasattr(part, "generators_at"):
        raise UserError(f"windowed takes a model, as of sfumato.load, not {described(part)}")
    if (side := size or trained_side(part)) is None:
        raise UserError("how large the training's pictures were is not known: give size=, in pixels")
    tensors = [*part.parameters(), *part.buffers()]
    same = copy.deepcopy(part, {id(tensor): tensor for tensor in tensors})
    if not (places := networks(same)):
        raise UserError(f"{an(type(part).__name__)} translates with no network, which windows are made for")
    if factor := getattr(part, "factor", None):  # networks see latents
        side, whole = max(1, side // factor), whole and max(1, whole // factor)
    stride, many = max(1, round(side * (1 - overlap))), batch or max(1, 2**18 // side**2)
    for place in places:
        net = same.get_submodule(place)
        net = net.net if isinstance(net, Windowed) else net
        same.set_submodule(place, Windowed(net, side, stride, many, whole))
    return same
