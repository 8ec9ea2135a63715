"""pix2pix: losses at known scores, dropout as noise, health, exact resume, what is refused."""

import json
import math

import pytest
import torch
from test_train import pictures
from torch import nn

from sfumato.data import open_pairs, open_unpaired
from sfumato.methods._shared import adversarial as gan
from sfumato.methods.pix2pix import Pix2Pix
from sfumato.methods.registry import find
from sfumato.training.fit import State, fit, learning_rate
from sfumato.training.options import DEFAULTS, defaults
from sfumato.training.train import train

PICTURES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Same(nn.Module):
    """Gives each input the same scores; writes down how many channels it saw."""

    def __init__(self, score):
        super().__init__()
        self.score = nn.Parameter(torch.tensor(float(score)))

    def forward(self, x):
        self.channels = x.shape[1]
        return self.score.expand(len(x), 1, 2, 2)


def tiny(**options):
    torch.manual_seed(0)
    return Pix2Pix(net="tiny", side=16, **options)


def objectives(part, x=PICTURES, y=PICTURES, seed=0):
    rounds = part.objectives(iter([(x, y)]), torch.Generator().manual_seed(seed))
    return {player: loss.item() for player, loss in rounds}


@pytest.mark.parametrize(
    ("score", "real", "mode", "loss"),
    [
        (0, True, "vanilla", math.log(2)), (0, False, "vanilla", math.log(2)),
        (1, True, "lsgan", 0), (1, False, "lsgan", 1), (0, True, "lsgan", 1), (0, False, "lsgan", 0),
        (0.5, True, "lsgan", 0.25), (3, True, "vanilla", math.log(1 + math.exp(-3))),
    ],
)  # fmt: skip
def test_losses_at_known_scores(score, real, mode, loss):
    scores = torch.full((2, 1, 3, 3), float(score), dtype=torch.float64)
    assert gan.gan_loss(scores, real, mode).item() == pytest.approx(loss, abs=1e-12)
    with pytest.raises(ValueError, match="unknown gan_mode 'lsgam': did you mean 'lsgan'"):
        gan.gan_loss(scores, real, "lsgam")


def test_at_scores_of_zero_all_losses_are_ln_2_and_a_perfect_generator_has_no_l1():
    part = Pix2Pix(net=nn.Identity(), side=16)
    part.discriminator = Same(0)
    losses = objectives(part, y=PICTURES)
    assert losses == pytest.approx({"discriminator": math.log(2), "generator": math.log(2)})
    assert part.discriminator.channels == 6
    far = objectives(part, x=PICTURES * 0, y=torch.full_like(PICTURES, 0.25))
    assert far["generator"] == pytest.approx(math.log(2) + 100 * 0.25, rel=1e-6)


def test_the_papers_options():
    part = Pix2Pix(net="tiny")
    assert (part.lambda_l1, part.gan_mode, part.norm, part.init_gain) == (
        100,
        "vanilla",
        "batch",
        0.02,
    )
    own = defaults(Pix2Pix)
    want = {"lr": 2e-4, "beta1": 0.5, "optimiser": "adam", "schedule": "linear", "hold": 0.5}
    assert want.items() <= own.items()
    assert own["clip"] == own["ema"] == own["warmup"] == 0
    assert defaults(find("diffusion")) == DEFAULTS
    rates = [learning_rate(i, 200, "linear", 0, 0.5) for i in range(200)]
    assert rates[:101] == [1.0] * 101  # 100 epochs, and 100 that fall to 0
    assert rates[150] == pytest.approx(0.5)
    assert rates[199] == pytest.approx(0.01)


def test_dropout_is_the_noise_in_translation_too():
    part = tiny().eval()
    part.generator.dropouts = 1
    y = part.translate(PICTURES, as_is=True, seed=1)
    assert torch.equal(y, part.translate(PICTURES, as_is=True, seed=1))
    assert not torch.equal(y, part.translate(PICTURES, as_is=True, seed=2))
    same = part.translate(PICTURES[:1].repeat(3, 1, 1, 1), seed=1)
    assert torch.equal(same[0], same[2])  # one image, one noise
    part.generator.dropout = 0.0
    assert torch.equal(
        part.translate(PICTURES, as_is=True, seed=1), part.translate(PICTURES, as_is=True, seed=2)
    )


def test_shallow_networks_have_less_dropout_and_say_so():
    """As published: 3 levels of 8, 2 of 7; 32 pixels have 5."""
    levels = {side: Pix2Pix(net="small", side=side) for side in (32, 64)}
    assert [part.generator.dropouts for part in levels.values()] == [0, 1]
    assert Pix2Pix(net="paper").generator.dropouts == 3
    assert "without dropout" in " ".join(levels[32].notes)
    assert "dropout" not in " ".join(levels[64].notes)


def test_statistics_of_each_image_are_a_batch_of_one_in_training_mode():
    part = tiny()
    part.generator.dropout = 0.0
    want = torch.cat([part.train().generator(one[None]) for one in PICTURES])
    part.eval()
    found = part.translate(PICTURES, as_is=True, statistics="image")
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert not any(getattr(norm, "own", False) for norm in part.modules())  # it was for that call
    assert not torch.allclose(part.translate(PICTURES, as_is=True), want, atol=1e-4)
    with pytest.raises(ValueError, match="unknown statistics 'batch'"):
        part.translate(PICTURES, as_is=True, statistics="batch")


def test_any_batch_size_trains_and_one_image_too():
    """The last batch of an epoch may be short."""
    part = tiny().train()
    for n in (4, 3, 1):
        losses = objectives(part, PICTURES[:n], PICTURES[:n])
        assert all(math.isfinite(v) for v in losses.values())


