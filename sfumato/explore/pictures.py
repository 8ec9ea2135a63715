"""Pictures to files of latents, and latents to pictures: what `sfumato explore encode | decode` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data.gather import gather, reader
from sfumato.data.images import Resize, write_png
from sfumato.errors import UserError
from sfumato.explore.chain import apply
from sfumato.explore.latents import Latents
from sfumato.folder import denoiser_of, load, resolve
from sfumato.record import digest, sha256, write_run
from sfumato.solve.bridge import decode, encode
from sfumato.times import Spacing
from sfumato.translator import channels_of, device_of, size_of
from sfumato.versions import version

BATCH = 64


def encode_pictures(
    paths: str | Path | Sequence[str | Path],
    model: str | Path,
    *,
    steps: int = 12,
    solver: str = "ab3",
    spacing: Spacing = "karras",
    first: str = "",
    seed: int = 0,
    size: int | None = None,
    resize: Resize = "crop",
    upscale: bool = False,
    device: str = "auto",
) -> Latents:
    """Pictures to latents.

    Args:
        paths: pictures, or folders of them.
        model: domain of the pictures, FOLDER:DOMAIN of a diffusion model.
        steps: solver steps, at least 1.
        solver: ab3, ab2, dpm2m, heun, ddim, or dopri5 (to a tolerance).
        spacing: of the times: karras, log_snr, time or chain.
        first: operations on the pictures before they are encoded, as "blur sigma=2".
        seed: of the noise that these may draw.
        size: side of the pictures in pixels; by default that of the model's training.
        resize: how pictures get that size: crop (scale the short side, cut the middle), stretch,
            none (take pictures of one size as they are).
        upscale: accept pictures smaller than size.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: for anything wrong with pictures, model or options, in one line.
    """
    files = gather([paths] if isinstance(paths, (str, Path)) else list(paths))
    f, facts = _denoiser(model)
    if size is None and resize != "none":
        size = size_of([resolve(model)[0]])
    if size is not None and size < 1:
        raise UserError(f"size must be at least 1, not {size}")
    read = reader(channels_of(f), size, resize, upscale)
    pictures = [read(file) for file in files.values()]
    if len(sizes := {f"{p.shape[2]}x{p.shape[1]}" for p in pictures}) > 1:
        raise UserError(f"the pictures are of sizes {', '.join(sorted(sizes))}: give --size")
    images = torch.stack(pictures)
    log: list[dict[str, Any]] = []
    if first:
        images, log = apply(first, images, seed=seed)
    how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing}
    latents, nfe = _batched(encode, f, images, device, how)
    names = [name.as_posix() for name in files]
    facts |= how | {"nfe": nfe, "size": size, "resize": resize, "upscale": upscale}
    facts |= {"pictures": digest(files), "first": log}
    return Latents(latents, images, names, {"encoded": facts, "operations": []})


def decode_latents(
    latents: Latents,
    model: str | Path,
    out: str | Path,
    *,
    steps: int = 10,
    solver: str = "ab3",
    spacing: Spacing = "karras",
    device: str = "auto",
) -> Tensor:
    """Latents to pictures (N, C, H, W), written as PNGs under their names beside their run.json.

    Args:
        latents: see `Latents.load`.
        model: domain of the results, FOLDER:DOMAIN of a diffusion model.
        out: a new or empty folder.
        steps: solver steps, at least 1.
        solver: ab3, ab2, dpm2m, heun, ddim, or dopri5 (to a tolerance).
        spacing: of the times: karras, log_snr, time or chain.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: if the folder is not empty, or latents and model do not fit.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: name a new one or delete it")
    f, facts = _denoiser(model)
    if (channels := channels_of(f)) != latents.latents.shape[1]:
        raise UserError(
            f"the latents have {latents.latents.shape[1]} channels, {model} has {channels}; "
            f"choose a model alike"
        )
    how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing}
    images, nfe = _batched(decode, f, latents.latents, device, how)
    if not images.isfinite().all():
        raise UserError(f"{model} makes no numbers of these latents; use smaller coefficients")
    for name, image in zip(latents.names, images, strict=True):
        write_png(out / name, image)
    run = {"protocol": latents.protocol, "decoded": facts | how | {"nfe": nfe}}
    write_run(out, run, None, {"pictures": len(images)})
    return images


def _denoiser(model: str | Path) -> tuple[Any, dict[str, Any]]:
    """A domain's denoiser, and what a protocol says of it."""
    folder, domain = resolve(model)
    f = denoiser_of(load(folder), domain, str(folder))
    weights = sha256(folder / "weights.safetensors")
    facts = {"model": str(folder), "domain": f.domain, "weights": weights}
    return f, facts | {"versions": {name: version(name) for name in ("sfumato", "torch")}}


@torch.no_grad()
def _batched(
    solve: Callable[..., Tensor], f: Any, x: Tensor, device: str, how: dict[str, Any]
) -> tuple[Tensor, int]:
    """`solve` in batches; the results, and the evaluations that a batch took at most."""
    where, counts = device_of(device), []
    f, parts = f.to(where), []
    for batch in torch.split(x, BATCH):
        seen: list[int] = []
        watch = lambda t, x_t, mean, extras, seen=seen: seen.append(extras["nfe"])
        parts.append(solve(f, batch.to(where), watch=watch, **how).cpu())
        counts.append(sum(seen))
    return torch.cat(parts), max(counts)
