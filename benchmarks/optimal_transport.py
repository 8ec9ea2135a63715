"""Do the optimal-transport methods reach the known plans between Gaussians?

    python benchmarks/optimal_transport.py [--threads 1] [--only strong weak entropic figure] [--fast]

Truths are closed forms by POT. Networks are perceptrons that know nothing of Gaussians; the
training is `fit`'s, with k = 1 or 3 and Adam's beta1 = 0.5: with the papers' 10 and 0.9 the two players
circle for long, the noise of weak NOT most of all. L2-UVP = 100 |T - T*|^2 / Var(target); BW2-UVP =
100 BW / (tr S / 2) with BW half the squared Bures-Wasserstein distance, of the target or of the joint
law of source and result. The figure docs/pictures/transport.png shows DDIB with exact denoisers beside
trained NOT.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ot
import torch
from measure import write_result
from scipy.linalg import sqrtm
from scipy.optimize import fsolve
from torch import Tensor, nn

from sfumato.diffusion.exact import Gaussian
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.training.fit import State, fit

PICTURE = Path(__file__).parents[1] / "docs/pictures/transport.png"
Row = dict[str, object]


class Perceptron(nn.Module):
    """x (and a time) through two hidden layers, plus a linear map."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, outputs),
        )  # fmt: skip
        self.line = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        x = x if time is None else torch.cat([x, time[:, None] / 4], 1)
        return self.body(x) + self.line(x)


