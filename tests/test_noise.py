"""Noise: one image, one noise, whatever its neighbours; independent streams."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfumato.core.errors import UserError
from sfumato.diffusion.noise import Noise

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def draws(images, seed=0, n=3, stream="start"):
    noise = Noise.of(images, seed).stream(stream)
    return torch.stack([noise(images) for _ in range(n)], dim=1)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_any_batch_any_order_any_duplicates_bitwise(batch):
    assert torch.equal(draws(IMAGES[batch]), draws(IMAGES)[batch])


def test_images_seeds_streams_and_draws_differ():
    z = torch.cat(
        [draws(IMAGES), draws(IMAGES, seed=1), draws(IMAGES, stream="steps")]
    ).flatten(2).flatten(0, 1)  # fmt: skip
    correlation = torch.corrcoef(z).fill_diagonal_(0)
    assert len(z) == 36
    assert correlation.abs().max() < 5 / z.shape[1] ** 0.5  # independent: std 1/sqrt(192) each


def test_a_stream_starts_from_its_beginning():
    noise = Noise.of(IMAGES, 0)
    first = noise.stream("steps")(IMAGES)
    noise(IMAGES)
    assert torch.equal(noise.stream("steps")(IMAGES), first)
    assert not torch.equal(noise.stream("mask")(IMAGES), first)


def test_content_not_type_decides():
    """float64 images and their float32 copies meet the same noise."""
    assert torch.equal(draws(IMAGES.double()).float(), draws(IMAGES))


def test_standard_normal():
    z = Noise(range(8))(torch.empty(8, 4096))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_another_batch_is_refused():
    with pytest.raises(ValueError, match="of 4 images was given for 2"):
        Noise.of(IMAGES, 0)(IMAGES[:2])


@pytest.mark.parametrize("seeds", [[1.5], ["1"], [True], [float("nan")], [None], 3, "12"])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(UserError, match="seeds? must be a "):
        Noise(seeds)


def test_the_seed_of_pictures_is_a_whole_number():
    with pytest.raises(UserError, match="a seed must be a whole number, not 1.5"):
        Noise.of(IMAGES, 1.5)
    assert Noise.of(IMAGES, np.int64(1)).seeds == Noise.of(IMAGES, 1).seeds


@pytest.mark.parametrize("like", [torch.zeros(1, 3, dtype=torch.uint8), torch.tensor(0.0), 3])
def test_noise_is_drawn_like_floats_only(like):
    with pytest.raises(UserError, match="like a batch .* of floats, not like"):
        Noise([1])(like)


def test_zero_meets_the_same_noise_with_either_sign():
    x = torch.zeros(2, 3, 4, 4)
    assert torch.equal(draws(-x), draws(x))
    steps = torch.arange(12.0).reshape(1, 3, 2, 2) / 12 - 0.5
    assert Noise.of(steps, 0).seeds == [92243469235362427]  # of a picture without -0.0 as ever


LARGE = torch.randn(2, 3, 150, 200, generator=torch.Generator().manual_seed(2))


def test_the_noise_of_a_region_is_a_function_of_its_content_and_place():
    z, part = draws(LARGE), draws(LARGE[..., :140, :130])
    assert torch.equal(z[..., :128, :128], part[..., :128, :128])  # whole blocks
    assert not torch.equal(z[..., :140, :130], part)
    moved = LARGE.roll(64, 3)
    assert not torch.equal(draws(moved)[..., :64, 64:128], z[..., :64, :64])
    other = LARGE.clone()
    other[..., :64, :64] += 0.1
    changed = (draws(other) != z).float().mean((0, 1, 2))
    assert changed[:64, :64].min() > 0.9
    assert changed[64:].max() == changed[:, 64:].max() == 0


def test_blocks_of_equal_content_are_independent():
    z = draws(torch.zeros(1, 3, 128, 192), n=2)[0]
    blocks = z.unfold(2, 64, 64).unfold(3, 64, 64).permute(0, 2, 3, 1, 4, 5).reshape(12, -1)
    correlation = torch.corrcoef(blocks).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / blocks.shape[1] ** 0.5
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_clones_of_large_noise_go_on_alike():
    noise = Noise.of(LARGE, 3)
    noise(LARGE)
    twin = noise.clone()
    assert torch.equal(twin(LARGE), noise(LARGE))
    assert torch.equal(Noise(noise.seeds)(LARGE), Noise.of(LARGE, 3)(LARGE))  # as of a list of seeds
    assert Noise([4])(LARGE[:1]).shape == LARGE[:1].shape
