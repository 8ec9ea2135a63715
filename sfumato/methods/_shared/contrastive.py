"""Patch-wise contrast (Park et al. 2020, https://arxiv.org/abs/2007.15651): what CUT and FastCUT share.

    L_G = lambda_GAN L(D(G(x)), 1) + NCE(x, G(x))                              without identity
    L_G = lambda_GAN L(D(G(x)), 1) + 1/2 [NCE(x, G(x)) + NCE(y, G(y))]         with
    L_D = 1/2 [L(D(y), 1) + L(D(G(x)), 0)]

A patch of the result, seen through the generator's own encoder, shall be nearest to the patch of the
source at the same place, among all that are drawn from the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, PictureSide, Positive
from sfumato.core.terminal import an
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared import adversarial as gan
from sfumato.module import Part
from sfumato.nets.layers import Init, Norm, batch_norms, initialise
from sfumato.nets.patch_projection import PatchHead
from sfumato.nets.resnet_generator import ResNet


class Contrastive(Part):
    """A generator, its patch heads (both are the player "generator"), and a discriminator.

    Abstract: its fields have CUT's defaults, and `FastCUT` changes some.

    Args:
        net: size of the networks: tiny, small, medium, paper (11.4 M parameters).
        side: side of the training images in pixels; given by the training.
        lambda_gan: weight of the adversarial loss.
        lambda_nce: weight of the contrast.
        nce_idt: whether pictures of the target are contrasted with their own results, too.
        flip_equivariance: whether half of the steps, at random, see their pictures mirrored.
        nce_layers: layers of the encoder, counted as in the paper; none: as there, the padded image, the
            downsampling convolutions, the first and the middle block (0, 4, 8, 12, 16 of net paper).
        nce_t: temperature tau.
        num_patches: patches a layer and picture, at most.
        gan_mode: lsgan or vanilla.
        n_layers_d: most layers of the discriminator that halve; patches of 16, 34, 70 pixels for 1, 2, 3.
        norm: instance, batch, or affine (instance norm with weights).
        antialias: blur with every down- and upsampling.
        init: initialisation of the weights: xavier or normal.
        init_gain: factor of xavier, standard deviation of normal.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        bounded: whether results lie in [-1, 1]: pictures do, latents do not; given by the training.
    """

    data: ClassVar[str] = "unpaired"
    generators_at: ClassVar[tuple[str, ...]] = ("generator.net",)
    settings: ClassVar[dict[str, Any]] = gan.SETTINGS
    steady: ClassVar[bool] = False

    net: str | ResNet = "small"
    side: PictureSide = 256
    lambda_gan: NotNegative = 1.0
    lambda_nce: NotNegative = 1.0
    nce_idt: bool = True
    flip_equivariance: bool = False
    nce_layers: tuple[int, ...] = ()
    nce_t: Positive = 0.07
    num_patches: Count = 256
    gan_mode: gan.GANMode = "lsgan"
    n_layers_d: Count = 3
    norm: Norm = "instance"
    antialias: bool = True
    init: Init = "xavier"
    init_gain: NotNegative = 0.02
    channels: Count = 3
    bounded: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        doc = Contrastive.__doc__ or ""
        cls.__doc__ = f"{cls.__doc__}\n\n    {doc[doc.index('Args:') :]}"

    def __post_init__(self) -> None:
        how = self.norm, self.antialias, self.init, self.init_gain
        made = gan.make_resnet(self.net, self.channels, *how, self.bounded)
        if not isinstance(made, ResNet):
            raise TypeError(f"patches are compared inside a ResNet, not {an(type(made).__name__)}")
        self.nce_layers = tuple(sorted(set(self.nce_layers))) or made.paper_layers()
        heads = PatchHead(widths=made.widths(self.nce_layers))
        initialise(heads, self.init, self.init_gain)
        self.generator = nn.ModuleDict({"net": made, "heads": heads})
        self.discriminator = gan.make_critic(self.net, self.channels, self.side, self.n_layers_d, *how)
        self.notes = gan.notes(self.discriminator, self.n_layers_d, self.side)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        flipped = self.flip_equivariance and torch.rand((), generator=rng).item() < 0.5
        fake, keys = self._generate(x, flipped)
        yield (
            "discriminator",
            gan.critic_loss(self.discriminator(y), self.discriminator(fake.detach()), self.gan_mode),
        )
        # the graph of `made` is used here only, and holds no weight that has changed since
        loss = self.lambda_gan * gan.gan_loss(self.discriminator(fake), True, self.gan_mode)
        if self.lambda_nce:
            with batch_norms(self.generator, momentum=0.0):
                nce = self._nce(keys, fake, flipped, rng)
                if self.nce_idt:
                    made, keys = self._generate(y, flipped)
                    nce = (nce + self._nce(keys, made, flipped, rng)) / 2
            loss = loss + self.lambda_nce * nce
        yield "generator", loss

    @torch.no_grad()
    def measures(self, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, float]:
        """The discriminator's mean scores of real and of generated pictures, and the NCE."""
        fake, keys = self._generate(x, False)
        scores = gan.health(self.discriminator(y), self.discriminator(fake), self.gan_mode)
        return scores | {"nce": self._nce(keys, fake, False, rng).item()}

    warning = staticmethod(gan.saturated)

    @torch.no_grad()
    def translate(self, source: Tensor, *, seed: Seed = 0, watch: Watch | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images of the target's domain.

        Args:
            source: images in [-1, 1].
            seed: of no effect: nothing is random.
            watch: see `integrate`.
        """
        return gan.one_pass(self.generator["net"], source, watch)

    def _generate(self, x: Tensor, flipped: bool) -> tuple[Tensor, list[Tensor]]:
        """The result of x, or of its mirror image, and the features of x itself."""
        net = self._net
        made, keys = net.with_features(x.flip(3) if flipped else x, self.nce_layers)
        if flipped:
            with torch.no_grad():
                keys = net.features(x, self.nce_layers)
        return made, keys

    def _nce(self, keys: Sequence[Tensor], result: Tensor, flipped: bool, rng: torch.Generator) -> Tensor:
        """The mean of the layers' contrast; a result of a flipped source is flipped back first."""
        queries = self._net.features(result, self.nce_layers)
        queries = [f.flip(3) for f in queries] if flipped else queries
        places = [
            torch.randperm(f[0, 0].numel(), generator=rng)[: self.num_patches].to(f.device) for f in queries
        ]
        heads = self.generator["heads"]
        with torch.no_grad():  # the keys are detached
            k = heads(keys, places)
        return layers_nce(heads(queries, places), k, self.nce_t)

    @property
    def _net(self) -> ResNet:
        net = self.generator["net"]
        assert isinstance(net, ResNet)
        return net


def layers_nce(queries: Sequence[Tensor], keys: Sequence[Tensor], tau: float) -> Tensor:
    """Mean of the layers' `patch_nce`."""
    losses = [patch_nce(q, k, tau) for q, k in zip(queries, keys, strict=True)]
    return torch.stack(losses).mean()


def patch_nce(q: Float[Tensor, "b n d"], k: Float[Tensor, "b n d"], tau: float) -> Tensor:
    """-log exp(q.k+/tau) / (exp(q.k+/tau) + sum over the picture's other patches exp(q.k-/tau)).

    The published code leaves the patch's own place among the negatives, with similarity -10.
    """
    positive = (q * k).sum(2, keepdim=True)
    own = torch.eye(q.shape[1], dtype=torch.bool, device=q.device)
    negative = (q @ k.mT).masked_fill(own, -10.0)
    logits = torch.cat([positive, negative], 2).flatten(0, 1) / tau
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=q.device))
