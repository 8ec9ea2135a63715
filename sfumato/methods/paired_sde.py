"""Paired score-SDE translation (Srivastava 2022, algs. 5 and 6), after https://arxiv.org/abs/2011.13456.

Two conditional denoisers are trained together on pairs (x, y), one for each direction:

    L = E |s F_y(y_t, x, t) - ...|^2 + E |s F_x(x_t, y, t) - ...|^2,   one t and one z for both terms,

which for prediction="eps" is the thesis' mean |sigma score + z|^2.  Translation samples y ~ p(y | x) by
the reverse SDE or its ODE from noise, conditioned on x at every step; the network sees cat(noisy, x).

@mastersthesis{srivastava2022investigating,
  title = {Investigating Novel Methods to Perform Image-to-Image Translation},
  author = {Srivastava, Ishan},
  school = {Durham University},
  year = {2022}
}
@inproceedings{song2021scorebased,
  title = {Score-Based Generative Modeling through Stochastic Differential Equations},
  author = {Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and
            Ermon, Stefano and Poole, Ben},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  url = {https://arxiv.org/abs/2011.13456}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import BelowOne, Count, NotNegative, Steps, Whole
from sfumato.diffusion.denoiser import Denoiser, Prediction, TimeLaw
from sfumato.diffusion.guidance import Conditioned, away_from_none, needs_hidden, sampled
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, named_process
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.sizes import make_net


class PairedSDE(Part):
    """Both directions of a paired translation, one conditional denoiser each.

    Args:
        net: size of each network: tiny, small (1 M parameters), medium, large, thesis (58 M).
        process: noising process: cosine, vp (the thesis'), ddpm, iddpm, ve or flow.
        prediction: what the networks predict: v, eps (the thesis'), x0 or edm.
        times: law of the training times: wide or lognormal in sigma/alpha, or uniform in t (the thesis').
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        drop_condition: share of conditioning images that are hidden; above 0 the model can be guided
            without a classifier.
        to_channels: channels of the targets; 0: as many.
    """

    data: ClassVar[str] = "pairs"

    net: str | nn.Module = "small"
    process: str | Process = "cosine"
    prediction: Prediction = "v"
    times: TimeLaw = "wide"
    channels: Count = 3
    drop_condition: BelowOne = 0.0
    to_channels: Whole = 0

    def __post_init__(self) -> None:
        process = named_process(self.process)

        def denoiser(channels: int, shown: int) -> Denoiser:
            net = make_net(self.net, conditioning=shown, channels=channels, copied=True)  # one network each
            return Denoiser(net=net, process=process, prediction=self.prediction, times=self.times)

        own, to = self.channels, self.to_channels or self.channels
        self.denoisers = nn.ModuleDict({"target": denoiser(to, own), "source": denoiser(own, to)})

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        to_y, to_x = self._denoiser("target"), self._denoiser("source")
        t = to_y.draw_times(len(x), rng)
        z = torch.randn(x.shape, generator=rng).to(x)
        z_y = z if y.shape == x.shape else torch.randn(y.shape, generator=rng).to(y)
        shown: Any = 1
        if self.drop_condition:
            shown = (torch.rand(len(x), 1, 1, 1, generator=rng) >= self.drop_condition).to(x)
        yield "denoisers.target", to_y.loss(y, t, z_y, image=shown * x)
        yield "denoisers.source", to_x.loss(x, t, z, image=shown * y)

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 18,
        solver: Solver = "sde_dpm2m",
        spacing: Spacing = "karras",
        clip: bool = False,
        classifier_free: NotNegative = 0.0,
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the other domain given each.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples of the same posterior.
            watch: see `integrate`.
            direction: source-to-target, or back.
            steps: solver steps.
            solver: what takes the steps; the thesis' is euler_maruyama, with spacing time.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
            clip: clip E[x | x_t] to [-1, 1] at every step.
            classifier_free: weight w of guidance by the source, (1 + w) F - w F_0 with F_0 the
                denoiser of a hidden one, for models trained with null above 0. 0 is none; above 0 a
                step costs two evaluations.
        """
        needs_hidden(classifier_free, self.drop_condition)
        given = Conditioned(denoiser=self._denoiser(end(direction)))
        f = away_from_none(given, source, given, classifier_free)
        made = self.channels if end(direction) == "source" else self.to_channels or self.channels
        like = source.new_empty(len(source), made, *source.shape[2:])
        how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing, "clip": clip}
        return sampled(f, like, Noise.of(source, seed), watch=watch, **how)

    def _denoiser(self, which: str) -> Denoiser:
        denoiser = self.denoisers[which]
        assert isinstance(denoiser, Denoiser)
        return denoiser
