"""Folders of diffusers: a network and the scheduler of its training, as JSON and tensors.

    unet/config.json, unet/diffusion_pytorch_model.safetensors    or beside each other, as in 2022
    scheduler/scheduler_config.json

Nothing in a folder is run: a config names layers that diffusers knows, or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoints.known_files import class_names, in_short
from sfumato.checkpoints.model_folder import LARGEST
from sfumato.checkpoints.tensors import read_tensors
from sfumato.checkpoints.torch_files import check_shapes, tensors_of
from sfumato.core.arguments import check_value
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.core.ranges import Count, Positive, TrainingSide, Whole
from sfumato.data.folders import parse_json, regular
from sfumato.data.preparation import Preparation
from sfumato.data.resize import said_size
from sfumato.diffusion.chains import Betas, ScaledLinear
from sfumato.diffusion.denoiser import Prediction
from sfumato.diffusion.process import DDPM, IDDPM, VE, VP, Chain, Process
from sfumato.methods.registry import find
from sfumato.module import Part, at_most
from sfumato.nets.diffusers import UNet2D, library
from sfumato.nets.indexed import Indexed
from sfumato.nets.preconditioned import Preconditioned
from sfumato.nets.score_sde import Score

M = TypeVar("M")
CHAINS = "DDPMScheduler", "DDIMScheduler", "PNDMScheduler"
"""Schedulers that say a chain's betas."""
SDES = {
    "ScoreSdeVeScheduler": {"sigma_min": 0.01, "sigma_max": 1348.0},
    "ScoreSdeVpScheduler": {"beta_min": 0.1, "beta_max": 20.0},
}
"""Schedulers of score SDEs, and what they have by default."""
PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = "linear", "scaled_linear", "squaredcos_cap_v2"
OF_LATENTS = "vae", "vqvae", "text_encoder", "bert"
WEIGHTS = "diffusion_pytorch_model"
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of 2022, and today's."""


def read_folder(folder: Path, size: int | None, domains: tuple[str, ...]) -> tuple[Part, str, dict[str, Any]]:
    """A model with the weights of a folder, what it was found to be, and the size of its pictures.

    Args:
        folder: of a pipeline.
        size: side of its pictures, if its config does not say it, or another is wanted.
        domains: names of its classes, or of all that it makes.

    Raises:
        UserError: it holds anything else.
    """
    if other := [name for name in OF_LATENTS if (folder / name).exists()]:
        raise UserError(f"{folder} is of latents ({other[0]}), which are not imported: expected pictures")
    file, config = config_of(folder, "unet/config.json")
    _, scheduler = config_of(folder, "scheduler/scheduler_config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise UserError(f"{file} is of a {config.get('_class_name')}: expected a UNet2DModel")
    sides = _sides(file, config, size)
    try:
        process, prediction, words = _trained(scheduler)
        net, left = network(file, config, *weights_of(file.parent))
        names = class_names(domains, _classes(config), folder.resolve().name)  # whose rows are there
    except UserError as error:
        raise UserError(f"{folder}: {str(error).removeprefix(f'{folder}/')}") from None
    part = find("diffusion")(
        domains=names, net=_told(net, process), process=process, prediction=prediction, times="uniform",
        channels=net.channels, any_domain=0.0,
    )  # fmt: skip
    widths = ", ".join(map(str, net.config["block_out_channels"]))
    said = [
        f"a diffusion model of {in_short(names)}: diffusers' UNet2DModel of {widths} channels",
        f"trained on {said_size(sides)} pixels", *words,
    ]  # fmt: skip
    left += [f"its {name} left out" for name in ("clip_sample", "thresholding") if scheduler.get(name)]
    about: dict[str, Any] = {"size": sides[0]}
    if sides[0] != sides[1]:
        about = {"preparation": Preparation(size=sides, channels=net.channels).to_json()}
    return part.eval(), "; ".join([", ".join(said), *left]), about


def network(
    file: Path, config: Mapping[str, Any], weights: Path, state: Mapping[str, Tensor]
) -> tuple[UNet2D, list[str]]:
    """diffusers' network of a config with these weights, and what of both is left out.

    It has no memory before all names and shapes are known to be its own.

    Args:
        file: of the config, as errors name it.
        config: a UNet2DModel's.
        weights: the file of the weights, as errors name it.
        state: what is in it.

    Raises:
        UserError: they do not belong together, or are none of such a network.
    """
    takes = [*signature(library().UNet2DModel.__init__).parameters][1:]
    other = [k for k, v in config.items() if k not in takes and k[:1] != "_" and v is not None]
    left = [f"its {name} left out" for name in other]
    takes.remove("num_class_embeds")
    if config.get("class_embed_type") is not None:
        raise UserError(f"{file}: classes by {config['class_embed_type']!r} are not read: expected a table")
    kept = {k: v for k, v in config.items() if k in takes}
    labels = _classes(config) or 1
    net = built(lambda: UNet2D(config=kept, labels=labels), file, "UNet2DModel", len(state))
    channels, outputs = net.channels, net.model.config.out_channels
    if outputs not in (channels, 2 * channels):
        raise UserError(f"{file} is of {channels} channels and answers with {outputs}: expected as many")
    left += ["its learned variance left out"] if outputs == 2 * channels else []
    rows = "class_embedding.weight"
    shapes = {k: v.shape for k, v in net.model.state_dict().items()}
    width = shapes[rows][1]
    shapes |= {rows: torch.Size((_classes(config), width))}
    state = {rows: torch.zeros(0, width), **state}
    check_shapes(weights, state, shapes, "its UNet2DModel")
    state[rows] = F.pad(state[rows], (0, 0, 0, net.labels + 1 - len(state[rows])))
    full = {k: v.float() for k, v in state.items()}
    check_numbers({f"{weights}: {k}": v for k, v in full.items()})
    net.model.load_state_dict(full, assign=True)
    net.config = {k: net.model.config[k] for k in takes}  # with what it leaves to defaults
    return net, left


def built(make: Callable[[], M], file: Path, what: str, tensors: int) -> M:
    """A network that a config describes, without memory.

    Raises:
        UserError: it describes none, or far more than there are tensors of.
    """
    try:
        with without_values(), at_most(tensors, str(file)):
            return make()
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says to values of the wrong kind
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} does not describe a {what} ({reason})") from None


