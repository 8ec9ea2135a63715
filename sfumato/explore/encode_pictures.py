"""Pictures to files of latents, and latents to pictures: what `sfumato explore encode | decode` do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.checkpoints.model_folder import open_model, resolve
from sfumato.core.arguments import checked
from sfumato.core.devices import device_of, with_torch_defaults
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.ranges import Count, Steps
from sfumato.core.terminal import count
from sfumato.core.versions import version
from sfumato.data.folders import for_new_folder
from sfumato.data.image_folder import ImageFolder
from sfumato.data.images import write_png
from sfumato.data.listing import bare
from sfumato.data.preparation import Preparation
from sfumato.data.resize import ToOneSize, said_size
from sfumato.data.show import shown
from sfumato.diffusion.encode_decode import decode, encode
from sfumato.diffusion.integrate import OdeName
from sfumato.diffusion.latents import ONE_CODEC, InLatents
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Evaluations
from sfumato.explore.chain import apply
from sfumato.explore.latents import Latents
from sfumato.module import channels_of
from sfumato.translation.run_file import write_run
from sfumato.translation.translator import preparation_of

BATCH = 64


@checked
@with_torch_defaults
def encode_pictures(
    paths: str | Path | Sequence[str | Path],
    model: str | Path,
    *,
    steps: Steps = 12,
    solver: OdeName = "ab3",
    spacing: Spacing = "karras",
    first: str = "",
    seed: int = 0,
    size: Count | None = None,
    resize: ToOneSize | None = None,
    upscale: bool = False,
    device: str = "auto",
) -> Latents:
    """Pictures to latents.

    Args:
        paths: pictures, or folders of them.
        model: domain of the pictures, FOLDER:DOMAIN of a diffusion model.
        steps: solver steps.
        solver: a deterministic one.
        spacing: spacing of the solver's times: karras, log_snr, time or chain.
        first: operations on the pictures before they are encoded, such as "blur sigma=2".
        seed: seed of the noise that these operations may draw.
        size: side of the pictures in pixels; the defaults of this and the next two are those of the model's
            training.
        resize: how pictures get that size: crop (scale the short side, cut out the middle), stretch,
            none (take pictures of one size as they are).
        upscale: enlarge pictures that are smaller than size.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: for anything wrong with pictures, model or options, in one line.
    """
    pictures = ImageFolder([paths] if isinstance(paths, (str, Path)) else list(paths))
    pictures.by_name()
    found = DomainModel.of(model)
    pictures.preparation, notes = preparation_of(
        {"model": found.preparation}, channels=channels_of(found.part), size=size, resize=resize,
        upscale=upscale,
    )  # fmt: skip
    images = pictures.get(range(len(pictures)))
    for text in [*notes, *pictures.said()]:
        warnings.warn(text, stacklevel=3)
    log: list[dict[str, Any]] = []
    if first:
        images, log = apply(first, images, seed=seed)
    how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing}
    latents, nfe = found.batched(found.encode, images, device, how)
    names = [f"{bare(name)}.png" for name in pictures.file_names]
    facts = found.facts | how | {"nfe": nfe, "preparation": pictures.preparation.to_json()}
    facts |= {"pictures": pictures.digest, "first": log}
    return Latents(latents, images, names, {"encoded": facts, "operations": []})


@checked
@with_torch_defaults
def decode_latents(
    latents: Latents,
    model: str | Path,
    out: str | Path,
    *,
    steps: Steps = 10,
    solver: OdeName = "ab3",
    spacing: Spacing = "karras",
    device: str = "auto",
) -> Tensor:
    """Latents to pictures (N, C, H, W), written as PNGs under their names beside their run.json.

    Args:
        latents: see `Latents.load`.
        model: domain of the results, FOLDER:DOMAIN of a diffusion model.
        out: a new or empty folder.
        steps: solver steps.
        solver: a deterministic one.
        spacing: spacing of the solver's times: karras, log_snr, time or chain.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: if the folder is not empty, or latents and model do not fit.
    """
    out = for_new_folder(out)
    found = DomainModel.of(model)
    prepare = found.preparation
    if (channels := channels_of(found.denoiser)) != latents.latents.shape[1]:
        raise UserError(
            f"the latents have {count(latents.latents.shape[1], 'channel')}, {model} has {channels}; "
            f"choose one with as many"
        )
    if "encoded" in latents.protocol:
        found.check_codec((latents.protocol["encoded"] or {}).get("codec"))
    h, w = (n * found.factor for n in latents.latents.shape[-2:])
    if prepare.size not in (None, (h, w)):
        warnings.warn(
            f"the latents are {said_size((h, w))}; {model} was trained at {said_size(prepare.size)}",
            stacklevel=3,
        )
    how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing}
    images, nfe = found.batched(found.decode, latents.latents, device, how)
    check_numbers({f"what {model} makes of these": images}, "; use smaller coefficients")
    for name, image in zip(latents.names, images, strict=True):
        write_png(out / name, shown(image))
    run = {"protocol": latents.protocol, "decoded": found.facts | how | {"nfe": nfe}}
    write_run(out, run, None, {"pictures": len(images)})
    return images


class DomainModel(NamedTuple):
    """A domain's denoiser, the whole model, what a protocol says of it, and how it was shown pictures."""

    denoiser: Any
    part: Any
    facts: dict[str, Any]
    preparation: Preparation

    @classmethod
    def of(cls, name: str | Path) -> DomainModel:
        model = open_model(*resolve(name))
        f = model.denoiser
        facts: dict[str, Any] = {"model": model.name, "domain": f.domain, "weights": model.sha256}
        facts |= {"codec": model.part.mark} if isinstance(model.part, InLatents) else {}
        facts |= {"versions": {n: version(n) for n in ("sfumato", "torch")}}
        return cls(f, model.part, facts, model.preparation)

    @property
    def factor(self) -> int:
        """Pixels a side of what is carried to noise."""
        return self.part.factor if isinstance(self.part, InLatents) else 1

    def check_codec(self, mark: str | None) -> None:
        """Sees that latents of a codec, see `InLatents.mark`, or of none, are of this model's.

        Raises:
            UserError: they are not.
        """
        if mark != self.facts.get("codec"):
            raise UserError(
                f"the latents and {self.facts['model']} are not of the same codec and scale: {ONE_CODEC}"
            )

    def code(self, images: Tensor) -> Tensor:
        """What of pictures is carried to noise: their codec's latents, or they themselves."""
        return self.part.encode(images) if isinstance(self.part, InLatents) else images

    def encode(self, images: Tensor, **how: Any) -> Tensor:
        """Pictures to noise, through the codec's latents if there are any."""
        return encode(self.denoiser, self.code(images), **how)

    def decode(self, latents: Tensor, **how: Any) -> Tensor:
        """And back."""
        z = decode(self.denoiser, latents, **how)
        return self.part.decode(z) if isinstance(self.part, InLatents) else z

    @torch.no_grad()
    def batched(
        self, solve: Callable[..., Tensor], x: Tensor, device: str, how: dict[str, Any]
    ) -> tuple[Tensor, int]:
        """`solve` in batches; the results, and the evaluations that a batch took at most."""
        where, counts, parts = device_of(device), list[Evaluations](), []
        self.part.to(where)
        for batch in torch.split(x, BATCH):
            counts.append(counted := Evaluations())
            parts.append(solve(batch.to(where), watch=counted, **how).cpu())
        return torch.cat(parts), max(counted.nfe for counted in counts)
