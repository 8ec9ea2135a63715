"""CycleGAN: identities, the image pool, both directions, exact resume with the pool."""

import copy
import json
import shutil

import pytest
import torch
from test_pix2pix import Same, folders  # noqa: F401
from torch import nn

from sfumato.checkpoints.model_folder import load
from sfumato.checkpoints.tensors import read_tensors
from sfumato.methods._shared.memory import Replay
from sfumato.methods.cyclegan import CycleGAN
from sfumato.training.fit import State, fit
from sfumato.training.train import train

A = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
B = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Times(nn.Module):
    """Multiplies by a number; no tanh."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return self.factor * x


def made(factor, back, score, **options):
    part = CycleGAN(net=nn.Identity(), side=16, **options)
    part.generators["target"], part.generators["source"] = Times(factor), Times(back)
    for which in part.discriminators:
        part.discriminators[which] = Same(score)
    return part


def losses(part, a=A, b=B, seed=0):
    rounds = part.objectives(iter([(a, b)]), torch.Generator().manual_seed(seed))
    return {player: loss.item() for player, loss in rounds}


def test_identity_generators_have_no_cycle_and_no_identity_loss():
    """What is left are the least-squares terms at score 0: 1 for each generator, 1/2 for each critic."""
    want = {"generators": 2.0, "discriminators.target": 0.5, "discriminators.source": 0.5}
    assert losses(made(1, 1, 0)) == pytest.approx(want)
    assert losses(made(1, 1, 1)) == pytest.approx(want | {"generators": 0.0})
    vanilla = losses(made(1, 1, 0, gan_mode="vanilla"))
    assert vanilla["generators"] == pytest.approx(2 * 0.6931471805599453)


@pytest.mark.parametrize("identity", [0.0, 0.5])
def test_each_term_has_its_weight(identity):
    """G_A = 2, G_B = 1/2 undo each other; G_A = 2, G_B = 1 leave |2a - a| and |2b - b|."""
    a, b = A.abs().mean().item(), B.abs().mean().item()
    how = {"lambda_a": 3.0, "lambda_b": 7.0, "lambda_identity": identity}
    same = identity * (7 * b + 3 * a / 2)  # |G_A(b) - b| = |b|, |G_B(a) - a| = |a| / 2
    assert losses(made(2, 0.5, 1, **how))["generators"] == pytest.approx(same, rel=1e-5)
    found = losses(made(2, 1, 1, **how))["generators"]
    assert found == pytest.approx(3 * a + 7 * b + identity * 7 * b, rel=1e-5)


def test_running_averages_are_of_each_generators_sources_alone():
    torch.manual_seed(0)
    part = CycleGAN(net="tiny", side=16, norm="batch")
    alone = copy.deepcopy(part.generators)
    losses(part)
    alone["target"](A), alone["source"](B)
    for name, there in alone.named_buffers():
        assert torch.equal(part.generators.get_buffer(name), there) or "tracked" in name


def test_a_network_of_ones_own_becomes_two():
    part = CycleGAN(net=Times(2), side=16)
    assert part.generators["target"] is not part.generators["source"]
    with torch.no_grad():
        part.generators["source"].factor.fill_(5)
    assert part.translate(A, as_is=True).equal(2 * A)
    assert part.translate(A, as_is=True, direction="target-to-source").equal(5 * A)
    with pytest.raises(ValueError, match="unknown direction 'back'"):
        part.translate(A, as_is=True, direction="back")


@pytest.mark.parametrize("size", [1, 5, 50])
def test_the_pool_never_holds_more_than_its_size(size):
    pool, rng, older, n = Replay(size), torch.Generator().manual_seed(0), 0, 0
    for k in range(60):
        images = torch.full((3, 1, 2, 2), 0.0) + torch.arange(3).reshape(3, 1, 1, 1) + 3 * k
        out = pool(images, rng)
        assert out.shape == images.shape
        assert len(pool.images) == min(size, 3 * (k + 1))
        if 3 * (k + 1) <= size:
            assert torch.equal(out, images)  # while it fills, they go through
        else:
            older, n = older + (out != images).any((1, 2, 3)).sum().item(), n + 3
        seen = torch.cat([out, pool.images])[:, 0, 0, 0]
        assert set(images[:, 0, 0, 0].tolist()) <= set(seen.tolist())  # none is lost at once
    expected = 0.5 * (n - (3 - size % 3) % 3)
    assert older == pytest.approx(expected, abs=4 * (n / 4) ** 0.5)


def test_a_pool_of_size_0_or_in_evaluation_gives_the_images_back():
    for pool in (Replay(0), Replay(2).eval()):
        rng = torch.Generator().manual_seed(0)
        for _ in range(5):
            assert pool(A, rng) is A
        assert pool.images is None


def test_discriminators_see_older_fakes_and_generators_newer():
    part = made(1, 1, 0, pool_size=2).train()
    seen = []
    forward = Same.forward
    part.discriminators["target"].forward = lambda x: (
        seen.append(x.detach()) or forward(part.discriminators["target"], x)
    )
    for k in range(8):
        losses(part, A + k, B, seed=k)
    generator, older = seen[0::3], seen[2::3]  # each step: for G, the real one, the pool's
    assert all(torch.equal(x, A + k) for k, x in enumerate(generator))
    assert any(not torch.equal(x, A + k) for k, x in enumerate(older))


def batches(start):
    for n in range(start, 20):
        g = torch.Generator().manual_seed(n)
        yield torch.rand(2, 3, 16, 16, generator=g), torch.rand(2, 3, 16, 16, generator=g)


def test_restored_training_goes_on_with_its_pool_to_the_bit():
    def state():
        torch.manual_seed(0)
        return State(CycleGAN(net="tiny", side=16, pool_size=3), "adam", (0.5, 0.999))

    how = {"lr": 1e-3, "schedule": "constant", "warmup": 0, "clip": 0.0, "ema": 0.0}
    straight, first, second, forgetful = (state() for _ in range(4))
    list(fit(straight, batches(0), steps=7, **how))
    list(fit(first, batches(0), steps=4, **how))
    saved = {k: v.clone() for k, v in first.tensors().items()}
    second.restore(saved, 4)
    list(fit(second, batches(4), steps=7, **how))
    a, b = straight.tensors(), second.tensors()
    pools = [k for k in a if "pools" in k]
    assert len(pools) == 2
    assert len(a[pools[0]]) == 3
    assert all(torch.equal(a[k], b[k]) for k in a)
    forgetful.restore({k: v for k, v in saved.items() if "pools" not in k}, 4)
    list(fit(forgetful, batches(4), steps=7, **how))
    assert any(not torch.equal(a[k], v) for k, v in forgetful.tensors().items())  # it does matter


def test_a_run_is_resumed_from_its_folder_and_its_model_holds_no_pictures(folders, tmp_path):  # noqa: F811
    how = {"options": {"net": "tiny", "pool_size": 4}, "size": 16, "batch": 2, "held_out": 0,
           "quiet": True, "preview_every": 0, "save_every": 3, "schedule": "constant"}  # fmt: skip
    straight, stopped = tmp_path / "a", tmp_path / "b"
    train("cyclegan", folders, straight, **how, steps=6)
    train("cyclegan", folders, stopped, **how, steps=3)
    train("cyclegan", folders, stopped, **how, steps=6, resume=True)
    for name in ("training.safetensors", "weights.safetensors", "model.json"):
        assert (straight / name).read_bytes() == (stopped / name).read_bytes(), name
    saved = read_tensors(straight / "training.safetensors")
    assert [v.shape[0] for k, v in saved.items() if "pools" in k] == [4, 4]
    assert not [k for k in read_tensors(straight / "weights.safetensors") if "pools" in k]
    assert json.loads((straight / "model.json").read_text())["model"]["side"] == 16
    shutil.rmtree(straight / "previews", ignore_errors=True)
    assert load(straight).translate(A, as_is=True).shape == A.shape


def test_measures_are_of_both_sides():
    part = made(1, 1, 0.25)
    measured = part.measures(A, B, torch.Generator())
    assert measured == pytest.approx(
        {"real score": 0.25, "fake score": 0.25, "real score (source)": 0.25,
         "fake score (source)": 0.25}
    )  # fmt: skip