def covariance(dim: int, seed: int) -> np.ndarray:
    """Random axes, eigenvalues from 1/2 to 2 on a logarithmic scale."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return q * np.geomspace(0.5, 2, dim) @ q.T


def draws(s: np.ndarray, n: int, g: torch.Generator) -> Tensor:
    root = torch.from_numpy(np.linalg.cholesky(s)).float()
    return torch.randn(n, len(s), generator=g) @ root.T


def batches(s0: np.ndarray, s1: np.ndarray, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    while True:
        yield draws(s0, n, g), draws(s1, n, g)


def trained(part: Part, s0: np.ndarray, s1: np.ndarray, steps: int, lr: float, n: int) -> float:
    """Trains it, leaves the averaged weights in it, and gives the seconds it took."""
    state, start = State(part, "adam", (0.5, 0.999)), time.perf_counter()
    for _ in fit(state, batches(s0, s1, n), steps=steps, lr=lr, warmup=0, clip=0, ema=0.995):
        pass
    state._put(state.ema)
    part.eval()
    return time.perf_counter() - start


def monge(s0: np.ndarray, s1: np.ndarray) -> np.ndarray:
    zero = np.zeros(len(s0))
    return ot.gaussian.bures_wasserstein_mapping(zero, zero, s0, s1)[0]


def uvp(found: Tensor, want: Tensor, s1: np.ndarray) -> float:
    return 100 * (found - want).square().sum(1).mean().item() / float(np.trace(s1))


def bw_uvp(found: np.ndarray, want: np.ndarray) -> float:
    zero = np.zeros(len(want))
    tiny = 1e-9 * np.eye(len(want))  # a plan without noise has a singular covariance
    distance = ot.gaussian.bures_wasserstein_distance(zero, zero, found + tiny, want + tiny)
    return float(100 * distance**2 / np.trace(want))


def strong(s0: np.ndarray, s1: np.ndarray, steps: int, lr: float, width: int) -> tuple[Part, float]:
    torch.manual_seed(0)
    dim = len(s0)
    nets = {"net": Perceptron(dim, dim, width), "critic": Perceptron(dim, 1, width)}
    part = find("neural_ot")(**nets, k_t=3, reach=0)
    return part, trained(part, s0, s1, steps, lr, 256)


def strong_rows(fast: bool) -> list[Row]:
    rows: list[Row] = []
    for dim, width, steps in ((2, 32, 3000), (16, 64, 6000)):
        s0, s1 = covariance(dim, 1), covariance(dim, 2)
        steps = steps // 20 if fast else steps
        part, seconds = strong(s0, s1, steps, 3e-3, width)
        x = draws(s0, 10000, torch.Generator().manual_seed(5))
        found = part.translate(x, as_is=True)  # type: ignore[operator]
        rows.append({
            "dimensions": dim, "hidden": width, "steps": steps,
            "L2-UVP % (wanted: at most 2)": uvp(found, x @ torch.from_numpy(monge(s0, s1)).float().T, s1),
            "L2-UVP % of x unchanged": uvp(x, x @ torch.from_numpy(monge(s0, s1)).float().T, s1),
            "BW2-UVP % of the target": bw_uvp(np.cov(found.T.numpy()), s1), "seconds": seconds,
        })  # fmt: skip
    return rows


def weak_rows(fast: bool) -> list[Row]:
    rows: list[Row] = []
    for gamma, s in ((0.66, 2.0), (0.66, 1.2), (1.0, 2.0)):
        torch.manual_seed(0)
        steps = 150 if fast else 3000
        part = find("neural_ot")(
            net=Perceptron(2, 1, 32), critic=Perceptron(1, 1, 32), cost="weak", gamma=gamma,
            gamma_warmup=steps // 24, z_std=1.0, k_t=1, reach=0,
        )  # fmt: skip
        s0, s1 = np.eye(1), np.eye(1) * s**2
        seconds = trained(part, s0, s1, steps, 3e-3, 512)
        x = draws(s0, 20000, torch.Generator().manual_seed(5))
        y = part.translate(x, as_is=True)
        slope = ((x * y).mean() / x.square().mean()).item()
        want = min(1 / gamma, s)
        rows.append({
            "gamma": gamma, "s1 / s0": s, "steps": steps, "slope": slope, "wanted": want,
            "noise variance": (y - slope * x).var().item(), "wanted ": s**2 - want**2,
            "seconds": seconds,
        })  # fmt: skip
    return rows


def entropic_rows(fast: bool) -> list[Row]:
    rows: list[Row] = []
    s0, s1, eye = covariance(2, 1), covariance(2, 2), np.eye(2)
    root = sqrtm(s0)
    for epsilon, n_steps in ((0.0, 10), (1.0, 20), (10.0, 200)):  # the error is ~ epsilon / N
        torch.manual_seed(0)
        steps = 75 if fast else 3000
        part = find("entropic_ot")(
            net=Perceptron(3, 2, 32), critic=Perceptron(2, 1, 32), epsilon=epsilon, n_steps=n_steps,
            epsilon_warmup=steps // 30, k_t=3, reach=0, noisy_end=True,
        )  # fmt: skip
        seconds = trained(part, s0, s1, steps, 3e-3, 512)
        d = sqrtm(4 * root @ s1 @ root + epsilon**2 * eye)
        c = (root @ d @ np.linalg.inv(root) - epsilon * eye).real / 2
        way: list[float] = []

        def watch(u: float, x: Tensor, mean: Tensor, extras: object) -> None:
            t = 1 - u
            between = (1 - t) ** 2 * s0 + t**2 * s1 + t * (1 - t) * (c + c.T + epsilon * eye)  # noqa: B023
            way.append(bw_uvp(np.cov(x.T.numpy()), between))  # noqa: B023

        g = torch.Generator().manual_seed(5)
        x = draws(s0, 1_000_000, g)
        with torch.no_grad():
            y = part.path(x, lambda like: torch.randn(like.shape, generator=g), watch)[0]  # noqa: B023
        joint = np.cov(torch.cat([x, y], 1).T.numpy())
        rows.append({
            "epsilon": epsilon, "N": n_steps, "steps": steps,
            "error of C, % (wanted: at most 5)":
                100 * float(np.linalg.norm(joint[:2, 2:] - c) / np.linalg.norm(c)),
            "of the best N steps": 100 * float(np.linalg.norm(plan_of_steps(s0, s1, epsilon, n_steps) - c))
            / float(np.linalg.norm(c)),
            "BW2-UVP % of the plan": bw_uvp(joint, np.block([[s0, c], [c.T, s1]])),
            "of the target": bw_uvp(joint[2:, 2:], s1), "worst on the way": max(way),
            "seconds": seconds,
        })  # fmt: skip
    return rows


def plan_of_steps(s0: np.ndarray, s1: np.ndarray, epsilon: float, n: int) -> np.ndarray:
    """Cov(x_0, x_1) of the cheapest N steps x + v dt + sqrt(epsilon dt) z from N(0, s0) to N(0, s1).

    Linear-quadratic control with a terminal cost x_1' L x_1: the backward recursion gives v = -K x, and L
    is what makes Cov(x_1) = s1, followed from epsilon = 0 on.
    """
    eye, dt, last = np.eye(len(s0)), 1 / n, np.triu_indices(len(s0))

    def path(terms: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
        p, gains = np.zeros_like(s0), []
        p[last] = terms
        p = p + np.triu(p, 1).T
        for _ in range(n):
            k = np.linalg.solve(eye + p * dt, p)
            f = eye - k * dt
            p = dt * k.T @ k + f.T @ p @ f
            gains.append(f)
        s = cross = s0
        for f in reversed(gains):
            s, cross = f @ s @ f.T + noise * dt * eye, cross @ f.T
        return s, cross

    terms = np.zeros(len(last[0]))
    for noise in np.linspace(0, epsilon, 1 + int(np.ceil(epsilon))):
        terms = fsolve(lambda t: (path(t, noise)[0] - s1)[last], terms)  # noqa: B023
    return path(terms, epsilon)[1]


def figure_rows(fast: bool) -> list[Row]:
    """DDIB and NOT where covariances commute and where they do not."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    turn = np.array([[1, -1], [1, 1]]) / 2**0.5
    first = np.diag([1.5, 0.3])
    angle = torch.linspace(0, 2 * np.pi, 25)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    rows: list[Row] = []
    cases = {"covariances commute": np.diag([0.4, 1.2]), "they do not": turn @ first @ turn.T}
    for axes, (name, s1) in zip(figure.subplots(1, 2), cases.items(), strict=True):
        part, _ = strong(first, s1, 150 if fast else 3000, 3e-3, 32)
        ends = [Gaussian(torch.zeros(2).double(), torch.from_numpy(s)) for s in (first, s1)]
        bridge = find("ddib")(source=ends[0], target=ends[1])
        x = draws(first, 4000, torch.Generator().manual_seed(5))
        want = x @ torch.from_numpy(monge(first, s1)).float().T
        by = {
            "DDIB": lambda x, b=bridge: b.translate(x.double(), steps=200).float(),
            "NOT": part.translate,
        }
        row: Row = {"": name}
        row |= {f"L2-UVP % of {k} from the Monge map": uvp(f(x), want, s1) for k, f in by.items()}
        rows.append(row)
        around = ring @ torch.from_numpy(np.linalg.cholesky(first)).float().T * 1.5
        how = {"c": angle.numpy(), "cmap": "hsv", "zorder": 3}
        axes.scatter(*around.T.numpy(), s=12, **how)
        for label, marker, size in (("DDIB", "o", 46), ("NOT", "x", 30)):
            y = by[label](around)
            hollow = {"facecolors": "none", "edgecolors": "black"} if marker == "o" else how
            axes.scatter(*y.T.numpy(), s=size, marker=marker, label=label, **hollow)
            if marker == "o":
                for a, b in zip(around.tolist(), y.tolist(), strict=True):
                    axes.plot(*zip(a, b, strict=True), color="0.85", lw=0.6, zorder=0)
        axes.set(title=name, aspect="equal", xticks=[], yticks=[])
        axes.legend(loc="lower right", fontsize=8)
    figure.savefig(PICTURE, dpi=80)
    return rows


PARTS = {
    "strong": ("Strong NOT: the Monge map between Gaussians whose covariances do not commute", strong_rows),
    "weak": ("Weak NOT in one dimension: slope min(1/gamma, s1/s0)", weak_rows),
    "entropic": ("ENOT in two dimensions", entropic_rows),
    "figure": ("DDIB (exact denoisers) and trained NOT (docs/pictures/transport.png)", figure_rows),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fast", action="store_true", help="a twentieth of the training: a trial")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts: list[str | list[Row]] = []
    for name in arguments.only:
        title, rows = PARTS[name]
        parts += [f"## {title}", rows(arguments.fast)]
    whole = set(arguments.only) == set(PARTS) and not arguments.fast
    write_result(
        "optimal_transport" if whole else "optimal_transport_trial",
        "Optimal transport between Gaussians", *parts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
