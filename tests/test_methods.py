"""The contract of a method, held against every file in sfumato/methods by itself."""

import dataclasses
import inspect
import itertools
import re

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from truth import lively, tiny_denoiser

from sfumato.checkpoints.model_folder import load, save
from sfumato.diffusion.guidance import Conditioned
from sfumato.methods import registry as method
from sfumato.module import Part, fields
from sfumato.training.fit import State, fit

NAMES = method.names()
TRANSLATORS = [n for n in NAMES if hasattr(method.find(n), "translate")]
TRAINABLE = [n for n in NAMES if hasattr(method.find(n), "objectives")]
PICTURES = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
FEW = {"steps": 4}


def tiny(name, gain=0.1):
    """The method on tiny random networks: denoisers wherever a field without default asks for one.

    Any other model it needs or takes is the method of that name's end, as in `domain_classifier`.
    """
    cls, kwargs, shared = method.find(name), {}, tiny_denoiser()
    domains = itertools.cycle("ab")
    for f in fields(cls):
        if f.name == "net":
            kwargs["net"] = "tiny"
        elif f.default is dataclasses.MISSING and f.name == "domains":
            kwargs["domains"] = ("a", "b")
        elif f.default in (dataclasses.MISSING, None) and f.name not in ("source", "target"):
            kwargs[f.name] = tiny(next(n for n in NAMES if n.endswith(f"_{f.name}")))
        elif f.default is dataclasses.MISSING:
            kwargs[f.name] = Conditioned(denoiser=shared, domain=next(domains))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = cls(**kwargs)
    return part.eval() if "net" not in kwargs else lively(part)


def options(part):
    return {k: v for k, v in FEW.items() if k in inspect.signature(part.translate).parameters}


def batches(kind):
    g = torch.Generator().manual_seed(0)
    while True:
        a, b = (torch.rand(2, 3, 16, 16, generator=g) * 2 - 1 for _ in range(2))
        yield (a, torch.randint(2, (2,), generator=g)) if kind == "domains" else (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_found_cited_and_documented(name):
    cls = method.find(name)
    assert issubclass(cls, Part)
    assert method.name_of(cls) == name
    module = inspect.getmodule(cls)
    assert re.search(r"https://\S+", module.__doc__.split("@")[0]), "no URL before the BibTeX"
    bibtex = method.cite(name)
    assert re.match(r"@\w+\{[\w:-]+,\n  title = \{", bibtex)
    assert bibtex.count("{") == bibtex.count("}")
    assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) =", bibtex, re.M))
    texts = [(cls.__doc__, [f.name for f in fields(cls)])]
    if name in TRANSLATORS:
        parameters = list(inspect.signature(cls.translate).parameters)[1:]
        texts.append((cls.translate.__doc__, parameters))
    for text, documented in texts:
        arguments = inspect.cleandoc(text).split("Args:\n")[-1]
        assert re.findall(r"^    (\w+): \S", arguments, re.M) == documented


@pytest.mark.parametrize("name", NAMES)
def test_has_something_to_do(name):
    assert name in TRANSLATORS + TRAINABLE
    if name in TRAINABLE:
        assert method.find(name).data in ("domains", "pairs", "unpaired")


@pytest.mark.parametrize("name", TRANSLATORS)
def test_signature(name):
    _self, source, *rest = inspect.signature(method.find(name).translate).parameters.values()
    assert source.name == "source"
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    assert {"seed": 0, "watch": None}.items() <= {p.name: p.default for p in rest}.items()
    assert all(p.annotation is not p.empty for p in rest)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_translates(name):
    part, seen = tiny(name), []
    before = {k: v.clone() for k, v in part.state_dict().items()}
    y = part.translate(PICTURES, as_is=True, seed=3, **options(part))
    assert y.shape == PICTURES.shape
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert not y.requires_grad
    assert not torch.equal(y, PICTURES)
    torch.manual_seed(99)  # no global seed matters
    watch = lambda t, x, mean, extras: seen.append((t, x.shape, mean.shape, extras["nfe"]))
    assert torch.equal(part.translate(PICTURES, as_is=True, seed=3, watch=watch, **options(part)), y)
    for t, x, mean, nfe in seen:
        assert 0 <= t <= 1
        assert x == mean == PICTURES.shape
        assert nfe >= 0
    for k, v in part.state_dict().items():
        assert torch.equal(v, before[k])


