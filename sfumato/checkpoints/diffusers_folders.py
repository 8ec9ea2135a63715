"""Folders of diffusers: a network and the scheduler of its training, as JSON and tensors.

    unet/ or transformer/config.json, and diffusion_pytorch_model.safetensors or .bin
    scheduler/scheduler_config.json
    vae/ or vqvae/, of models of latents

Files of the first two may lie beside each other, as in 2022.  Nothing in a folder is run: a config names
layers that diffusers knows, or it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.checkpoints.diffusers_autoencoders import read_codec
from sfumato.checkpoints.diffusers_weights import (
    answers,
    classes_of,
    config_of,
    filled,
    filled_unet,
    weights_of,
)
from sfumato.checkpoints.known_files import class_names, in_short
from sfumato.checkpoints.tensors import read_tensors
from sfumato.core.arguments import check_value
from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.core.ranges import Positive, Steps, TrainingSide
from sfumato.core.terminal import an
from sfumato.data.preparation import Preparation
from sfumato.data.resize import said_size
from sfumato.diffusion.chains import Betas, ScaledLinear
from sfumato.diffusion.denoiser import Prediction
from sfumato.diffusion.latents import InLatents
from sfumato.diffusion.process import DDPM, IDDPM, VE, VP, Chain, Process
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.diffusers import DiT, Prompted
from sfumato.nets.diffusers_autoencoders import DiffusersCodec
from sfumato.nets.indexed import Indexed
from sfumato.nets.preconditioned import Preconditioned
from sfumato.nets.score_sde import Score

CHAINS = "DDPMScheduler", "DDIMScheduler", "PNDMScheduler"
"""Schedulers that say a chain's betas."""
SDES = {
    "ScoreSdeVeScheduler": {"sigma_min": 0.01, "sigma_max": 1348.0},
    "ScoreSdeVpScheduler": {"beta_min": 0.1, "beta_max": 20.0},
}
"""Schedulers of score SDEs, and what they have by default."""
PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = "linear", "scaled_linear", "squaredcos_cap_v2"
NETWORKS = "UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel", "UNet2DConditionModel"
"""Transformer2DModel is what a DiT was called."""
ANY = "any domain"
"""What a table of prompts calls the empty one."""
OTHERS = "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type"
"""What networks are told besides prompts, or in another way."""


def read_folder(
    folder: Path, size: int | None, domains: tuple[str, ...], prompts: Path | None = None
) -> tuple[Part, str, dict[str, Any]]:
    """A model with the weights of a folder, what it was found to be, and the size of its pictures.

    Args:
        folder: of a pipeline.
        size: side of its pictures, if its config does not say it, or another is wanted.
        domains: names of its classes, or of all that it makes.
        prompts: of a network that is told by prompts, the table of their embeddings, a domain each.

    Raises:
        UserError: it holds anything else.
    """
    inner = "transformer" if (folder / "transformer/config.json").is_file() else "unet"
    file, config = config_of(folder, f"{inner}/config.json")
    _, scheduler = config_of(folder, "scheduler/scheduler_config.json")
    if (kind := config.get("_class_name")) not in NETWORKS:
        raise UserError(f"{file} is of {an(str(kind))}: expected {', '.join(NETWORKS)}")
    if prompts is not None and kind != NETWORKS[-1]:
        raise UserError(f"{file} is not told by prompts: leave out {prompts}")
    net: Any
    try:
        codec, more = _codec(folder)
        sides = _sides(file, config, size, codec.factor if codec else 1)
        process, prediction, words = _trained(scheduler)
        if kind == "UNet2DModel":
            net, left = filled_unet(file, config, *weights_of(file.parent))
            names = class_names(domains, classes_of(config, "num_class_embeds", 0), folder.resolve().name)
        elif kind == NETWORKS[-1]:
            net, names, left = _prompted(file, config, domains, prompts)
        else:
            classes = classes_of(config, "num_embeds_ada_norm", 1000)
            make = lambda kept: DiT(config=kept, labels=classes)
            net, left = filled(make, "DiTTransformer2DModel", file, config, *weights_of(file.parent))
            names, left = class_names(domains, classes, ""), left + answers(file, net)
    except UserError as error:
        raise UserError(f"{folder}: {str(error).removeprefix(f'{folder}/')}") from None
    part: Part = find("diffusion")(
        domains=names, net=_told(net, process), process=process, prediction=prediction, times="uniform",
        channels=net.channels, any_domain=0.0 if kind == "UNet2DModel" else 0.1,
    )  # fmt: skip
    if codec is not None:
        part = InLatents(codec=codec, method=part)
        words = [f"in the latents of {codec.factor}x{codec.factor} pixels of its {codec.kind}", *words]
    size_of = net.config.get("block_out_channels")
    widths = f"{', '.join(map(str, size_of))} channels" if size_of else f"{net.config['num_layers']} blocks"
    said = [
        f"a diffusion model of {in_short(names)}: diffusers' {kind} of {widths}",
        f"trained on {said_size(sides)} pixels", *words,
    ]  # fmt: skip
    left += [f"its {name} left out" for name in ("clip_sample", "thresholding") if scheduler.get(name)]
    about: dict[str, Any] = {"size": sides[0]}
    if sides[0] != sides[1]:
        channels = codec.channels if codec else net.channels
        about = {"preparation": Preparation(size=sides, channels=channels).to_json()}
    return part.eval(), "; ".join([", ".join(said), *left, *more]), about


