"""DDIB between two Gaussians against its closed form, and against optimal transport.

python examples/bridge_between_gaussians.py
"""

import torch

import sfumato

torch.set_default_dtype(torch.float64)


def root(S):
    values, vectors = torch.linalg.eigh(S)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


c, s = torch.cos(torch.tensor(0.7)), torch.sin(torch.tensor(0.7))
R = torch.tensor([[c, -s], [s, c]])
m0, S0 = torch.tensor([1.0, 0.0]), torch.diag(torch.tensor([4.0, 0.25]))
m1, S1 = torch.tensor([-1.0, 2.0]), R @ torch.diag(torch.tensor([2.0, 0.5])) @ R.T

source, target = sfumato.Gaussian(m0, S0), sfumato.Gaussian(m1, S1)
ddib = sfumato.find("ddib")(source=source, target=target)
x = m0 + torch.randn(2000, 2) @ root(S0)
y = ddib.translate(x, steps=100)

print("mean and covariance of the results\n", y.mean(0), "\n", y.T.cov())
end = source.process.t_max
bridge = target.flow(source.flow(x, 0.0, end), end, 0.0)
A = root(S0).inverse() @ root(root(S0) @ S1 @ root(S0)) @ root(S0).inverse()
monge = m1 + (x - m0) @ A.T
print("largest distance to the closed form", (y - bridge).norm(dim=1).max().item())
print("largest distance to optimal transport", (y - monge).norm(dim=1).max().item())
