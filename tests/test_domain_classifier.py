"""The classifier of noisy images: what it learns, at which noise level, and that it travels."""

import json

import pytest
import torch
from truth import lively

from sfumato import train
from sfumato.checkpoints.model_folder import load
from sfumato.data import write_png
from sfumato.diffusion.process import DDPM, VE, VP, Cosine
from sfumato.methods.domain_classifier import DomainClassifier

PICTURES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny(**options):
    return lively(DomainClassifier(domains=("a", "b", "c"), net="tiny", **options))


def test_features_are_the_middle_block():
    part, seen = tiny(), []
    middle = part.classifier["encoder"].middle[-1]
    middle.register_forward_hook(lambda m, args, out: seen.append(out))
    logits = part(PICTURES, 0.3)
    assert logits.shape == (4, 3)
    assert torch.equal(part.features(PICTURES, 0.3), seen[0])
    assert seen[0].shape == (4, 32, 4, 4)
    assert not hasattr(part.classifier["encoder"], "out")  # nothing that is not used


def test_it_sees_the_noise_level_and_not_the_process():
    part, other = tiny(), tiny(process="ve")
    other.load_state_dict(part.state_dict())
    t = VE().time(Cosine().log_snr(torch.tensor([0.2, 0.5, 0.7, 0.9]).double()))
    alpha, sigma = Cosine().at(torch.tensor([0.2, 0.5, 0.7, 0.9]), PICTURES)
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-6
    torch.testing.assert_close(
        other(PICTURES / alpha, t), part(PICTURES, torch.tensor([0.2, 0.5, 0.7, 0.9])),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert not torch.allclose(part(PICTURES, 0.2), part(PICTURES, 0.9), atol=1e-3)


@pytest.mark.parametrize("process", ["vp", "ddpm", "cosine", "ve", "flow"])
def test_levels_are_those_of_the_chain(process):
    part = tiny(process=process)
    share = torch.tensor([1e-9, 0.3, 0.7, 1.0])
    times = part._time(share)
    assert (times >= part.process.t_min).all()
    assert (times <= part.process.t_max).all()
    want = DDPM().log_snr(share[1:3])
    torch.testing.assert_close(part.process.log_snr(times[1:3]), want, rtol=1e-6, atol=1e-6)
    assert tiny(process=VP()).process == VP()


def test_trained_it_tells_domains_apart_until_noise_hides_them(tmp_path, report):
    g = torch.Generator().manual_seed(0)
    for name, level in (("dark", -0.25), ("light", 0.25)):
        for i in range(24):
            image = level + 0.4 * torch.randn(3, 16, 16, generator=g)
            write_png(tmp_path / "data" / name / f"{i}.png", image.clamp(-1, 1))
    train(
        "domain_classifier", tmp_path / "data", tmp_path / "run", options={"net": "tiny"}, size=16,
        steps=80, batch=16, held_out=0.25, save_every=40, preview_every=0, quiet=True, warmup=10,
    )  # fmt: skip
    lines = [json.loads(s) for s in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    last = lines[-1]["measures"]
    assert list(last) == [f"accuracy at 0.{k}" for k in range(1, 10)]
    report("accuracy at M/T .1 to .9", *last.values())
    assert min(last[f"accuracy at 0.{k}"] for k in (1, 2, 3)) > 0.9
    assert last["accuracy at 0.9"] < last["accuracy at 0.1"]
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    part = load(tmp_path / "run")
    assert part.domains == ("dark", "light")
    assert part(torch.tensor([-0.25, 0.25])[:, None, None, None].expand(2, 3, 16, 16), 0.1).argmax(
        1
    ).tolist() == [0, 1]


def test_noise_levels_tell_nothing_of_the_domains():
    """Batches hold the domains in turn: were levels in order, too, one would give away the other."""
    part, seen = tiny(), []
    part.forward = lambda x, t: seen.append(t) or torch.zeros(len(x), 3, requires_grad=True)
    label, g = torch.arange(64) % 2, torch.Generator().manual_seed(0)
    for _ in range(50):
        batch = torch.zeros(64, 3, 8, 8), label
        list(part.objectives(iter([batch]), g))
    ranks = torch.stack(seen).argsort(1).argsort(1)
    assert (ranks.sort(1).values == torch.arange(64)).all()  # one in each 64th of the levels
    assert ((ranks % 2 == label).double().mean() - 0.5).abs() < 0.05
    assert ((ranks.double().mean(0) - 31.5).abs() < 12).all()


def test_one_domain_is_none():
    with pytest.raises(ValueError, match=r"needs two domains or more, not \['a'\]"):
        DomainClassifier(domains=("a",))
