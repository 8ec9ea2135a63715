"""Parts describe themselves, and building a description makes the same part, and nothing else."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from truth import tiny_denoiser

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.process import DDPM, PROCESSES, VP
from sfumato.methods.ddib import DDIB
from sfumato.methods.diffusion import Diffusion
from sfumato.module import Described, Part, _all_kinds, build, describe
from sfumato.nets.sizes import UNet


class Leaf(Part):
    number: float = 0.5
    name: str | None = None
    flags: tuple[bool, ...] = ()
    child: nn.Module | None = None
    table: dict | None = None


HERE = ("sfumato", __name__.split(".")[0])
keys = st.text(max_size=8).filter(lambda k: k not in ("is", "same as"))
values = {
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    "name": st.none() | st.text(max_size=8),
    "flags": st.lists(st.booleans(), max_size=3).map(tuple),
    "table": st.none() | st.dictionaries(keys, st.integers()),
}  # fmt: skip
leaves = st.recursive(
    st.builds(Leaf, **values),
    lambda children: st.builds(Leaf, child=children, **values),
    max_leaves=4,
)


@settings(max_examples=25)
@given(leaves)
def test_build_inverts_describe(part):
    text = json.dumps(describe(part))
    again = build(json.loads(text), HERE)
    assert json.dumps(describe(again)) == text
    while part is not None:
        for field in values:
            assert getattr(again, field) == getattr(part, field)
        part, again = part.child, again.child
    assert again is None


@given(st.sampled_from(list(PROCESSES.values())))
def test_processes_are_values(cls):
    assert build(describe(cls())) == cls()
    assert build(describe(VP(beta_max=7.0))) == VP(beta_max=7.0)
    assert build(describe(DDPM(steps=100))) != DDPM()


@settings(max_examples=12)
@given(
    width=st.sampled_from([8, 16]), multipliers=st.sampled_from([(1,), (1, 2)]), blocks=st.integers(1, 2),
    patch=st.sampled_from([1, 2]), labels=st.integers(0, 3), prediction=st.sampled_from(["v", "edm"]),
)  # fmt: skip
def test_networks_are_rebuilt(prediction, labels, **options):
    with torch.device("meta"):
        part = Denoiser(
            net=UNet(labels=labels, **options), prediction=prediction, process=VP(),
            domains=tuple("abc"[:labels]),
        )  # fmt: skip
        again = build(json.loads(json.dumps(describe(part))))
    shapes = lambda p: {k: v.shape for k, v in p.state_dict().items()}
    assert shapes(again) == shapes(part)
    assert (again.domains, again.process, again.prediction) == (part.domains, VP(), prediction)


def test_a_shared_part_stays_shared():
    f = tiny_denoiser()
    part = DDIB(
        source=Conditioned(denoiser=f, domain="a"), target=Conditioned(denoiser=f, domain="b")
    )
    description = describe(part)
    assert description["target"]["denoiser"] == {"same as": "source.denoiser"}
    again = build(json.loads(json.dumps(description)))
    assert again.source.denoiser is again.target.denoiser
    assert (again.source.domain, again.target.domain) == ("a", "b")


def test_ones_own_network_is_used_and_described():
    net = UNet(width=16, multipliers=(1, 2), blocks=1, labels=2)
    part = Diffusion(domains=("a", "b"), net=net)
    assert part.denoiser.net is net
    assert part.net is net
    assert describe(part)["net"]["width"] == 16
    assert build(describe(part)).denoiser.net.width == 16
    assert Diffusion(domains=("a",), net="tiny").net == "tiny"


def test_fields_are_the_constructor():
    with pytest.raises(TypeError):
        Leaf(0.5)
    with pytest.raises(TypeError, match="size"):
        Leaf(size=3)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "sfumatos.part:Part",
        "torch.nn:Linear",
    ],
)
def test_foreign_parts_are_refused_unimported(name):
    with pytest.raises(ValueError, match="which is not part of sfumato"):
        build({"is": name, "command": "true"})


def test_what_is_not_a_part_is_refused():
    with pytest.raises(ValueError, match="is not a part that a model may be made of"):
        build({"is": "torch.nn:Linear"}, allow=("torch",))


def test_what_does_not_exist_is_refused():
    for name in (
        "sfumato.module:Nothing",
        "sfumato.checkpoints.model_folder:load",
        "sfumato.data.folders:os.system",
        ":eval",
        "x",
    ):
        with pytest.raises(ValueError, match="this version of sfumato has no"):
            build({"is": name})
    with pytest.raises(ValueError, match="has no field 'gamma'; it has.*beta_min"):
        build({"is": "sfumato.diffusion.process:VP", "gamma": 1})


def test_what_has_no_description_says_where():
    with pytest.raises(TypeError, match=r"child: a Linear has no description"):
        describe(Leaf(child=nn.Linear(1, 1)))


def test_no_two_kinds_have_one_name():
    """A description names a kind by its class: a method must not be called as a process is."""

    def below(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    assert _all_kinds()
    ours = {c for c in below(Described) if c.__module__.startswith("sfumato.")}
    names = sorted(c.__name__ for c in ours)
    assert len(names) == len(set(names)), [a for a, b in pairwise(names) if a == b]
