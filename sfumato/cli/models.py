"""The commands about model folders: what one is, one made of others' weights, and one for others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.cli.flags import command, flags
from sfumato.core.ranges import AttentionOrder, Schedule
from sfumato.core.terminal import say

EXPORT = "Write a model as another program reads it."
PUSH = "Upload a model to the Hugging Face Hub, where others name it hf://OWNER/NAME."


def info(folder: str) -> None:
    """Describe a model folder.

    Args:
        folder: a model folder, sfumato/NAME for a model that ships, or hf://OWNER/NAME for one on the Hugging
            Face Hub; FOLDER:DOMAIN checks the domain, too.
    """
    import json

    from sfumato.checkpoints.hub import spelled
    from sfumato.checkpoints.model_folder import denoiser_of, describe_folder, load, resolve
    from sfumato.data.hashing import sha256
    from sfumato.methods.registry import name_of

    path, domain = resolve(folder)
    part = load(path)
    if domain is not None:
        denoiser_of(part, domain, spelled(path))
    facts = {
        "folder": spelled(path), "method": name_of(part), "domains": getattr(part, "domains", None),
        "parameters": f"{sum(p.numel() for p in part.parameters()):,}",
        **describe_folder(path)["info"], "sha256 of weights": sha256(path / "weights.safetensors"),
    }  # fmt: skip
    for key, value in facts.items():
        if value is not None:
            say(f"{key + ':':20}{value if isinstance(value, str) else json.dumps(value)}")


def import_(
    file: str,
    back: str | None = None,
    *,
    out: Path,
    size: int | None = None,
    schedule: Schedule | None = None,
    chain_steps: int | None = None,
    attention_order: AttentionOrder | None = None,
    heads: int | None = None,
    head_channels: int | None = None,
    rescale_timesteps: bool | None = None,
    domains: str | None = None,
    prompts: str | None = None,
) -> None:
    """Make a model folder of weights that others published.

    A generator of CycleGAN, pix2pix or CUT; a denoiser or classifier of improved- or guided-diffusion.

    A denoiser of EDM or of DDIM's code; a folder of diffusers.

    What a published one was trained with is known by its file's name, or recorded. Of others it is asked for.

    Args:
        file: weights, such as 256x256_diffusion.pt, of which only tensors are read; or a folder of diffusers.
        back: weights of a CycleGAN's other generator, for the way back.
        out: the model folder to make.
        size: side in pixels of the pictures that it was trained on, and that it will make.
        schedule: a denoiser's noise schedule (noise_schedule).
        chain_steps: the steps of its schedule (diffusion_steps).
        attention_order: new if it was trained with use_new_attention_order, else old.
        heads: its number of attention heads (num_heads); or:
        head_channels: the channels of each head (num_head_channels).
        rescale_timesteps: it was trained with rescale_timesteps; asked for where the steps are not 1000.
        domains: names of its classes in order, as cat,dog; by default their numbers. One name if it has none.
        prompts: embeddings of prompts, a safetensors file of a domain each, for a U-Net of Stable Diffusion.
    """
    from sfumato.checkpoints.model_folder import save
    from sfumato.checkpoints.published import read_published
    from sfumato.data.folders import for_new_folder
    from sfumato.methods.registry import name_of
    from sfumato.translation.translator import USES

    for_new_folder(out)
    made = read_published(
        file, back, size=size, schedule=schedule, chain_steps=chain_steps, attention_order=attention_order,
        heads=heads, head_channels=head_channels, rescale_timesteps=rescale_timesteps,
        domains=tuple(name.strip() for name in domains.split(",")) if domains else (), prompts=prompts,
    )  # fmt: skip
    save(made.part, out, info=made.info)
    one = len(getattr(made.part, "domains", ())) == 1
    use = "--method sdedit --target {0}" if one else USES.get(name_of(made.part), "--model {0}")
    say(f"{out} holds {made.said}; `sfumato translate PICTURES {use.format(out)} --out RESULTS` uses it")


def export() -> Callable[..., None]:
    """`sfumato export MODEL --to diffusers --out FOLDER`."""
    from sfumato.checkpoints.export import export as write

    return command(lambda model, **given: say(write(model, **given)), EXPORT, flags(write, keyword=("out",)))


def push() -> Callable[..., None]:
    """`sfumato push RUN OWNER/NAME`."""
    from sfumato.checkpoints.upload import push as upload

    def run(run: str, repo: str, **given: Any) -> None:
        from huggingface_hub import constants

        named = upload(run, repo, **given)
        say(f"model.json, weights.safetensors and README.md of {run} are at {constants.ENDPOINT}/{repo}")
        say(f"others name the model hf://{repo}, and as it is now {named}")
        if given.get("license") is None:
            say("without --license NAME, such as apache-2.0, others have no rights to it", file=sys.stderr)

    return command(run, PUSH, flags(upload))
