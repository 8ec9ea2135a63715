"""FastCUT: CUT without the identity, ten times the contrast (Park et al. 2020, https://arxiv.org/abs/2007.15651).

    L_G = lambda_GAN L(D(G(x)), 1) + 10 NCE(x, G(x))

The faster half of the paper: half the work a step, and fewer of them.  Instead of the identity, G must
commute with mirroring: at random it is given mirrored sources, whose results are mirrored back before
they are compared.  The paper's setting: --net paper --size 256 --batch 1 --flip --jitter 0.117,
150 + 50 epochs.
For 32 to 64 pixels on a CPU (docs/which.md):
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

import torch
from torch import Tensor

from sfumato.diffusion.integrate import Watch
from sfumato.methods._shared import adversarial as gan
from sfumato.methods._shared.contrastive import Contrastive
from sfumato.nets.layers import Init, Norm
from sfumato.nets.resnet_generator import ResNet


class FastCUT(Contrastive):
    """One generator from source to target, whose encoder also compares patches, and a discriminator.

    Args:
        net: size of the networks: tiny, small, medium, paper (11.4 M parameters).
        side: of the training images in pixels; given by the training.
        lambda_gan: weight of the adversarial loss, >= 0.
        lambda_nce: weight of the contrast, >= 0.
        nce_idt: whether pictures of the target are contrasted with their own results, too.
        flip_equivariance: whether half of the steps, at random, see their pictures mirrored.
        nce_layers: of the encoder, counted as in the paper; none: as there, the padded image, the
            downsampling convolutions, the first and the middle block (0, 4, 8, 12, 16 of net paper).
        nce_t: temperature tau, > 0.
        num_patches: patches a layer and picture, at most.
        gan_mode: lsgan or vanilla.
        n_layers_d: most layers of the discriminator that halve; patches of 16, 34, 70 pixels for 1, 2, 3.
        norm: instance, batch, or affine (instance norm with weights).
        antialias: blur with every down- and upsampling.
        init: of the weights: xavier or normal.
        init_gain: factor of xavier, standard deviation of normal.
        channels: 3 for colour, 1 for gray.
    """

    data: ClassVar[str] = "unpaired"
    settings: ClassVar[dict[str, Any]] = gan.SETTINGS | {"hold": 0.75}
    steady: ClassVar[bool] = False

    net: str | ResNet = "small"
    side: int = 256
    lambda_gan: float = 1.0
    lambda_nce: float = 10.0
    nce_idt: bool = False
    flip_equivariance: bool = True
    nce_layers: tuple[int, ...] = ()
    nce_t: float = 0.07
    num_patches: int = 256
    gan_mode: gan.GANMode = "lsgan"
    n_layers_d: int = 3
    norm: Norm = "instance"
    antialias: bool = True
    init: Init = "xavier"
    init_gain: float = 0.02
    channels: int = 3

    @torch.no_grad()
    def translate(self, source: Tensor, *, seed: int = 0, watch: Watch | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images of the target's domain.

        Args:
            source: images in [-1, 1].
            seed: of no effect: nothing is random.
            watch: see `integrate`.
        """
        return gan.one_pass(self.generator["net"], source, watch)
