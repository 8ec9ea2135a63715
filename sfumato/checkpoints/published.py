"""Weights that others published: what a file of them holds, as a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.checkpoints.edm import LICENCE, read_edm
from sfumato.checkpoints.foreign import read_generator
from sfumato.checkpoints.guided_diffusion import holds_network, read_model
from sfumato.checkpoints.known_files import Trained
from sfumato.checkpoints.torch_files import tensors_of
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import AttentionOrder, Count, Schedule, TrainingSide
from sfumato.module import Part


@dataclass(frozen=True)
class Published:
    """A model of published weights.

    Attributes:
        part: the model.
        said: what it was found to be.
        info: what its folder says of it, see `sfumato.save`.
    """

    part: Part
    said: str
    info: dict[str, Any]


@checked
def read_published(
    file: str | Path,
    back: str | Path | None = None,
    *,
    size: TrainingSide | None = None,
    schedule: Schedule | None = None,
    chain_steps: Count | None = None,
    attention_order: AttentionOrder | None = None,
    heads: Count | None = None,
    head_channels: Count | None = None,
    rescale_timesteps: bool | None = None,
    domains: tuple[str, ...] = (),
) -> Published:
    """The model of a file: a generator, a denoiser or classifier of guided-diffusion, or one of EDM's.

    Args:
        file: the weights; only tensors are read.
        back: weights of a CycleGAN's other generator, for the way back.
        size: side in pixels of the pictures that it was trained on.
        schedule: of a denoiser's betas, see `Trained`, as all that follow.
        chain_steps: number of betas.
        attention_order: of queries, keys and values.
        heads: number of attention heads; or:
        head_channels: channels of each.
        rescale_timesteps: whether it was told steps times 1000/T.
        domains: names of its classes, by default their numbers; one name if it has none.

    Raises:
        UserError: it holds anything else; what a denoiser was trained with is not known; or what is given
            is not for what it holds.
    """
    given = Trained(
        size, schedule, chain_steps, attention_order, heads, head_channels, rescale_timesteps, domains
    )
    info: dict[str, Any] = {"imported": Path(file).name}
    pickled = Path(file).suffix == ".pkl"  # of EDM
    state = {} if pickled else tensors_of(file)
    if pickled or holds_network(state):
        if back is not None:
            raise UserError(f"{file} is no generator, and has no way back: leave out {back}")
        part, said, side = read_edm(file, given) if pickled else read_model(file, state, given)
        return Published(part, said, info | {"size": side} | ({"licence": LICENCE} if pickled else {}))
    if other := sorted(given.given().keys() - {"size"}):
        flag = f"--{other[0].replace('_', '-')}"
        raise UserError(f"{flag} is for networks of guided-diffusion, and {file} is none: leave it out")
    part, said = read_generator(file, back, state)
    return Published(part, said, info | ({"size": size} if size else {}))
