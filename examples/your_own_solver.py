"""A solver is a function: the midpoint method on an exact denoiser.

python examples/your_own_solver.py
"""

import torch

import sfumato


def midpoint(f, past, s, noise=None):
    """du = eps d sig with eps taken in the middle of the step (in sig)."""
    now = past[-1]
    alpha, sigma = f.levels(s)
    h = sigma / alpha - now.sigma / now.alpha
    t = f.process.time(-2 * (now.sigma / now.alpha + h / 2).log())
    alpha_mid, _ = f.levels(t)
    middle = f(alpha_mid * (now.x / now.alpha + h / 2 * now.eps), t)
    return alpha * (now.x / now.alpha + h * middle.eps)


m, S = torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()
exact = sfumato.Gaussian(m, S)
x = torch.randn(4, 2, dtype=torch.float64)
for steps in (16, 32, 64, 128):
    times = sfumato.grid(exact.process, steps, start=0.9, stop=0.1)
    error = sfumato.integrate(midpoint, exact, x, times) - exact.flow(x, 0.9, 0.1)
    print(steps, f"{error.abs().max().item():.2e}")
