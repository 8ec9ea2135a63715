"""`integrate` with exact gradients, in memory that does not grow with the network's activations.

Backpropagation through N steps keeps N networks' worth of activations.  Here the forward pass keeps the
states x_k and what the denoiser said there, and the backward pass runs the adjoint of the loop: from the
last step to the first it takes step k once more, with a graph, and pulls the gradients of x_{k+1} and of
point k (which later steps of a multi-step solver have used) back through it,

    (dL/dx_k, dL/dpoint_{k-1}, dL/dpoint_{k-2}, dL/dtheta) += J_k^T (dL/dx_{k+1}, dL/dpoint_k).

These are the gradients of the discrete steps taken, not of the ODE between them: equal to plain
backpropagation up to rounding.  Noise is kept as the place where its streams stand, and drawn again.
Checkpoints in sqrt(N) segments: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from sfumato.denoiser import Denoises
from sfumato.errors import UserError, choose
from sfumato.noise import Noise
from sfumato.solve import Counted, Point, Step, checked, integrate, named_step, take

Keep = Literal["states", "segments"]


def integrate_flat(
    step: Step | str,
    denoiser: Denoises | Callable[..., Denoises],
    x: Tensor,
    times: Tensor,
    *,
    noise: Noise | None = None,
    condition: Sequence[Tensor] = (),
    keep: Keep = "states",
    last: int | None = None,
) -> Tensor:
    """`integrate` with the same result and the same gradients, at one network's memory.

    Gradients reach x, the denoiser's parameters and `condition`:

        integrate_flat("ancestral", Conditioned(denoiser=f).on, x, times, noise=noise, condition=(image,))

    The denoiser must answer the same when it is asked again; dropout is drawn again as it was.

    Args:
        step: a step, or its name in `STEPS`; any solver, deterministic or stochastic.
        denoiser: (x_t, t) -> E[x | x_t], with a `.process`; with `condition`, the function of it that
            makes one.
        x: states (B, ...) at times[0].
        times: N + 1 times for N steps, see `integrate`.
        noise: the noise of stochastic steps.
        condition: tensors that the denoiser reads, such as a conditioning image.
        keep: what the forward pass keeps. states: all N, two images each, and N evaluations more in
            the backward pass; segments: about sqrt(N) of them, and 2N evaluations more.
        last: gradients of the last so many steps only, at least 1 (None: of all). What comes before
            counts as constant, and so does x if that is anything.

    Returns:
        States (B, ...) at times[-1].

    Raises:
        UserError: as `integrate` does, for an unknown keep, a last below 1, or a tensor that wants a
            gradient and hangs on the denoiser without being in `condition`.
    """
    choose("keep", keep, get_args(Keep))
    if last is not None and last < 1:
        raise UserError(f"last must be at least 1, or None for all steps, not {last}")
    # leaves: behind a condition there may be a graph that the adjoint must not enter
    leaves = [v.detach().requires_grad_(v.requires_grad) for v in condition]
    f: Any = denoiser(*leaves) if condition else denoiser
    modules = list(f.modules()) if isinstance(f, nn.Module) else []
    parameters = [p for p in f.parameters() if p.requires_grad] if modules else []
    for name, v in (item for m in modules for item in vars(m).items()):
        if isinstance(v, Tensor) and v.requires_grad and not any(v is leaf for leaf in leaves):
            raise UserError(
                f"the denoiser's {name} wants a gradient: give condition=({name},) and, for the "
                "denoiser, a function of it, such as Conditioned(...).on"
            )
    sources = [*parameters, *(v for v in leaves if v.requires_grad)]
    if not torch.is_grad_enabled() or not (sources or x.requires_grad):
        return integrate(step, f, x, times, noise=noise)
    times = checked(times, f.process).to(x.device)
    loop = _Loop(named_step(step), Counted(f), times, noise, sources, keep, last)
    given = [*parameters, *(v for v in condition if v.requires_grad)]
    result: Tensor = _Adjoint.apply(loop, x, *given)  # type: ignore[no-untyped-call]
    return result


class _State(NamedTuple):
    """All that step k depends on."""

    k: int
    x: Tensor
    past: list[Point]
    noise: Noise | None
    rng: Tensor  # torch's own generators, for dropout
    rng_of_devices: Any


class _Loop:
    """The steps of one call, and the states that it keeps."""

    def __init__(
        self, step: Step, f: Counted, times: Tensor, noise: Noise | None,
        sources: Sequence[Tensor], keep: Keep, last: int | None,
    ) -> None:  # fmt: skip
        self.step, self.f, self.times, self.noise, self.sources = step, f, times, noise, sources
        self.n = len(times) - 1
        self.first = max(self.n - last, 0) if last else 0
        self.segment = 1 if keep == "states" else math.isqrt(self.n - self.first - 1) + 1
        self.kept: list[_State] = []
        device = times.device.type
        self.autocast = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        )

    def states(self, k: int, x: Tensor, past: list[Point], noise: Noise | None) -> Iterator[_State]:
        """The states from this one to the end."""
        while True:
            devices = get_device_states(x)
            yield _State(k, x, past, noise and noise.clone(), torch.get_rng_state(), devices)
            if k == self.n:
                return
            past, x = take(self.step, self.f, past, x, self.times[k], self.times[k + 1], noise)
            past, k = past[-2:], k + 1

    def forward(self, x: Tensor) -> Tensor:
        for state in self.states(0, x.detach(), [], self.noise):
            if self.first <= state.k < self.n and (state.k - self.first) % self.segment == 0:
                self.kept.append(state)
        return state.x

    def backward(self, g: Tensor) -> tuple[Tensor, list[Tensor]]:
        """dL/dx_first and dL/dsources, from g = dL/dx_N."""
        totals = [torch.zeros_like(v) for v in self.sources]
        owed: dict[float, tuple[Tensor, Tensor]] = {}  # dL/d(x, mean) of points, by their times
        for mark in reversed(self.kept):
            with self._again(mark) as start:
                run = self.states(start.k, start.x, start.past, start.noise)
                segment = list(islice(run, min(self.segment, self.n - mark.k)))
            for state in reversed(segment):
                g, shares = self._pull_back(state, g, owed)
                for total, share in zip(totals, shares, strict=True):
                    total += share
        return g, totals

    def _pull_back(
        self, state: _State, g: Tensor, owed: dict[float, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """dL/dx_k and step k's share of dL/dsources; what it owes to earlier points is put down."""
        with self._again(state) as start, torch.enable_grad():
            x = _leaf(start.x)
            earlier = [p._replace(x=_leaf(p.x), mean=_leaf(p.mean)) for p in start.past]
            times = self.times[start.k], self.times[start.k + 1]
            past, end = take(self.step, self.f, earlier, x, *times, start.noise)
        now, zeros = past[-1], torch.zeros_like(x)
        pulls = zip(
            (end, now.x, now.mean), (g, *owed.pop(now.t.item(), (zeros, zeros))), strict=True
        )
        ends, pulls_on_them = zip(*((y, pull) for y, pull in pulls if y.requires_grad), strict=True)
        points = [v for p in earlier for v in (p.x, p.mean)]
        g, *shares = torch.autograd.grad(
            ends,
            [x, *points, *self.sources],
            pulls_on_them,
            allow_unused=True,
            materialize_grads=True,
        )
        for p in earlier:
            a, b = owed.get(p.t.item(), (zeros, zeros))
            owed[p.t.item()] = a + shares.pop(0), b + shares.pop(0)
        return g, tuple(shares)

    @contextmanager
    def _again(self, state: _State) -> Iterator[_State]:
        """The surroundings in which the forward pass met this state; its noise may be drawn from."""
        devices = [state.x.device] if state.x.is_cuda else []
        with torch.random.fork_rng(devices), self.autocast:
            torch.set_rng_state(state.rng)
            set_device_states(*state.rng_of_devices)
            yield state._replace(noise=state.noise and state.noise.clone())


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


class _Adjoint(torch.autograd.Function):
    """The loop as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, loop: _Loop, x: Tensor, *given: Tensor) -> Tensor:
        ctx.loop = loop
        ctx.save_for_backward(x, *given)  # so that torch notices changes made in place
        return loop.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if one of them has changed
        start, totals = ctx.loop.backward(g)
        return None, None if ctx.loop.first else start, *totals
