"""What is compared, and how: entries as they are typed, protocols as data, and the probe."""

import json
import math
import shlex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.checkpoints.model_folder import describe_folder
from sfumato.core.errors import UserError
from sfumato.data.folders import parse_json
from sfumato.evaluation.compare import swept
from sfumato.evaluation.entries import entries_of
from sfumato.evaluation.metrics import METRICS
from sfumato.evaluation.preference_study import score
from sfumato.evaluation.probe import crossed, logistic, logit
from sfumato.evaluation.protocol import FILTERS, PROTOCOLS, Protocol, named_protocol, stretched
from sfumato.evaluation.scores import Scores
from sfumato.training import run_folder as runfolder
from sfumato.translation.run_file import to_repeat

# ---- entries ------------------------------------------------------------------------------------


def one(text):
    (entry,) = entries_of([text])
    return entry


def test_entries_as_they_are_typed():
    e = one("ddib source=runs/pets:cat target=runs/pets:dog steps=4")
    assert (e.label, e.family, e.method) == ("ddib", "ddib", "ddib")
    assert e.roles == {"source": "runs/pets:cat", "target": "runs/pets:dog"}
    assert e.options == {"steps": 4}
    e = one("model=runs/pairs noise=true direction=target-to-source eta=1e-3")
    assert (e.label, e.method, e.roles) == ("pairs", None, {"model": "runs/pairs"})
    assert e.options == {"noise": True, "direction": "target-to-source", "eta": 0.001}
    e = one("label='CUT, ours' folder='my results/cut'")
    assert (e.label, e.folder, e.slug) == ("CUT, ours", "my results/cut", "CUT-ours")
    assert one("scores=other/scores.json").scores == "other/scores.json"
    assert one("label=../.. folder=x").slug == "entry"  # a label leaves the folder never


def test_values_are_swept():
    found = entries_of(["sdedit label=S target=m:dog strength=0.3,0.5 steps=9,20"])
    assert [e.label for e in found] == [
        f"S strength={s} steps={n}" for s in (0.3, 0.5) for n in (9, 20)
    ]
    assert {e.family for e in found} == {"S"}
    assert [e.options["steps"] for e in found] == [9, 20, 9, 20]
    (one,) = entries_of(["ddib source=m:cat target=m:dog recentre_means=true"])
    assert one.options == {"recentre_means": True}
    assert entries_of(["sdedit target=m:dog strength=0.3"])[0].label == "sdedit"
    roles = {"model": None, "source": None, "target": "my runs/m:dog"}
    assert swept("sdedit", roles, ["strength=0.3,0.5"]) == entries_of(
        ["sdedit target='my runs/m:dog' strength=0.3,0.5"]
    )


@given(
    st.dictionaries(
        st.sampled_from(["mask", "repeats", "solver", "spacing", "steps", "strength"]),
        st.lists(
            st.one_of(
                st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
            ),
            min_size=1, max_size=3, unique_by=repr,
        ),
        max_size=3,
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)  # fmt: skip
def test_the_grammar_holds(options, label):
    words = [f"{k}={','.join(map(str, values))}" for k, values in options.items()]
    text = shlex.join(["sdedit", f"label={label}", "target=m:dog", *words])
    found = entries_of([text])
    assert len(found) == math.prod(len(v) for v in options.values())
    assert len({e.label for e in found}) == len(found)
    for e in found:
        assert e.family == label
        assert set(e.options) == set(options)
        assert all(e.options[k] in values for k, values in options.items())
        assert "/" not in e.slug
        assert not e.slug.startswith(".")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["sdedti target=m:dog"], "unknown method 'sdedti': did you mean 'sdedit'"),
        (["sdedit target=m:dog strength"], "'strength' in 'sdedit target=m:dog strength': expected"),
        (["target=m:dog sdedit"], "'sdedit' in"),
        (["label=x"], "says neither a METHOD nor model=, folder= or scores="),
        ([""], "says neither"),
        (["ddib folder=x"], "take no method and no options"),
        (["folder=x strength=1"], "take no method and no options"),
        (["scores=x target=m:dog"], "take no method and no options"),
        (["folder=x scores=y"], "folder= or scores=, not both"),
        (["ddib source=a:b target=m:d", "ddib source=c:d target=m:d"], "2 entries are called 'ddib': give"),
        (["sdedit target=m:d strength=0.5,0.50"], "strength is 0.5 twice in"),
        (["sdedit target=m:d strength=0.3 strength=0.5"], "'strength' twice"),
        (["label='CUT folder=x"], "entry .label='CUT folder=x.: No closing quotation"),
        (["folder=a/truth"], "cannot be called 'truth', as the page's own: give a label=NAME"),
    ],
)  # fmt: skip
def test_entries_that_are_none(texts, says):
    with pytest.raises(ValueError, match=says) as error:
        entries_of(texts)
    assert "\n" not in str(error.value)


