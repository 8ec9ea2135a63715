"""Models as other programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from sfumato.checkpoints.diffusers_folders import PREDICTIONS
from sfumato.checkpoints.model_folder import ModelFolder, open_model, resolve
from sfumato.core.arguments import checked
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.terminal import an
from sfumato.data.folders import new_folder
from sfumato.diffusion.chains import ScaledLinear
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.latents import InLatents
from sfumato.diffusion.process import DDPM, IDDPM, VE
from sfumato.nets.diffusers import UNet2D, library
from sfumato.nets.indexed import Indexed
from sfumato.nets.score_sde import Score

Format = Literal["diffusers"]


@checked
@with_torch_defaults
def export(model: str | Path, out: str | Path, *, to: Format) -> str:
    """Writes a model as another program reads it.

    Args:
        model: a model folder.
        out: the folder to make.
        to: diffusers: the folder of a pipeline, of a model whose network is diffusers', as one that
            `sfumato import` made of such a folder, also if it was trained further.

    Returns:
        What was written, in words.

    Raises:
        UserError: it is no whole model, or not one that the other program has a network for; or the folder
            is there.
    """
    path, domain = resolve(model)
    if domain is not None:
        whole = str(model).removesuffix(f":{domain}")
        raise UserError(f"{model} is one domain: a model is exported with all, as in {whole}")
    found = open_model(path, None)
    with new_folder(out) as folder:
        said = FORMATS[to](found, folder)
    return f"{out} holds {said}"


def _to_diffusers(found: ModelFolder, folder: Path) -> str:
    """Writes unet/ and scheduler/."""
    if isinstance(found.part, InLatents):
        raise UserError(f"{found.name} works in latents, and is not exported: expected a model of pictures")
    f: Any = getattr(found.part, "denoiser", None)
    net = getattr(getattr(f, "net", None), "net", None)
    if not isinstance(f, Denoiser) or not isinstance(net, UNet2D):
        raise UserError(
            f"the network of {found.name} is no U-Net of diffusers: expected a model that `sfumato import` "
            f"made of a pipeline's folder, or one that was trained from it; autoencoders are not exported"
        )
    diffusers, state, classes = library(), dict(net.model.state_dict()), list[str]()
    rows = state.pop("class_embedding.weight", None)
    if rows is not None and (net.labels > 1 or rows[0].any()):  # else they change nothing
        classes = [*f.domains, *["any domain"] * f.any_domain]
        state["class_embedding.weight"] = rows[: len(classes)].contiguous()
    config = {**net.config, "num_class_embeds": len(classes) or None}
    if size := found.preparation.size:
        config["sample_size"] = size[0] if size[0] == size[1] else size
    unet = diffusers.UNet2DModel(**config)
    unet.load_state_dict(state, assign=True)
    scheduler, pipeline = _scheduler(f, 2 if config["out_channels"] > net.channels else 1)
    pipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    numbers = f"; its classes are {', '.join(f'{i}: {name}' for i, name in enumerate(classes))}"
    return f"{an(pipeline.__name__)} of diffusers" + numbers * bool(classes)


def _scheduler(f: Denoiser, answers: int) -> tuple[Any, Any]:
    """diffusers' scheduler of what a network was trained with, and the pipeline that has such."""
    diffusers, net, process = library(), f.net, f.process
    if isinstance(net, Score) and isinstance(process, VE):
        ends = {"sigma_min": process.sigma_min / 2, "sigma_max": process.sigma_max / 2}  # of [0, 1]
        return diffusers.ScoreSdeVeScheduler(**ends), diffusers.ScoreSdeVePipeline
    if not isinstance(net, Indexed):
        raise UserError(f"diffusers has no pipeline of {type(process).__name__}: expected a chain, or VE")
    chain = net.chain  # what it is told, whatever process it serves now
    betas: dict[str, Any] = {}
    if isinstance(chain, DDPM):
        scale = 1000 / chain.steps
        betas = {"beta_start": scale * chain.beta_start, "beta_end": scale * chain.beta_end}
    elif isinstance(chain, IDDPM):
        betas = {"beta_schedule": "squaredcos_cap_v2"}
    elif isinstance(chain, ScaledLinear):
        betas = {"beta_schedule": "scaled_linear", "beta_start": chain.beta_start, "beta_end": chain.beta_end}
    else:
        betas = {"trained_betas": chain.betas().tolist()}
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=chain.steps, variance_type="learned_range" if answers == 2 else "fixed_small",
        prediction_type=next(theirs for theirs, ours in PREDICTIONS.items() if ours == f.prediction), **betas,
    )  # fmt: skip
    return scheduler, diffusers.DDPMPipeline


FORMATS: Mapping[Format, Callable[[ModelFolder, Path], str]] = {"diffusers": _to_diffusers}
