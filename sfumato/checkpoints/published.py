"""Weights that others published: what a file of them holds, as a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.checkpoints.adapters import no_adapter
from sfumato.checkpoints.ddim import holds_ddim, read_ddim
from sfumato.checkpoints.diffusers_autoencoders import holds_autoencoder, read_autoencoder
from sfumato.checkpoints.diffusers_folders import read_folder
from sfumato.checkpoints.edm import LICENCE, read_edm
from sfumato.checkpoints.foreign import read_generator
from sfumato.checkpoints.guided_diffusion import holds_network, read_model
from sfumato.checkpoints.hub import address
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
    prompts: str | Path | None = None,
) -> Published:
    """The model of published weights.

    Of a file a generator, a denoiser or classifier of guided-diffusion, or a denoiser of EDM or of DDIM's
    code; of a folder of diffusers a denoiser or an autoencoder.

    Args:
        file: the file, of which only tensors are read, or the folder.
        back: weights of a CycleGAN's other generator, for the way back.
        size: side in pixels of the pictures that it was trained on.
        schedule: of a denoiser's betas, see `Trained`, as all that follow.
        chain_steps: number of betas.
        attention_order: of queries, keys and values.
        heads: number of attention heads; or:
        head_channels: channels of each.
        rescale_timesteps: whether it was told steps times 1000/T.
        domains: names of its classes, by default their numbers; one name if it has none.
        prompts: of a folder whose network is told by prompts, a safetensors file of their embeddings
            (tokens, width), named by domains, and of the empty prompt, "any domain".

    Raises:
        UserError: it holds anything else; what a denoiser was trained with is not known; or what is given
            is not for what it holds.
    """
    given = Trained(
        size, schedule, chain_steps, attention_order, heads, head_channels, rescale_timesteps, domains
    )
    if on_hub := address(str(file)):
        raise UserError(
            f"{file} is on the Hub: hf download {on_hub.repo} --local-dir FOLDER fetches it, and FOLDER is "
            f"imported"
        )
    file, info = Path(file), dict[str, Any](imported=Path(file).resolve().name)
    no_adapter(file)
    if prompts is not None and (not file.is_dir() or holds_autoencoder(file)):
        raise UserError(f"{file} holds no network that is told by prompts: leave out {prompts}")
    if file.is_dir():
        if holds_autoencoder(file):
            _takes(file, back, "an autoencoder of diffusers", "size", given)
            part, said, sides = read_autoencoder(file, size)
            return Published(part, said, info | sides)
        _takes(file, back, "a folder of diffusers", "size domains", given)
        part, said, sides = read_folder(file, size, domains, None if prompts is None else Path(prompts))
        return Published(part, said, info | sides)
    if file.suffix == ".pkl":
        _takes(file, back)
        part, said, side = read_edm(file, given)
        return Published(part, said, info | {"size": side, "licence": LICENCE})
    state = tensors_of(file)
    no_adapter(file, state)
    if holds_network(state):
        _takes(file, back)
        part, said, side = read_model(file, state, given)
        return Published(part, said, info | {"size": side})
    if holds_ddim(state):
        _takes(file, back, "a denoiser of DDIM's code", "size schedule chain_steps domains", given)
        part, said, side = read_ddim(file, state, given)
        return Published(part, said, info | {"size": side})
    _takes(file, None, "a generator", "size", given)
    part, said = read_generator(file, back, state)
    return Published(part, said, info | ({"size": size} if size else {}))


def _takes(
    file: Path, back: str | Path | None, what: str = "", names: str = "", given: Trained | None = None
) -> None:
    """Sees that nothing is given but what is asked of such a file: it is `what`, which has these `names`.

    Raises:
        UserError: it is.
    """
    if back is not None:
        raise UserError(f"{file} is no generator, and has no way back: leave out {back}")
    if given and (other := sorted(given.given().keys() - {*names.split()})):
        flag = f"--{other[0].replace('_', '-')}"
        raise UserError(f"{flag} is not for {what}, as {file} is: leave it out")
