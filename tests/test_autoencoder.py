"""The autoencoder: what comes back from a few numbers, and what it learns by."""

import itertools

import pytest
import torch
from torch import nn

import sfumato
from sfumato.methods.registry import find
from sfumato.nets.autoencoder import COMMIT, ConvCodec
from sfumato.training.fit import State, fit

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def made(**how):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return find("autoencoder")(net="tiny", side=16, **how)


def batches():
    return itertools.repeat((X, torch.zeros(4, dtype=torch.long)))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("code", ["kl", "vq"])
def test_shapes(factor, code):
    codec = ConvCodec(width=8, latent_channels=5, factor=factor, code=code, channels=1)
    x = X[:, :1]
    z = codec.encode(x)
    assert z.shape == (4, 5, 16 // factor, 16 // factor)
    assert codec.decode(z).shape == x.shape
    assert made(factor=factor, code=code).translate(X[..., :15, :13], as_is=True).shape == (4, 3, 15, 13)


def test_a_linear_code_lies_beside_the_network():
    """Where it loses nothing, and the network says nothing, pictures come back as they were."""
    codec, bare = (ConvCodec(width=8, latent_channels=12, factor=2, linear=one) for one in (True, False))
    for last in (codec.encoder[-1], codec.decoder[-1], codec.down, codec.up):
        nn.init.zeros_(last.bias)
        if last in (codec.encoder[-1], codec.decoder[-1]):
            nn.init.zeros_(last.weight)
    torch.testing.assert_close(codec.decode(codec.encode(X)), X, rtol=0, atol=1e-5)
    assert bare.state_dict().keys() == codec.state_dict().keys() - {
        f"{way}.{what}" for way in ("down", "up") for what in ("weight", "bias")
    }


def test_the_critic_comes_after_its_batches():
    part, players = made(critic_after=2), []
    for update in fit(State(part), batches(), steps=4):
        players.append([*update.losses])
    assert players == [["codec"]] * 2 + [["discriminator", "codec"]] * 2
    assert int(part.state_dict()["seen"]) == 4
    alone = made(critic=0.0)
    assert {name.split(".")[0] for name in alone.state_dict()} == {"codec", "seen"}


def test_losses_are_what_they_say():
    part = made(critic=0.0, kl=0.5, detail=0.0)
    (_, loss), = part.eval().objectives(batches(), torch.Generator().manual_seed(3))  # fmt: skip
    mean, log_variance = part.codec._code(X).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    p, q = (torch.distributions.Normal(m, s) for m, s in ((mean, (log_variance / 2).exp()), (0.0, 1.0)))
    kl = torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(loss, (part.codec.decode(z) - X).abs().mean() + 0.5 * kl)
    flat, steep = made(critic=0.0, kl=0.0, detail=0.0), made(critic=0.0, kl=0.0, detail=2.0)
    losses = [next(p.eval().objectives(batches(), torch.Generator()))[1] for p in (flat, steep)]
    assert losses[0] < losses[1]


def test_vectors_of_vq_are_the_nearest_and_both_sides_learn():
    codec = ConvCodec(width=8, latent_channels=2, factor=2, code="vq", entries=7)
    z = codec.encode(X).detach().requires_grad_()
    near, cost = codec._nearest(z)
    rows, book = z.movedim(1, -1).flatten(0, 2), codec.book.weight
    wanted = ((rows[:, None] - book) ** 2).sum(-1).argmin(1)
    torch.testing.assert_close(near.movedim(1, -1).flatten(0, 2), book[wanted])
    gap = ((rows - book[wanted]) ** 2).mean()
    torch.testing.assert_close(cost, (1 + COMMIT) * gap)
    (through,) = torch.autograd.grad(near.sum(), z, retain_graph=True)
    assert torch.equal(through, torch.ones_like(z))
    to_vectors, to_z = torch.autograd.grad(cost, [book, z])
    assert to_vectors.any()
    torch.testing.assert_close(to_z, COMMIT * 2 * (z - near).detach() / z.numel())


def test_it_learns_to_give_pictures_back():
    part = made(critic=0.0)
    smooth = torch.nn.functional.interpolate(X[..., :4, :4], scale_factor=4, mode="bilinear")
    stream = itertools.repeat((smooth, torch.zeros(4, dtype=torch.long)))
    psnr = lambda: part.eval().measures(smooth, None, None)["psnr"]
    before = psnr()
    list(fit(State(part), stream, steps=60, lr=5e-3, warmup=0))
    assert psnr() > before + 6


def test_what_is_refused():
    with pytest.raises(ValueError, match="factor must be 2, 4, 8 or another power of two, not 6"):
        made(factor=6)
    with pytest.raises(ValueError, match="net has no codec: expected a model of `sfumato train autoencoder`"):
        sfumato.find("autoencoder")(net=torch.nn.Identity())
    with pytest.raises(ValueError, match="factor 32 is more than the 16 pixels of a picture"):
        made(factor=32)


def test_pictures_whose_sides_are_no_multiples_are_mirrored():
    part, odd = made(critic=0.02, critic_after=0), X[..., :14, :13]
    stream = iter([(odd, torch.zeros(4, dtype=torch.long))])
    losses = dict(part.objectives(stream, torch.Generator().manual_seed(0)))
    assert losses.keys() == {"discriminator", "codec"}
    assert part.measures(odd, None, None).keys() == {"psnr", "latents' deviation"}
    assert part.translate(odd).shape == odd.shape
