"""Pictures as people hold them in Python, to images (B, C, H, W) in [-1, 1] and back to the same kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.core.arguments import TEXT, described
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import count
from sfumato.data.decode import plain, samples_of
from sfumato.data.header import Refused
from sfumato.data.images import picture
from sfumato.data.joined import Layer
from sfumato.data.preparation import Preparation
from sfumato.data.read import DARK, Unfiled, ranged
from sfumato.data.resize import to_float
from sfumato.data.value_range import ValueRange, from_unit, to_type, to_unit

KINDS = "a picture of Pillow, an array or tensor of one or many, or a list of them"
FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64
"""Types of floats that all functions compute with; those of 8 bits are for storage."""
SLACK = 1e-3
"""How far values may lie outside of [-1, 1]: what rounding does."""


class Taken(NamedTuple):
    """One picture or a batch of them, and the way back."""

    images: Tensor
    """(B, C, H, W), float32."""
    back: Callable[[Tensor], Any]
    """Images (B, C, H, W) to the kind that was given; values beyond [-1, 1] become its ends."""


def take(given: Any, channels: int, preparation: Preparation | None = None, bright: bool = False) -> Taken:
    """One picture, or an array or tensor of one or many.

    Args:
        given: a picture of Pillow, all of which is prepared as the model's training did; or an
            array (H, W), (H, W, C), (C, H, W), with N in front for many, or a tensor (C, H, W) or
            (B, C, H, W), which keep their size.  Integers are samples from 0 to 255, or to 65,535 for
            uint16; floats lie in [-1, 1].  C is 1 or 3, or as many as `channels`.
        channels: C of the images that are made.
        preparation: for pictures of Pillow.
        bright: take floats in [0, 1] for a bright picture, with a warning, instead of refusing them.

    Raises:
        UserError: another kind, shape or range, or values that are not numbers; says what to type.
    """
    if isinstance(given, Image.Image):
        how = (preparation or Preparation(channels=channels)).at()
        try:
            samples = samples_of(given)[0]
            if how.beside:
                samples, _ = how.samples(Unfiled("the picture", samples))
            elif how.range is not None:
                samples, _ = ranged(samples, channels, how.colour, how.range)
            else:
                samples = plain(samples, channels, how.colour).transpose(2, 0, 1)
        except Refused as error:
            raise UserError(f"the picture {error}") from None
        image = torch.from_numpy(to_float(how.fit(np.ascontiguousarray(samples))))
        return Taken(image[None], lambda y: picture(y[0]))
    if isinstance(given, (np.ndarray, Tensor)):
        x, arrange = arranged(given, channels)
        ends, to = (preparation.range, preparation.to_range) if preparation else (None, None)
        layers = preparation.layers if preparation and preparation.beside else [Layer(x.shape[1], ends)]
        images, restore = _in_range(x, layers, to or ends) if ends else _floats(x, bright)
        return Taken(_channels(images, channels), lambda y: arrange(restore(y)))
    if isinstance(given, (str, Path)):
        raise UserError(
            f"{str(given)!r} is a path: translate(sfumato.read(path)) translates one picture, "
            f"sfumato.translate(paths, out, ...) files and folders"
        )
    raise UserError(f"{described(given)} is not a picture: expected {KINDS}")


def check_tensor(x: Tensor, name: str = "the picture") -> None:
    """Sees that a tensor is one that all functions compute with: dense, with values, of no odd type.

    Raises:
        UserError: it is not.
    """
    odd = {
        "nested": x.is_nested, "sparse": x.layout != torch.strided, "quantised": x.is_quantized,
        "on the meta device, without values": x.is_meta,
        f"of {x.dtype}": x.is_floating_point() and x.dtype not in FLOATS,
    }  # fmt: skip
    for what, is_so in odd.items():
        if is_so:
            raise UserError(
                f"{name} is a tensor that is {what}: expected a dense one with values, its floats of 16 to "
                f"64 bits, as of x.to_dense() or x.float()"
            )


def translated(
    translate: Callable[[Tensor], Tensor], given: Any, channels: int, preparation: Preparation | None
) -> Any:
    """What `translate` makes of pictures of any kind, in the kind that was given; see `take`."""
    if isinstance(given, Sequence) and not isinstance(given, TEXT):
        results = [translated(translate, one, channels, preparation) for one in given]
        return tuple(results) if isinstance(given, tuple) else results
    images, back = take(given, channels, preparation)
    made = translate(images)
    check_numbers({"the result": made}, ": the model diverged")
    return back(made)


def _floats(x: Tensor, bright: bool) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A tensor of samples or of values in [-1, 1] as float32, and the way back to its type and device."""
    if not x.numel():
        raise UserError(f"a picture of shape {tuple(x.shape)} is empty")
    check_type(x.dtype)
    values = x.detach() if x.is_floating_point() else x.to(torch.int64)  # uint16 has few operations
    low, high = float(values.min()), float(values.max())
    if x.is_floating_point():
        _check_range(low, high, bright)
        return x.float(), lambda y: y.clamp(-1, 1).to(x)
    top = top_of(x.dtype == torch.uint16, low, high)
    if top == 65535 and high < DARK:
        warnings.warn(
            f"16-bit samples reach {high:g} of 65,535 and come out dark: multiply them, or type "
            f"x.astype('uint8') if they are of 8 bits", stacklevel=4,
        )  # fmt: skip

    def samples(y: Tensor) -> Tensor:
        rounded = ((y.clamp(-1, 1) + 1) * (top / 2) + 0.5).floor()
        return rounded.to(torch.int32).to(x.device, x.dtype)

    return values.float() * (2 / top) - 1, samples