@pytest.mark.parametrize("name", TRANSLATORS)
def test_one_image_in_any_batch(name, report):
    """Any order, any duplicates and any batch size: to 2e-5, where other noise would be other pictures.

    A processor's matrix products and convolutions sum in another order for another batch, some for
    another place in it; noise and everything else is the same to the bit.
    """
    part = tiny(name)
    run = lambda batch: part.translate(PICTURES[batch], as_is=True, **options(part))
    y = run(list(range(7)))
    scale, worst = y.abs().max(), 0.0
    for batch in ([6, 5, 4, 3, 2, 1, 0], [3, 3, 3, 2, 2, 2, 1], [0] * 7, [0], [3, 2], [5, 5], [0, 2, 4, 6]):
        worst = max(worst, ((run(batch) - y[batch]).abs().max() / scale).item())
    report(f"{name}, an image in other batches", worst)
    assert worst < 2e-5  # a row of instance norms magnifies rounding


@pytest.mark.parametrize("name", TRANSLATORS)
def test_saved_and_loaded_it_gives_the_same_pixels(name, tmp_path):
    part = tiny(name)
    save(part, tmp_path / "m")
    want = part.translate(PICTURES, **options(part))
    assert torch.equal(load(tmp_path / "m").translate(PICTURES, **options(part)), want)


@pytest.mark.parametrize("name", TRAINABLE)
def test_each_loss_moves_only_its_player(name):
    """In the training loop, a step of one player after the other, each by its own loss's gradient."""
    part, players, stepped = tiny(name).train(), [], []
    objectives, grad = part.objectives, torch.autograd.grad

    def watched(stream, rng):
        for player, loss in objectives(stream, rng):
            assert loss.shape == ()
            mine = dict(part.get_submodule(player).named_parameters(player))
            want = grad(loss, list(mine.values()), retain_graph=True, allow_unused=True)
            before = {k: v.clone() for k, v in part.named_parameters()}
            yield player, loss
            for found, wanted in zip(stepped.pop(), want, strict=True):
                torch.testing.assert_close(found, wanted)
            moved = {k for k, v in part.named_parameters() if not torch.equal(v, before[k])}
            assert moved
            assert moved <= mine.keys()
            players.append(player)

    def stepping(optimiser, *_):
        stepped.append([p.grad for group in optimiser.param_groups for p in group["params"]])

    part.objectives = watched
    hook = register_optimizer_step_pre_hook(stepping)
    try:
        list(fit(State(part), batches(part.data), steps=1, warmup=0, clip=0.0))
    finally:
        hook.remove()
    assert len(players) == len(set(players)) > 0
    assert not stepped


@pytest.mark.parametrize("name", TRAINABLE)
def test_all_randomness_of_training_comes_from_rng(name):
    part = tiny(name).train()
    losses = []
    for seed, world in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(world)
        rng = torch.Generator().manual_seed(seed)
        untouched = rng.get_state()
        losses.append([loss.item() for _, loss in part.objectives(batches(part.data), rng)])
    assert losses[0] == losses[1]
    drew = not torch.equal(rng.get_state(), untouched)  # nothing is random in some first steps
    assert (losses[0] != losses[2]) == drew


def test_a_new_image_of_a_domain():
    part = tiny("diffusion")
    y = part.sample("a", PICTURES, steps=3)
    assert torch.equal(y, part.sample("a", PICTURES.flip(0), steps=3))  # only shapes matter
    assert not torch.allclose(y, part.sample("b", PICTURES, steps=3), atol=1e-3)
    torch.testing.assert_close(part.sample("a", PICTURES[:2], steps=3), y[:2], rtol=0, atol=1e-4)
    assert not torch.allclose(y[0], y[1], atol=1e-2)


def test_hidden_labels_are_the_share_asked_for():
    class Ask(nn.Module):
        def forward(self, x, log_sigma, label):
            self.label = label
            return x

    part = method.find("diffusion")(domains=("a", "b"), net=Ask(), any_domain=0.25)
    x = torch.zeros(4000, 1, 1, 1)
    data = itertools.repeat((x, torch.arange(4000) % 2))
    list(part.objectives(data, torch.Generator().manual_seed(0)))
    label = part.denoiser.net.label
    assert (label == 2).float().mean().item() == pytest.approx(0.25, abs=0.03)
    shown = label != 2
    assert torch.equal(label[shown], (torch.arange(4000) % 2)[shown])
    with pytest.raises(ValueError, match=r"any_domain must be in \[0, 1\), not 1.5"):
        method.find("diffusion")(domains=("a",), any_domain=1.5)


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown method 'dddib': did you mean 'ddib'"):
        method.find("dddib")
    with pytest.raises(ValueError, match="known: .*ddib, "):
        method.find("xyzzy")
    for name in ("diffusion", "paired_sde"):
        with pytest.raises(ValueError, match="unknown process 'cosin': did you mean 'cosine'"):
            method.find(name)(**{"domains": ("a",)} if name == "diffusion" else {}, process="cosin")