def config_of(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A file of JSON, in a folder of its own or in this one, and what it says.

    Raises:
        UserError: it is missing, or not what diffusers writes.
    """
    places = folder / name, folder / Path(name).name
    if (file := next(filter(Path.is_file, places), None)) is None:
        raise UserError(f"{folder} is no whole folder of diffusers: it has no {name}")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        said = parse_json(regular(file).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("it holds no names")
    except ValueError as error:
        raise UserError(f"{file} is damaged, or no config of diffusers ({error})") from None
    return file, said


def _classes(config: Mapping[str, Any]) -> int:
    classes = config.get("num_class_embeds") or 0
    check_value("num_class_embeds", classes, Whole)
    return int(classes)


def _sides(file: Path, config: Mapping[str, Any], size: int | None) -> tuple[int, int]:
    """(height, width) of its pictures."""
    said = size or config.get("sample_size")
    sides: Any = said if isinstance(said, list) else [said, said]
    try:
        check_value("sample_size", sides, tuple[TrainingSide, TrainingSide])
    except UserError:
        raise UserError(f"{file} does not say the size of its pictures: add --size N") from None
    return int(sides[0]), int(sides[1])


def _told(net: UNet2D, process: Process) -> Part:
    """The network, told log(sigma/alpha), of what it was told in the training of this process."""
    if isinstance(process, VP):
        return Preconditioned(net=net, kind="vp", process=process)
    return Indexed(net=net, chain=process) if isinstance(process, Chain) else Score(net=net)


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
    check_value("num_train_timesteps", steps, Count)
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


def weights_of(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of a folder's weights, and what is in it, by today's names; safetensors win."""
    shards = sorted(folder.glob(f"{WEIGHTS}-?????-of-?????.safetensors"))
    ways = [[folder / f"{WEIGHTS}{end}"] for end in (".safetensors", ".bin", ".fp16.safetensors")]
    files = next((files for files in (ways[0], shards, *ways[1:]) if files and files[0].is_file()), None)
    if files is None:
        raise UserError(f"{folder} has no {WEIGHTS}.safetensors, nor .bin: copy its weights, too")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_tensors(file) if file.suffix == ".safetensors" else tensors_of(file)
    if "time_proj.weight" in state:
        state.pop("time_proj.W", None)  # the same once more
    old = rf"\.({'|'.join(ATTENTION)})\.(?=weight$|bias$)"
    return files[0], {re.sub(old, lambda m: f".{ATTENTION[m[1]]}.", k): v for k, v in state.items()}