# ---- protocols ----------------------------------------------------------------------------------


@given(
    st.builds(
        Protocol, name=st.text(), about=st.text(), size=st.none() | st.integers(1, 4096),
        filter=st.sampled_from(FILTERS),
        metrics=st.lists(st.sampled_from([*METRICS]), unique=True).map(tuple),
        features=st.sampled_from(["lite0", "inception"]),
        feature_size=st.none() | st.integers(1, 4096), feature_filter=st.sampled_from(FILTERS),
        feature_resize=st.sampled_from(["bilinear", "clean"]), imagenet=st.booleans(),
        reference=st.sampled_from(["test", "train"]), checkpoint=st.text(),
    )
)  # fmt: skip
def test_a_protocol_survives_json(tmp_path_factory, protocol):
    file = tmp_path_factory.getbasetemp() / "protocol.json"
    file.write_text(json.dumps(protocol.to_json()), encoding="utf-8")
    assert Protocol.read(file) == named_protocol(file) == protocol


FIELDS = st.sampled_from([*PROTOCOLS["standard"].to_json()])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3), x, max_size=2),
)


@given(st.dictionaries(FIELDS, JSON))
def test_a_protocol_is_right_or_refused_in_one_line(tmp_path_factory, fields):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps({"name": "mine", "about": ""} | fields), encoding="utf-8")
    try:
        p = Protocol.read(file)
    except ValueError as error:
        p, said = None, str(error)
    if p is None:
        assert "\n" not in said
        return
    assert isinstance(p.name, str)
    assert isinstance(p.about, str)
    assert isinstance(p.imagenet, bool)
    assert all(s is None or (type(s) is int and s >= 1) for s in (p.size, p.feature_size))
    assert set(p.metrics) <= set(METRICS)
    assert {p.filter, p.feature_filter} <= set(FILTERS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"{", "is not a readable protocol"),
        (b"\xff\xfe", "is not a readable protocol"),
        (b"[]", "expected an object with name, about"),
        (b'{"name": "x"}', "expected an object with name, about"),
        (b'{"name": "x", "about": "", "sice": 1}', "did you mean 'size'"),
        (b'{"name": "x", "about": "", "metrics": ["l2", "snr"]}', "did you mean 'psnr'"),
        (b'{"name": "x", "about": "", "filter": "bicubc"}', "did you mean 'bicubic'"),
        (b'{"name": "x", "about": "", "features": "lite1"}', "did you mean 'lite0'"),
        (b'{"name": "x", "about": "", "size": 0}', "size must be at least 1, not 0"),
        (b'{"name": "x", "about": "", "size": 25.5}', "size must be a whole number or None, not 25.5"),
        (b'{"name": "x", "about": "", "size": "256"}', "size must be a whole number or None, not '256'"),
        (b'{"name": "x", "about": "", "metrics": "l2"}', "unknown metric 'l'"),
    ],
)
def test_protocols_that_are_none(tmp_path, content, says):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        named_protocol(file)
    assert "\n" not in str(error.value)


def test_json_with_a_key_twice_is_refused_wherever_it_is_read(tmp_path):
    """One of two would be lost without a word."""
    assert parse_json('{"a": [{"b": 1}, {"b": 2}]}') == {"a": [{"b": 1}, {"b": 2}]}
    twice, file = '{"name": "x", "about": "y", "size": 8, "size": 16}', tmp_path / "x.json"
    file.write_text(twice)
    with pytest.raises(UserError, match="'size' is there twice"):
        Protocol.read(file)
    deep = "[" * 100_000
    readers = [Scores.read, lambda f: score([f], f), lambda f: to_repeat(f), Protocol.read,
               lambda f: describe_folder(f.parent), lambda f: runfolder.read_run(f.parent)]  # fmt: skip
    for text in (twice, deep):
        for name in ("x.json", "model.json", "run.json"):
            (tmp_path / name).write_text(text)
        for read in readers:
            with pytest.raises(UserError):
                read(file)


def test_protocols_by_name():
    with pytest.raises(ValueError, match="unknown protocol 'egdse': did you mean 'egsde'"):
        named_protocol("egdse")
    other = named_protocol("egsde", "lite0")  # another protocol, and it says so
    assert (other.name, other.features) == ("egsde+lite0", "lite0")
    assert other.size == 256
    assert named_protocol("standard", "lite0") == PROTOCOLS["standard"]
    with pytest.raises(ValueError, match="unknown features 'lite'"):
        named_protocol("standard", "lite")
    with pytest.raises(ValueError, match="unknown features '': known"):
        named_protocol("standard", "")