def test_a_step_of_fit_changes_both_players_and_resumes_to_the_bit():
    def batches(start):
        for n in range(start, 9):
            g = torch.Generator().manual_seed(n)
            yield torch.rand(2, 3, 16, 16, generator=g), torch.rand(2, 3, 16, 16, generator=g)

    how = {"lr": 1e-3, "schedule": "constant", "warmup": 0, "clip": 0.0, "ema": 0.0}
    straight, first, second = (State(tiny(), "adam", (0.5, 0.999)) for _ in range(3))
    before = {k: v.clone() for k, v in straight.method.named_parameters()}
    list(fit(straight, batches(0), steps=6, **how))
    for name, p in straight.method.named_parameters():
        assert not torch.equal(p, before[name]), name
    list(fit(first, batches(0), steps=3, **how))
    second.restore({k: v.clone() for k, v in first.tensors().items()}, 3)
    list(fit(second, batches(3), steps=6, **how))
    a, b = straight.tensors(), second.tensors()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_health_and_saturation():
    part = Pix2Pix(net=nn.Identity(), side=16)
    part.discriminator = Same(0)
    measured = part.measures(PICTURES, PICTURES, torch.Generator())
    assert measured == {"real score": 0.5, "fake score": 0.5}
    assert part.warning(measured) is None
    said = part.warning({"real score": 0.99, "fake score": 0.01})
    assert "saturated (real score 0.99, fake 0.01)" in said
    both = {"real score": 0.6, "fake score": 0.4}
    both |= {"real score (source)": 1.0, "fake score (source)": 0.0, "nce": 4.0}
    assert "real score (source) 1.00" in part.warning(both)
    assert gan.health(torch.tensor([2.0]), torch.tensor([-1.0]), "lsgan") == {
        "real score": 2.0, "fake score": -1.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return [str(pictures(root / name, 8, i, side=24)) for i, name in enumerate(("red", "green"))]


def test_training_from_folders_says_what_is_small_and_how_the_discriminator_does(
    folders, tmp_path, capsys
):
    part = train(
        "pix2pix", folders, tmp_path / "run", options={"net": "tiny"}, size=16, batch=3, steps=50,
        save_every=50, preview_every=50, held_out=0.25, flip=True, jitter=0.2,
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "for images of 16 pixels it judges patches of 16, not 70" in said
    assert "real score 0." in said
    assert part.side == 16
    line = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert line["lr"] == pytest.approx(2e-4 * 0.04)  # the last step but one of the fall
    assert set(line["measures"]) == {"real score", "fake score"}
    assert (tmp_path / "run/previews/step_000050.png").exists()
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert (settings["optimiser"], settings["beta1"], settings["batch"]) == ("adam", 0.5, 3)


def test_flip_and_jitter_move_both_halves_of_a_pair_alike(folders):
    """On pairs of twice the same pictures both halves stay equal; of unpaired ones they do not."""
    pairs = open_pairs(folders[0], folders[0], 16)
    how = {"seed": 0, "flip": True, "jitter": 0.25}
    seen, moved = set(), 0
    plain = pairs.batches(8, seed=0)
    for (x, y), (still, _), _ in zip(pairs.batches(8, **how), plain, range(4), strict=False):
        assert torch.equal(x, y)
        assert x.shape == still.shape
        moved += int((x != still).any())
        seen |= {one.numpy().tobytes() for one in x}
    assert moved == 4
    assert len(seen) > 16  # of 8 pictures
    a, b = next(open_unpaired(folders[0], folders[0], 16).batches(8, **how))
    same = {one.numpy().tobytes() for one in a} & {one.numpy().tobytes() for one in b}
    assert len(same) < 8
    third = [x for (x, _), _ in zip(pairs.batches(8, **how), range(3), strict=False)][2]
    assert torch.equal(next(pairs.batches(8, **how, start=2))[0], third)


def test_unpaired_folders_are_refused_with_the_methods_to_use(folders, tmp_path):
    other = pictures(tmp_path / "blue", 3, 2, side=24)
    for file in other.iterdir():
        file.rename(other / f"x{file.name}")
    with pytest.raises(ValueError, match=r"pairs must have equal names.*cut or cyclegan") as error:
        train("pix2pix", [folders[0], str(other)], tmp_path / "r", options={"net": "tiny"}, size=16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jitter": -0.1}, "jitter must be in"),
        ({"hold": 1.0}, "hold must be in"),
        ({"beta1": 1.0}, "beta1 must be in"),
        ({"size": 4}, "side must be at least 8, not 4"),
        ({"size": 18}, "2 to 16 levels, not 1; choose a --size"),
        ({"options": {"net": "tiny", "norm": "group"}}, "unknown norm 'group'"),
        ({"options": {"net": "tny"}}, "unknown net 'tny': did you mean 'tiny'"),
    ],
)
def test_bad_input(folders, tmp_path, change, message):
    how = {"options": {"net": "tiny"}, "size": 16, "steps": 2} | change
    with pytest.raises(ValueError, match=message) as error:
        train("pix2pix", folders, tmp_path / "run", **how)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_discriminator_that_still_errs_on_one_side_is_not_saturated():
    for real, fake in ((0.99, 0.5), (0.5, 0.01), (0.94, 0.0), (1.0, 0.06)):
        assert gan.saturated({"real score": real, "fake score": fake}) is None
    assert gan.saturated({"real score": 0.96, "fake score": 0.04})
