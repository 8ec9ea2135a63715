"""A diffusion model in two stages, which most recipes share.

Lognormal times learn pictures fast, but hardly see the ends: the largest noise, where DDIB's latents
live, and the least, which is left in backgrounds that ought to be flat.  A shorter second stage at
times uniform in log(sigma/alpha) learns both.
"""

from collections.abc import Mapping

from sfumato.checkpoints.model_folder import load
from sfumato.methods.registry import find
from sfumato.training.train import train


def two_stages(
    data: Mapping[str, str], validation: Mapping[str, str], run: str, first: int, second: int,
    **how: object,
) -> None:  # fmt: skip
    """Trains in RUN_lognormal, then in RUN; resumes whichever was stopped."""
    how = {"validation": validation, "ema": 0.999, "resume": True} | how
    train("diffusion", data, f"{run}_lognormal", steps=first, lr=1e-3, seed=0, **how)
    ends = find("diffusion")(domains=tuple(data), times="log_uniform")
    ends.load_state_dict(load(f"{run}_lognormal").state_dict())
    train(ends, data, run, steps=second, lr=5e-4, seed=1, **how)
