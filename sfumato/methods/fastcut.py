"""FastCUT: CUT without the identity, ten times the contrast (Park et al. 2020, https://arxiv.org/abs/2007.15651).

    L_G = lambda_GAN L(D(G(x)), 1) + 10 NCE(x, G(x))

The faster half of the paper: half the work a step, and fewer of them.  Instead of the identity, G must
commute with mirroring: at random it is given mirrored sources, whose results are mirrored back before
they are compared.  The paper's setting: --net paper --size 256 --batch 1 --flip --jitter 0.117,
150 + 50 epochs.
For 32 to 64 pixels on a CPU (docs/experiments/one-budget.md):
--norm batch --num-patches 64 --batch 4 --lr 1e-3 --ema 0.99.

@inproceedings{park2020contrastive,
  title = {Contrastive Learning for Unpaired Image-to-Image Translation},
  author = {Park, Taesung and Efros, Alexei A. and Zhang, Richard and Zhu, Jun-Yan},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  url = {https://arxiv.org/abs/2007.15651}
}
"""

from __future__ import annotations

from typing import Any, ClassVar

from sfumato.core.ranges import NotNegative
from sfumato.methods._shared import adversarial as gan
from sfumato.methods._shared.contrastive import Contrastive


class FastCUT(Contrastive):
    """CUT with other defaults: more contrast, mirrored sources in place of the identity."""

    settings: ClassVar[dict[str, Any]] = gan.SETTINGS | {"hold": 0.75}

    lambda_nce: NotNegative = 10.0
    nce_idt: bool = False
    flip_equivariance: bool = True
