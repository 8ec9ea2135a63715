"""The only training loop.  It knows players and losses, and no method.

A method's `objectives` yields (player, loss); the loop minimises each loss over that player's parameters
alone.  GANs, minimax transport and plain denoising share it.  Everything random in step n comes from
(seed, n), so a run that was killed and restored ends with the bits of one that was not.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sfumato.checkpoints.tensors import unique_state
from sfumato.core.errors import UserError
from sfumato.core.options import told_by
from sfumato.diffusion.noise import stable_hash
from sfumato.methods._shared.memory import acting
from sfumato.methods.registry import Diverged as Diverged
from sfumato.module import Part
from sfumato.training.options import LoopOptions
from sfumato.training.processes import mean, together

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sfumato.methods.registry import Trainable

Batches = Iterator[tuple[Tensor, Tensor]]


class Update(NamedTuple):
    """What one step did: its number (from 1), each player's loss, and the learning rate."""

    step: int
    losses: dict[str, float]
    lr: float


class State:
    """All that training changes: weights, their moving average, optimisers, and the step count."""

    def __init__(
        self,
        method: Part,
        optimiser: Literal["adamw", "adam"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        self.method, self.step = method, 0
        self.ema = {k: v.clone() for k, v in self._floats().items()}
        self._make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimiser]
        self._options = {"betas": betas, "weight_decay": weight_decay, "fused": True}
        self._optimisers: dict[str, torch.optim.Optimizer] = {}

    def optimiser(self, player: str) -> torch.optim.Optimizer:
        """The player's optimiser, made when the player first appears."""
        if player not in self._optimisers:
            parameters = self.method.get_submodule(player).parameters()
            self._optimisers[player] = self._make(parameters, **self._options)
        return self._optimisers[player]

    def average(self, decay: float) -> None:
        """Ema <- decay ema + (1 - decay) weights, with the warm-up (1 + n) / (10 + n)."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        now = self._floats()
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        update([self.ema[k] for k in now], list(now.values()), 0)

    @contextmanager
    def averaged(self) -> Iterator[Part]:
        """The method in evaluation mode with the averaged weights, for previews and scores."""
        own = self.method.state_dict(keep_vars=True)
        with acting(self.method, [own[k] for k in self.ema], self.ema.values()):
            yield self.method

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, to be saved; `restore` takes them back."""
        out = {f"weights/{k}": v for k, v in unique_state(self.method).items()}
        out |= {f"ema/{k}": v for k, v in self.ema.items()}
        kept = self.method.state_dict(keep_vars=True)  # what else it remembers is training's alone
        buffers = self.method.named_buffers(remove_duplicate=False)  # two may share one tensor,
        out |= {f"memory/{k}": v.clone() for k, v in buffers if k not in kept}  # a file may not
        for player, optimiser in self._optimisers.items():
            for i, values in optimiser.state_dict()["state"].items():
                out |= {f"optimiser/{player}/{i}/{k}": v for k, v in values.items()}
        return out

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Takes back what `tensors` gave; keeps none of them, which may be views of a file.

        Raises:
            UserError: if they are of another model.
        """
        ours = {f"weights/{k}": v for k, v in unique_state(self.method).items()}
        ours |= {f"ema/{k}": v for k, v in self.ema.items()}
        theirs = {k: v.shape for k, v in tensors.items() if k.startswith(("weights/", "ema/"))}
        if {k: v.shape for k, v in ours.items()} != theirs:
            raise UserError("the saved training is of another model; choose another --out")
        with torch.no_grad():
            for k, v in ours.items():
                v.copy_(tensors[k])
        for key, value in tensors.items():
            if key.startswith("memory/"):
                module, _, name = key.removeprefix("memory/").rpartition(".")
                value = value.clone().to(next(self.method.parameters()).device)
                self.method.get_submodule(module).register_buffer(name, value, persistent=False)
        saved: dict[str, dict[int, dict[str, Tensor]]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser/"):
                _, player, i, name = key.split("/")
                saved.setdefault(player, {}).setdefault(int(i), {})[name] = value.clone()
        for player, per_parameter in saved.items():
            optimiser = self.optimiser(player)
            optimiser.load_state_dict(optimiser.state_dict() | {"state": per_parameter})
        self.step = step

    def check(self) -> None:
        """Weights and averages are finite.

        Raises:
            Diverged: if not.
        """
        values = [*self._floats().values(), *self.ema.values()]
        if not torch.stack([v.isfinite().all() for v in values]).all():
            raise Diverged(f"weights became infinite at step {self.step}")

    def running(self) -> list[Tensor]:
        """Running averages of batch norms."""
        norms = [m for m in self.method.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        return [v for m in norms for v in (m.running_mean, m.running_var) if v is not None]

    def _floats(self) -> dict[str, Tensor]:
        """What changes; a codec that never learns needs no average."""
        still = {k for k, v in self.method.named_parameters(remove_duplicate=False) if not v.requires_grad}
        state = unique_state(self.method).items()
        return {k: v for k, v in state if v.is_floating_point() and k not in still}

    def finish(self) -> Part:
        """The method with its averaged weights, in evaluation mode."""
        with torch.no_grad():
            for k, v in self._floats().items():
                v.copy_(self.ema[k])
        return self.method.eval()


@dataclass(frozen=True, eq=False)
class FitOptions(LoopOptions):
    """What `fit` is told.

    Args:
        state: what is trained; changed in place.
        batches: from micro-batch number `state.step * accumulate` on.
        accelerator: devices, precision and processes, see `machine`; the CPU in fp32 by default.
    """

    state: State
    batches: Batches
    _: KW_ONLY
    accelerator: Any = None


@told_by(FitOptions)
def fit(told: FitOptions) -> Iterator[Update]:
    """Trains from `state.step` to `steps`, and hands out an `Update` after each step.

    Raises:
        UserError: for a number that is out of its range.
        Diverged: if a loss is not finite.
    """
    state, accumulate = told.state, told.accumulate
    accelerator: Accelerator = told.accelerator or machine("cpu")
    method: Trainable = state.method
    state.method.train()
    while state.step < told.steps:
        rate = told.lr * learning_rate(state.step, told.steps, told.schedule, told.warmup, told.hold)
        losses: dict[str, float] = {}
        getattr(method, "begin_step", lambda: None)()
        for micro in range(accumulate):
            place = f"{told.seed}/{state.step}/{micro}/{accelerator.process_index}"
            with _drawing(place) as rng:
                for player, loss in _losses(method.objectives(told.batches, rng), accelerator):
                    value = mean(loss.detach(), accelerator)
                    check_losses({player: value}, f"at step {state.step + 1}")
                    losses[player] = losses.get(player, 0.0) + value / accumulate
                    learning = state.method.get_submodule(player).parameters()
                    parameters = [p for p in learning if p.requires_grad]
                    accelerator.backward(loss / accumulate, inputs=parameters)
                    if micro == accumulate - 1:
                        _step(state.optimiser(player), parameters, rate, told.clip, accelerator)
        if accelerator.num_processes > 1:  # each has seen its share of the batch
            for v in state.running():
                v.copy_(accelerator.reduce(v, "mean"))
        state.step += 1
        state.average(told.ema)
        yield Update(state.step, losses, rate)


def learning_rate(step: int, steps: int, schedule: str, warmup: int, hold: float = 0.0) -> float:
    """The factor on the learning rate at a step (from 0): linear warm-up, 1, then the schedule."""
    if step < warmup:
        return (step + 1) / warmup
    done = max(0.0, (step - warmup) / max(1, steps - warmup) - hold) / (1 - hold)
    return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[schedule]


def check_losses(losses: Mapping[str, float], when: str) -> None:
    """Losses of the players are finite.

    Raises:
        Diverged: if not.
    """
    for player, value in losses.items():
        if not math.isfinite(value):
            raise Diverged(f"the loss of {player} became {value} {when}")


def machine(device: Literal["auto", "cpu"], precision: Literal["no", "bf16"] = "no") -> Accelerator:
    """Device, precision and processes of a training.

    Raises:
        UserError: for several processes on a CPU.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    several = any(int(os.environ.get(k) or 1) > 1 for k in WORLD)
    if several and (device == "cpu" or not torch.cuda.is_available()):
        raise UserError(
            "on a CPU a training runs in one process, which uses all cores: start it without "
            "torchrun or mpirun"
        )
    AcceleratorState._reset_state(reset_partial_state=True)  # that of an earlier training
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


WORLD = "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"
"""Where launchers say how many processes they started."""


@contextmanager
def _drawing(place: str) -> Iterator[torch.Generator]:
    """A generator for this place in the training; torch's own, too, which dropout draws from."""
    number = stable_hash(place.encode())
    with seeded(number):
        yield torch.Generator().manual_seed(number)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seeds torch's own generator, and puts it back.  All threads have this one: trainings take turns."""
    with _TURN, torch.random.fork_rng():
        torch.manual_seed(number)
        yield


_TURN = threading.RLock()


def _losses(losses: Iterator[tuple[str, Tensor]], accelerator: Accelerator) -> Iterator[tuple[str, Tensor]]:
    """Each loss, made inside autocast: backward and the optimiser's step are outside.

    Autocast keeps weights that it has rounded until it is left; the next player would be shown those
    from before the step.
    """
    while True:
        with together(accelerator), accelerator.autocast():
            made = next(losses, None)
        if made is None:
            return
        yield made


def _step(
    optimiser: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    lr: float,
    clip: float,
    accelerator: Accelerator,
) -> None:
    if accelerator.num_processes > 1:
        for p in parameters:
            if p.grad is not None:
                p.grad = accelerator.reduce(p.grad, "mean")
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if not norm.isfinite():
        raise Diverged(f"a gradient became {norm.item()}")
    for group in optimiser.param_groups:
        group["lr"] = lr
    # the fused step divides each gradient by this as it reads it: min(1, clip / norm), in the same pass
    optimiser.grad_scale = (norm / clip).clamp(min=1) if clip else None  # type: ignore[attr-defined]
    optimiser.step()
    optimiser.zero_grad()