def _codec(folder: Path) -> tuple[DiffusersCodec | None, list[str]]:
    """The codec of a model of latents, and what of it is left out."""
    place = next((folder / name for name in ("vae", "vqvae") if (folder / name).exists()), None)
    if place is None:
        return None, []
    codec, left = read_codec(place)
    if "scaling_factor" not in config_of(place, "config.json")[1]:
        left.append(f"its latents are scaled by {codec.config['scaling_factor']}, diffusers' default")
    return codec, left


def _prompted(
    file: Path, config: Mapping[str, Any], given: tuple[str, ...], table: Path | None
) -> tuple[Prompted, tuple[str, ...], list[str]]:
    """A network that is told by prompts, and its domains, each a prompt of a table of their embeddings."""
    if other := [name for name in OTHERS if config.get(name) is not None]:
        raise UserError(f"{file} is told more than prompts ({other[0]}), which is not read")
    if table is None:
        raise UserError(f"{file} is told by prompts: add --prompts TABLE.safetensors, see the documentation")
    rows = read_tensors(table)
    names = tuple(name for name in rows if name != ANY)
    shape: tuple[int, ...] = tuple(rows[ANY].shape) if ANY in rows else ()
    width = config.get("cross_attention_dim", 1280)
    if not names or len(shape) != 2 or shape[1] != width or any(v.shape != shape for v in rows.values()):
        raise UserError(
            f"{table} is no table of prompts: expected a tensor (tokens, {width}) for each domain, and one "
            f"for the empty prompt, {ANY!r}"
        )
    check_numbers({f"{table}: {name}": value for name, value in rows.items()})
    if given and sorted(given) != sorted(names):
        raise UserError(f"the domains of {table} are {', '.join(names)}, not {', '.join(given)}")
    names = given or names
    make = lambda kept: Prompted(config=kept, labels=len(names), tokens=shape[0])
    net, left = filled(make, "UNet2DConditionModel", file, config, *weights_of(file.parent))
    net.prompts.weight = nn.Parameter(torch.stack([rows[name].float().flatten() for name in (*names, ANY)]))
    return net, names, left + answers(file, net)


def _told(net: Part, process: Process) -> Part:
    """The network, told log(sigma/alpha), of what it was told in the training of this process."""
    if isinstance(process, VP):
        return Preconditioned(net=net, kind="vp", process=process)
    return Indexed(net=net, chain=process) if isinstance(process, Chain) else Score(net=net)


def _sides(file: Path, config: Mapping[str, Any], size: int | None, factor: int) -> tuple[int, int]:
    """(height, width) of its pictures, of which `factor` pixels a side are a latent."""
    said = config.get("sample_size")
    sides: Any = said if isinstance(said, list) else [said, said]
    sides = [size, size] if size else [s and s * factor for s in sides]
    try:
        check_value("sample_size", sides, tuple[TrainingSide, TrainingSide])
    except UserError:
        raise UserError(f"{file} does not say the size of its pictures: add --size N") from None
    return int(sides[0]), int(sides[1])


def _trained(config: Mapping[str, Any]) -> tuple[Process, Prediction, list[str]]:
    """The process of a scheduler, what its network predicts, and both in words.

    What a scheduler's config does not say is as the scheduler has it by default.
    """
    kind = choose("scheduler", str(config.get("_class_name")), (*CHAINS, *SDES))
    if kind in SDES:
        low, high = ends = [config.get(name, end) for name, end in SDES[kind].items()]
        for name, end in zip(SDES[kind], ends, strict=True):
            check_value(name, end, Positive)
        if kind == "ScoreSdeVpScheduler":
            return VP(beta_min=low, beta_max=high), "eps", [f"beta from {low:g} to {high:g}"]
        process = VE(sigma_min=2 * low, sigma_max=2 * high)  # of images in [-1, 1], not in [0, 1]
        return process, "eps", [f"noise from {process.sigma_min:g} to {process.sigma_max:g}"]
    if config.get("rescale_betas_zero_snr"):
        raise UserError("a chain that ends without any signal (rescale_betas_zero_snr) is not read")
    asked = config.get("prediction_type") or "epsilon"
    prediction = PREDICTIONS[choose("prediction_type", asked, PREDICTIONS)]
    chain, name = _chain(config)
    return chain, prediction, [f"{name} schedule of {chain.steps} steps", f"prediction of {prediction}"]


def _chain(config: Mapping[str, Any]) -> tuple[Chain, str]:
    """The chain of a scheduler, and what its schedule is called."""
    if (given := config.get("trained_betas")) is not None:
        check_value("trained_betas", given, list)
        return Betas(steps=len(given), values=tuple(given)), "own"
    steps = config.get("num_train_timesteps", 1000)
    check_value("num_train_timesteps", steps, Steps)
    name = choose("beta_schedule", config.get("beta_schedule", "linear"), SCHEDULES)
    if name == "squaredcos_cap_v2":
        return IDDPM(steps=steps), "cosine"
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if name == "scaled_linear":
        return ScaledLinear(steps=steps, beta_start=ends[0], beta_end=ends[1]), name
    for end, what in zip(ends, ("beta_start", "beta_end"), strict=True):
        check_value(what, end, Positive)
    scale = steps / 1000  # DDPM's own betas are those of 1000 steps
    return DDPM(steps=steps, beta_start=scale * ends[0], beta_end=scale * ends[1]), name
