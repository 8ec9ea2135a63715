"""Two coupled chains of two domains, each denoised with the other as its condition (UNIT-DDPM)."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.diffusion.denoiser import Denoiser, Trace, Traced
from sfumato.diffusion.integrate import Solver, dopri5, integrate, named_step
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.watch import Watch


class Chains(Traced):
    """cat(x^B_t, x^A_t) -> E[cat(x^B, x^A) | both]; x^A is known before its release, at no cost.

    Args:
        f_b: denoiser of the result's domain.
        f_a: denoiser of the source's.
        source: images (B, C, H, W) in [-1, 1].
        times: times of the steps.
        release: index of the time at which the source is released; `times[: release + 1]` lead there.
        noise: noise of the run.
    """

    def __init__(
        self, f_b: Denoiser, f_a: Denoiser, source: Tensor, times: Tensor, release: int, noise: Noise
    ) -> None:
        self.f_b, self.f_a, self.source, self.times = f_b, f_a, source, times
        self.process, self.released = f_b.process, times[release]
        self.fresh, self.noise = noise.stream("source"), noise.stream("steps")
        b = self.process.perturb(torch.zeros_like(source), times[0], noise(source))
        self.start = torch.cat([b, self.process.perturb(source, times[0], self.fresh(source))], 1)

    def __call__(self, both: Tensor, t: Tensor | float, trace: Trace | None = None) -> Tensor:
        b, a = both.chunk(2, 1)
        free = bool(t <= self.released)
        if trace is not None:
            trace.nfe += free
        known = self.f_a(a, t, image=b) if free else self.source
        return torch.cat([self.f_b(b, t, image=a), known], 1)

    @torch.no_grad()
    def run(
        self, both: Tensor, times: Tensor, solver: Solver = "ancestral", watch: Watch | None = None
    ) -> Tensor:
        """The state (B, 2 C, H, W) carried along these times.

        Raises:
            UserError: for dopri5, which chooses the times of each image.
        """
        if named_step(solver) is dopri5:
            raise UserError("both chains take the same steps, and dopri5 chooses its own: use heun")
        return integrate(solver, self, both, times, noise=self.noise, after=self.renoise, watch=watch)

    def renoise(self, both: Tensor, s: Tensor) -> Tensor:
        """x^A_s is the source with fresh noise, down to the release."""
        if s < self.released:
            return both
        a = self.process.perturb(self.source, s, self.fresh(self.source))
        return torch.cat([both.chunk(2, 1)[0], a], 1)