def test_the_published_protocols():
    """Line by line what the papers' code does."""
    p = PROTOCOLS["egsde"]
    assert (p.size, p.filter, p.metrics) == (256, "bicubic", ("l2", "psnr", "ssim"))
    assert (p.features, p.feature_size, p.feature_resize) == ("inception", None, "bilinear")
    assert (p.imagenet, p.reference) == (False, "test")
    m = PROTOCOLS["egsde_m2f"]  # resized before, normalised twice, against training pictures
    assert (m.feature_size, m.imagenet, m.reference) == (256, True, "train")
    assert m.name != p.name
    c = PROTOCOLS["cyclediffusion"]
    assert (c.feature_size, c.feature_resize, c.reference) == (256, "clean", "test")
    assert all(name == p.name for name, p in PROTOCOLS.items())


@pytest.mark.parametrize("filter", FILTERS)
def test_stretched_is_pillow(filter):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 33, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = stretched(x, 256, filter)
    how = Image.Resampling[filter.upper()]
    wanted = np.stack([np.asarray(Image.fromarray(p).resize((256, 256), how)) for p in pixels])
    assert abs(((found + 1) * 127.5).permute(0, 2, 3, 1).numpy() - wanted).max() < 1e-4
    assert stretched(found, 256, filter) is found
    assert stretched(x, None, filter) is x


def test_a_resize_hides_no_broken_pixel():
    x = torch.zeros(3, 3, 8, 8)
    x[1, 0, 0, 0], x[2, 1, 1, 1] = torch.nan, torch.inf
    assert stretched(x, 16, "bicubic").isfinite().flatten(1).all(1).tolist() == [True, False, False]


# ---- the probe ----------------------------------------------------------------------------------


def gaussian(n, d, mean=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + mean


def test_the_probe_knows_gaussians_apart(report):
    """N(0, 1) against N(m, 1) in 4 dimensions: the best rule is right with Phi(sqrt(4) m / 2)."""
    for mean in (0.5, 1.0, 3.0):
        a, b, y = (gaussian(2000, 4, m, s) for s, m in enumerate((0, mean, mean)))
        best = 0.5 * (1 + math.erf(mean / 2**0.5))
        found = crossed(a, b, y).mean().item(), 1 - crossed(a, b, a).mean().item()
        report(f"probe of Gaussians {mean:g} apart: right (best possible)", *found, best)
        assert found == pytest.approx((best, best), abs=0.03)


def test_the_probe_is_at_chance_where_there_is_nothing():
    found = [
        crossed(*(gaussian(200, 8, seed=3 * k + s) for s in range(3))).mean() for k in range(8)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_no_probe_judges_what_it_saw(report):
    """60 points in 200 dimensions can be learned by heart: a probe that saw them knows them all."""
    a, b = gaussian(60, 200), gaussian(60, 200, seed=1)
    seen = (logit(logistic(a, b), a) > 0).double().mean()
    honest = np.mean([crossed(a, b, a, seed=s).mean() for s in range(10)])
    report("probe on what it saw, cross-fitted (nothing to know: 0.5)", float(seen), honest)
    assert seen < 0.05
    assert 0.35 < honest < 0.65


def test_no_probe_judges_copies_of_what_it_saw():
    """Four copies a source: divided one by one they lie on both sides."""
    a, b = (gaussian(40, 200, seed=s).repeat_interleave(4, 0) for s in range(2))
    groups = [i // 4 for i in range(160)]
    honest = np.mean([crossed(a, b, a, groups, seed=s).mean() for s in range(5)])
    leaking = np.mean([crossed(a, b, a, seed=s).mean() for s in range(5)])
    assert leaking < 0.1
    assert 0.3 < honest < 0.7


def test_the_better_a_copy_the_less_it_is_taken_for_the_target():
    a, b = gaussian(300, 6), gaussian(300, 6, 1.5, 1)
    shares = [crossed(a, b, (1 - t) * a + t * b).mean().item() for t in (0, 0.3, 0.6, 1)]
    assert shares == sorted(shares)
    assert shares[0] < 0.1 < 0.9 < shares[-1]


def test_other_features_are_another_protocol_however_it_is_given():
    named = named_protocol("standard", "inception")
    assert named_protocol(PROTOCOLS["standard"], "inception") == named
    assert named != PROTOCOLS["standard"] == named_protocol(PROTOCOLS["standard"])