def _in_range(
    x: Tensor, layers: Sequence[Layer], to: ValueRange
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Whole numbers of a model's range, and back to that of its results; floats lie in [-1, 1]."""
    known = [layer.range for layer in layers if layer.range]
    if x.is_floating_point():
        low, high = float(x.min()), float(x.max())
        if not -1 - SLACK <= low <= high <= 1 + SLACK:
            shown = " and ".join(f"from {a:g} to {b:g}" for a, b in known)
            raise UserError(
                f"values in [{low:.6g}, {high:.6g}]: expected [-1, 1], or whole numbers in the model's range "
                f"{shown}; sfumato.read(paths, like=model) reads files in it"
            )
        return _floats(x, bright=True)
    check_type(x.dtype)
    parts = torch.split(x.to(torch.int64), [layer.channels for layer in layers], 1)
    read = [to_unit(part.cpu().numpy(), ends) for part, ends in zip(parts, known, strict=True)]
    unit = np.concatenate([values for values, _ in read], 1)
    if outside := ", ".join(said for _, said in read if said):
        warnings.warn(f"values outside of the model's range become its ends: {outside}", stacklevel=4)
    kind = np.dtype(str(x.dtype).removeprefix("torch."))

    def back(y: Tensor) -> Tensor:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        values = from_unit(y.detach().float().cpu().numpy(), to, np.dtype(np.float64)).clip(low, high)
        return torch.from_numpy(np.floor(values + 0.5).astype(kind)).to(x.device)

    return torch.from_numpy(unit).to(x.device), back


def check_type(dtype: torch.dtype) -> None:
    """Sees that samples or floats may be of a type.

    Raises:
        UserError: they may not.
    """
    if dtype.is_complex or dtype in (torch.bool, torch.int8):
        raise UserError(f"values of type {dtype}: expected numbers: samples, or floats in [-1, 1]")


def top_of(deep: bool, low: float, high: float) -> int:
    """The largest sample of uint16, or of other whole numbers; they lie between low and high.

    Raises:
        UserError: these are no samples.
    """
    top = 65535 if deep else 255
    if low < 0 or high > top:
        raise UserError(f"integers from {low:g} to {high:g}: expected samples from 0 to 255, or uint16")
    return top


def _check_range(low: float, high: float, bright: bool) -> None:
    check_numbers({"the picture": np.array([low, high])}, ": expected values in [-1, 1]")
    if low >= 0 and low < high <= 1 and bright:
        warnings.warn(
            f"values in [0, 1] are taken for a bright picture of [-1, 1]; else type {to_type(0, 1)}",
            stacklevel=7,
        )
    elif low >= 0 and low < high <= 1:
        raise UserError(
            f"values in [0, 1]: expected [-1, 1]; type {to_type(0, 1)}, or translate(..., as_is=True) if "
            f"the picture is this bright"
        )
    if max(-low, high) > 1 + SLACK:
        other = "" if bright else "; or translate(..., as_is=True) for other numbers than pictures"
        raise UserError(
            f"values in [{low:.6g}, {high:.6g}]: expected [-1, 1]; type {to_type(low, high)}{other}"
        )


def _said(channels: int) -> str:
    return "1 or 3" if channels in (1, 3) else str(channels)


def arranged(given: NDArray[Any] | Tensor, channels: int) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """An array or tensor of one or many pictures as (B, C, H, W), and the way back to its arrangement.

    Raises:
        UserError: it has another shape, or samples that are none.
    """
    known, dims = (1, 3, channels), given.ndim
    if isinstance(given, Tensor):
        check_tensor(given)
        if dims not in (3, 4) or given.shape[-3] not in known:
            raise UserError(
                f"a tensor of shape {tuple(given.shape)}: expected (C, H, W) or (B, C, H, W) with C "
                f"{_said(channels)}"
            )
        return (given, lambda y: y) if dims == 4 else (given[None], lambda y: y[0])
    given = given.astype(given.dtype.newbyteorder("="), copy=False)
    odd = given.dtype.kind not in "uif" or given.dtype.itemsize > 8
    if odd or isinstance(given, np.ma.MaskedArray):
        what = "a masked array" if isinstance(given, np.ma.MaskedArray) else f"an array of {given.dtype}"
        raise UserError(f"{what}: expected whole numbers or floats of up to 64 bits, none of them masked")
    x = torch.from_numpy(np.array(given, order="C"))
    if dims == 2:
        return x[None, None], lambda y: (y[0, 0] if y.shape[1] == 1 else y[0].permute(1, 2, 0)).numpy()
    first, last = (dims in (3, 4) and x.shape[axis] in known for axis in (-3, -1))
    many = x if dims == 4 else x[None]
    one = slice(None) if dims == 4 else 0
    if last and not (first and dims == 4):
        return many.permute(0, 3, 1, 2), lambda y: y.permute(0, 2, 3, 1)[one].numpy()
    if first:
        return many, lambda y: y[one].numpy()
    raise UserError(
        f"an array of shape {tuple(x.shape)}: expected (H, W), (H, W, C) or (C, H, W) with C "
        f"{_said(channels)}, or N of them"
    )


def _channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if channels not in (1, 3) or images.shape[1] not in (1, 3):
        raise UserError(f"a picture of {count(images.shape[1], 'channel')}: expected {channels}")
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
