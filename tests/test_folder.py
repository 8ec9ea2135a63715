"""Model folders: the same pixels after saving and loading; one line for everything that is wrong."""

import contextlib
import copy as copying
import json
import math
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from truth import lively, tiny_denoiser

import sfumato
from sfumato.checkpoints import model_folder as folders
from sfumato.checkpoints import tensors
from sfumato.checkpoints.model_folder import describe_folder
from sfumato.core.errors import UserError
from sfumato.diffusion.guidance import Conditioned
from sfumato.methods.ddib import DDIB
from sfumato.methods.diffusion import Diffusion
from sfumato.methods.paired_sde import PairedSDE
from sfumato.methods.registry import find
from sfumato.module import Part, build, describe
from sfumato.nets.sizes import SIZES, UNet

PICTURES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved two-domain diffusion model."""
    folder = tmp_path_factory.mktemp("models") / "m"
    part = lively(Diffusion(domains=("cat", "dog"), net="tiny"))
    folders.save(part, folder, info={"data": "none"})
    return part, folder


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model[1], tmp_path / "copy")


def rewrite(folder, change):
    info = json.loads((folder / "model.json").read_text())
    change(info)
    (folder / "model.json").write_text(json.dumps(info))


def fails(folder, text):
    """Loading says so in one line that names the folder or the thing."""
    with pytest.raises(ValueError, match=text) as caught:
        folders.load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_everything_comes_back(model):
    part, folder = model
    again = folders.load(folder)
    assert not again.training
    assert describe(again) == describe(part)
    for (k, v), (l, w) in zip(part.state_dict().items(), again.state_dict().items(), strict=True):
        assert k == l
        assert torch.equal(v, w)
    assert all(not p.is_meta and p.requires_grad for p in again.parameters())
    assert (folder / "README.md").read_text().startswith("# A diffusion model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "model.json",
        "weights.safetensors",
    ]


def test_a_domain_of_a_model(model):
    part, folder = model
    f = folders.load(f"{folder}:dog")
    assert (f.domain, type(f)) == ("dog", Conditioned)
    want = part.denoiser(PICTURES, 0.5, domain="dog")
    assert torch.equal(f(PICTURES, 0.5), want)
    assert not torch.allclose(folders.load(f"{folder}:cat")(PICTURES, 0.5), want)
    fails(f"{folder}:dgo", "unknown domain 'dgo': did you mean 'dog'.*cat, dog")


def test_the_only_domain_needs_no_name():
    one = folders.denoiser_of(Diffusion(domains=("cat",), net="tiny"), None)
    assert one.domain == "cat"
    with pytest.raises(ValueError, match="knows cat, dog: say which, as in the model:cat"):
        folders.denoiser_of(Diffusion(domains=("cat", "dog"), net="tiny"), None)
    with pytest.raises(ValueError, match="is a paired_sde, which has no domains"):
        folders.denoiser_of(PairedSDE(net="tiny"), "cat")


def test_shared_parts_are_stored_once(tmp_path):
    f = tiny_denoiser()
    part = DDIB(
        source=Conditioned(denoiser=f, domain="a"), target=Conditioned(denoiser=f, domain="b")
    )
    folders.save(part, tmp_path / "m")
    stored = load_file(tmp_path / "m" / "weights.safetensors")
    assert len(stored) == len(f.state_dict())
    again = folders.load(tmp_path / "m")
    assert again.source.denoiser is again.target.denoiser
    assert torch.equal(again.translate(PICTURES, steps=2), part.translate(PICTURES, steps=2))


def test_half_the_bytes(model, tmp_path):
    part, folder = model
    folders.save(part, tmp_path / "half", dtype=torch.float16)
    sizes = [(f / "weights.safetensors").stat().st_size for f in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = folders.load(tmp_path / "half")
    for v, w in zip(part.parameters(), again.parameters(), strict=True):
        assert w.dtype == torch.float32
        assert torch.equal(v.half().float(), w)


def test_other_weights_may_be_saved(model, tmp_path):
    part, _ = model
    average = {k: torch.zeros_like(v) for k, v in folders.unique_state(part).items()}
    folders.save(part, tmp_path / "m", weights=average)
    assert all((p == 0).all() for p in folders.load(tmp_path / "m").parameters())


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(copy, keep):
    file = copy / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    fails(copy, "weights.safetensors is damaged or truncated")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_pointer_of_git_lfs_is_called_so(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    fails(copy, f"{name} is a pointer of Git LFS.*git lfs pull")


def test_a_changed_byte(copy):
    file = copy / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    fails(copy, "do not have their hash")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_missing_files(copy, name):
    (copy / name).unlink()
    fails(copy, f"has no {name}")


def test_no_folder(tmp_path):
    fails(tmp_path / "nothing", "there is no model folder")
    fails(f"{tmp_path / 'nothing'}:cat", "there is no model folder")
    (tmp_path / "file").write_text("")
    fails(tmp_path / "file", "there is no model folder")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", "{}", '{"format": 1}', '{"format": 1, "model": []}', "\x00\xff"],
)
def test_model_json_that_is_not_ours(copy, text):
    (copy / "model.json").write_text(text, encoding="latin-1")
    fails(copy, "is damaged or was not written by sfumato")


def test_a_mark_at_the_beginning_of_model_json_is_passed_over(copy):
    sfumato.load(copy)
    text = (copy / "model.json").read_text()
    (copy / "model.json").write_text(text, encoding="utf-8-sig")
    sfumato.load(copy)


@pytest.mark.parametrize("form", [3, 99, "1", None, 1.5])
def test_future_formats(copy, form):
    rewrite(copy, lambda info: info.update(format=form))
    older = r"has format .*reads up to 2: update its source"
    fails(copy, older if form in (3, 99) else "its format is .*, expected a number from 1 on")


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:Popen"])
def test_code_is_never_run(copy, name):
    rewrite(copy, lambda info: info["model"].update({"is": name}))
    fails(copy, "which is not part of sfumato")
    diffusion = {"is": "Diffusion", "net": {"is": name}}
    rewrite(copy, lambda info: info["model"].update(diffusion))
    fails(copy, "which is not part of sfumato")


@pytest.mark.parametrize(
    "change",
    [
        {"is": "VP"}, {"is": "Process"}, {"is": "sfumato.checkpoints.model_folder:load"},
        {"is": "load"},
        {"domains": None}, {"domains": 3}, {"net": "smal"}, {"net": None}, {"channels": "three"},
        {"channels": -3}, {"process": "vpp"}, {"process": {"same as": "nowhere"}}, {"any_domain": 2.0},
        {"colour": True}, {"net": {"is": "UNet", "multipliers": []}},
    ],
    ids=str,
)  # fmt: skip
def test_models_that_cannot_be_built(copy, change):
    def edit(info):
        if "is" in change:
            info["model"].clear()
        info["model"].update(change)

    rewrite(copy, edit)
    fails(
        copy,
        "does not describe a model|unknown|no field|is not a part|must be|is a share|there is none|this v",
    )


def test_weights_of_another_model(model, copy, tmp_path):
    folders.save(Diffusion(domains=("a", "b", "c"), net="tiny"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", copy / "weights.safetensors")
    fails(copy, r"does not belong to its model.json: .*label_embed.* is \(4, .*expected \(3, ")
    stored = load_file(tmp_path / "other" / "weights.safetensors")
    del stored["denoiser.net.stem.weight"], stored["denoiser.net.label_embed.weight"]
    stored["denoiser.net.label_embed.weight"] = load_file(model[1] / "weights.safetensors")[
        "denoiser.net.label_embed.weight"
    ]
    save_file(stored, copy / "weights.safetensors")
    fails(copy, "does not belong to its model.json: denoiser.net.stem.weight is missing, expected")
    stored = load_file(model[1] / "weights.safetensors")
    save_file(stored | {"surplus": torch.zeros(1)}, copy / "weights.safetensors")
    fails(copy, "does not belong to its model.json: unexpected surplus")


def test_a_failed_save_leaves_the_old_model(model, copy, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "to_bytes", full)
    with pytest.raises(OSError, match="No space left on device; nothing written"):
        folders.save(lively(Diffusion(domains=("a",), net="tiny")), copy)
    monkeypatch.undo()
    assert describe(folders.load(copy)) == describe(model[0])
    assert not [p for p in copy.iterdir() if p.name.startswith(".")]


class Ramp(Part):
    """Keeps what its constructor computes out of its state_dict: as a buffer, and as an attribute."""

    width: int = 4

    def __post_init__(self):
        self.scale = nn.Linear(self.width, self.width)
        self.register_buffer("ramp", torch.linspace(0, 1, self.width), persistent=False)
        self.taps = torch.arange(self.width) / 2

    def forward(self, x):
        return self.scale(x * self.ramp + self.taps)


class Holder(Part):
    inner: Ramp


def test_what_a_constructor_computes_is_there_after_loading(tmp_path):
    part, x = Holder(inner=Ramp()).eval(), torch.randn(3, 4)
    folders.save(part, tmp_path / "m")
    loaded = folders.load(tmp_path / "m", allow=("sfumato", __name__))
    assert not any(v.is_meta for v in (loaded.inner.ramp, loaded.inner.taps, *loaded.parameters()))
    assert torch.equal(loaded.inner(x), part.inner(x))
    assert not loaded.inner.training


def test_build_on_meta_costs_no_memory():
    with torch.device("meta"):
        part = build(describe(Diffusion(domains=("a",), net="tiny")))
    assert all(p.is_meta for p in part.parameters())


def test_tensors_that_have_changed_names_are_noticed(tmp_path):
    file = tmp_path / "x.safetensors"
    tensors.write_tensors(file, {"a": torch.zeros(2), "b": torch.ones(2)})
    with safe_open(file, framework="pt") as f:
        said = f.metadata()
    save_file({"a": torch.zeros(2), "c": torch.ones(2)}, file, said)
    with pytest.raises(ValueError, match="do not have their hash"):
        tensors.read_tensors(file)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    (tmp_path / "day:1").mkdir()
    assert folders.resolve(f"{tmp_path}/day:1") == (tmp_path / "day:1", None)
    assert folders.resolve(f"{tmp_path}/day:1:cat") == (tmp_path / "day:1", "cat")


# ---- folders of strangers -----------------------------------------------------------------------

UNET = "UNet"
HOSTILE = [
    None, True, -1, 0, 3, 1.5, 10**6, 10**9, 10**30, 10**400, 1e308, math.nan, math.inf, -math.inf, "", "x",
    "\x1b[2J", "\udcff", "a" * 10_000, [], {}, [[]], [1] * 3000, ["a"] * 3000, {"is": 3}, {"same as": []},
    {"same as": "net"}, {"is": "UNet", "blocks": 10**6}, {"is": "DDPM"},
    {"is": "Part"}, {"is": "Process"}, {"is": "sfumato..x:y"},
    {"is": "sfumato.\udcff:y"}, {"is": "UNet", "width": 10**12}, {"a": {"b": [None]}},
    {"is": "ResNet", "n_blocks": 10**7},
    {"is": "UNetGenerator", "downs": 10**7},
    {"is": "TransportUNet", "levels": 10**7},
    {"is": "Diffusion", "domains": ["a.b", "a.b"]},
]  # fmt: skip


def places(value, at=()):
    """Every place in a JSON value, as the keys that lead there."""
    yield at
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    )
    for key, v in pairs:
        yield from places(v, (*at, key))


def changed(value, rng):
    """A copy with one place replaced, removed, or added to."""
    value = copying.deepcopy(value)
    *way, last = rng.choice([p for p in places(value) if p])
    inner = value
    for key in way:
        inner = inner[key]
    if isinstance(inner, list) or rng.random() < 0.7:
        inner[last] = rng.choice(HOSTILE)
    elif rng.random() < 0.5:
        del inner[last]
    else:
        inner[rng.choice(["x", "is", "same as", "net", "domains"])] = rng.choice(HOSTILE)
    return value


def damaged(data, rng):
    """Bytes changed, cut off, doubled or moved."""
    data, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 20))):
            data[rng.randrange(len(data))] = rng.choice(b'\x00\xff"{}[],:0e-')
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + rng.randrange(1, 50)]
    else:
        del data[at : at + rng.randrange(1, 50)]
    return bytes(data)


def survives(folder):
    """Loading ends well or in one line, soon, and without memory that the folder does not hold."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UserError):
        describe_folder(folder)
        folders.load(folder)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


@pytest.mark.parametrize("method", ["diffusion", "cyclegan", "pix2pix", "neural_ot"])
def test_a_changed_model_json_is_refused_in_one_line(method, tmp_path):
    rng, domains = random.Random(method), {"domains": ("a", "b")} if method == "diffusion" else {}
    folders.save(
        find(method)(net="tiny", **domains),
        tmp_path / "m",
        info={"size": 16, "data": {"count": {"a": 3}}},
    )
    file = tmp_path / "m" / "model.json"
    good = json.loads(file.read_text())
    if method == "diffusion":
        good["model"]["net"] = describe(UNet(**SIZES["tiny"], labels=2))
    for i in range(20):
        made = changed(good, rng)
        for _ in range(rng.randrange(3)):
            made = changed(made, rng) if isinstance(made, dict) and made else made
        text = json.dumps(made).encode()
        file.write_bytes(damaged(text, rng) if i % 4 == 0 else text)
        survives(tmp_path / "m")


def test_changed_weights_are_refused_in_one_line(copy):
    rng, file = random.Random(1), copy / "weights.safetensors"
    good = file.read_bytes()
    (size,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    kinds = ["F64", "F16", "I64", "I8", "BOOL", "C64", "F8_E4M3", "F4", "U64", "F32x"]
    shapes = [[], [0], [10**12], [2**63, 2**63], [-1], [1, 1], None, "x"]
    for i in range(60):
        made = copying.deepcopy(header)
        made.pop("__metadata__", None) if i % 2 else None
        for key in rng.sample(sorted(made.keys() - {"__metadata__"}), rng.choice((1, 1, 5))):
            part = rng.choice(["dtype", "shape", "data_offsets", "all"])
            new = {
                "dtype": kinds,
                "shape": shapes,
                "data_offsets": [[0, 0], [0, 2**62], [5, 1], [0, 64]],
            }
            made[key] = (
                rng.choice(HOSTILE) if part == "all" else made[key] | {part: rng.choice(new[part])}
            )
        text = json.dumps(made).encode()
        if i % 5 == 0:
            text = damaged(text, rng)
        length = rng.choice([len(text)] * 9 + [0, 2**63, len(text) + 8])
        file.write_bytes(struct.pack("<Q", length) + text + data)
        survives(copy)
        file.write_bytes(damaged(good, rng))
        survives(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(info=[1]), "info must be names and values"),
        (lambda m: m["info"].update(size="32"), "size must be a number of pixels, not '32'"),
        (lambda m: m["info"].update(size=True), "size must be a number of pixels"),
        (lambda m: m["model"].update(domains=[1, 2]), "domains must be a list of names"),
        (lambda m: m["model"].update({"is": ["x"]}), "the model's kind must be a name"),
        (lambda m: m["model"].update(any_domain=math.nan), "any_domain must be a finite number, not nan"),
        (lambda m: m["model"].update(channels=3.5), "channels must be a whole number, not 3.5"),
        (lambda m: m["model"].update(channels=10**9), "channels must be at most 10,000,000"),
        (lambda m: m["model"].update(net={"is": UNET, "blocks": 10**6}), "more than its"),
        (lambda m: m["model"].update(net={"is": UNET, "dropout": "x"}), "net.dropout must be a finite"),
    ],
)  # fmt: skip
def test_what_model_json_says_is_checked_before_anything_is_built(change, message, copy):
    rewrite(copy, change)
    began = time.process_time()
    fails(copy, message)
    assert time.process_time() - began < 3


def test_a_deep_or_endless_model_json_is_refused(copy):
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"format": ' + "1" * 5000 + "}", " " * 2**25):
        (copy / "model.json").write_text(text)
        fails(copy, "is damaged or was not written by sfumato")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(math.nan), "has values that are not numbers"),
        (lambda w: w.where(w < 0, math.inf), "has values that are not numbers"),
        (lambda w: w.long(), "is I64, expected floating-point numbers"),
        (lambda w: w.to(torch.complex64), "is C64, expected F16"),
        (lambda w: w.to(torch.float8_e4m3fn), "is F8_E4M3, expected F16"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(change, message, copy):
    stored = load_file(copy / "weights.safetensors")
    stored["denoiser.net.stem.weight"] = change(stored["denoiser.net.stem.weight"])
    save_file(stored, copy / "weights.safetensors")
    fails(copy, message)


def test_no_weight_is_read_before_all_fit_and_each_is_read_once(model, copy, monkeypatch):
    reads, read = [], tensors.safe_open

    class Counting:
        def __init__(self, *given, **how):
            self.file = read(*given, **how)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_tensor(self, key):
            reads.append(key)
            return self.file.get_tensor(key)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(tensors, "safe_open", Counting)
    folders.load(copy)
    assert sorted(reads) == sorted(folders.unique_state(model[0]))
    reads.clear()
    rewrite(copy, lambda info: info["model"].update(domains=["a", "b", "c"]))
    fails(copy, "does not belong to its model.json")
    assert not reads


def test_what_was_read_does_not_keep_the_file(copy):
    """A file that is mapped keeps its place on the disk after it was replaced, and changes with it."""
    part, file = folders.load(copy), copy / "weights.safetensors"
    before = {k: v.clone() for k, v in part.state_dict().items()}
    with file.open("r+b") as f:
        f.seek(-4000, 2)
        f.write(b"\x7f" * 4000)
    assert all(torch.equal(v, before[k]) for k, v in part.state_dict().items())


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_no_link_leads_out_of_a_model_folder(name, model, copy, tmp_path):
    (copy / name).unlink()
    (copy / name).symlink_to(model[1] / name)
    fails(copy, f"{name} is a link out of its folder")
    (copy / name).unlink()
    (copy / name).symlink_to(copy / name)  # a loop
    fails(copy, f"no {name}")
    (copy / name).unlink()
    shutil.copy(model[1] / name, copy / f"my {name}")
    (copy / name).symlink_to(f"my {name}")
    (tmp_path / "linked").symlink_to(copy)  # the folder itself may be a link
    assert describe(folders.load(tmp_path / "linked")) == describe(model[0])


def test_domains_and_folders_may_hold_colons(tmp_path):
    part = Diffusion(domains=("day:1", "night:2:b", "1"), net="tiny")
    for folder in ("m", "run:3"):
        folders.save(part, tmp_path / folder)
        for domain in part.domains:
            assert folders.load(f"{tmp_path / folder}:{domain}").domain == domain
    folders.save(Diffusion(domains=("1",), net="tiny"), tmp_path / "m:day")
    assert folders.resolve(f"{tmp_path / 'm:day'}:1") == (tmp_path / "m:day", "1")
    assert folders.resolve(f"{tmp_path / 'none'}:1") == (tmp_path / "none", "1")
    assert folders.resolve("sfumato/digits:3:x")[1] == "3:x"


def test_weights_that_may_not_be_read_are_named_with_the_reason(copy, monkeypatch):
    def missing(file, **_):  # what safetensors says of a file that it may not read
        raise FileNotFoundError(f"No such file or directory: {file}")

    monkeypatch.setattr("os.access", lambda file, how: False)  # who runs the tests may read all
    monkeypatch.setattr("sfumato.checkpoints.tensors.safe_open", missing)
    with pytest.raises(UserError, match="weights.safetensors cannot be read: Permission denied"):
        sfumato.load(copy)


def test_an_address_is_no_model_folder_and_named_whole():
    with pytest.raises(UserError, match="not the address 'http://x/y'.*download it"):
        sfumato.load("http://x/y")


WEIGHT = "denoiser.net.out.bias"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"info": {1: 2, "1": 3}}, "a key of info must be a name, not 1"),
        ({"info": {"x": math.nan}}, "info must be what JSON holds"),
        ({"weights": {"other": torch.zeros(3)}}, "weights: the model has no 'other'"),
        ({"weights": {WEIGHT: torch.zeros(4)}}, r"out.bias is \(4,\) of torch.float32, expected \(3,\)"),
        ({"weights": {WEIGHT: torch.zeros(3, dtype=torch.long)}}, "expected .* of torch.float32"),
        ({"weights": {WEIGHT: torch.full((3,), math.nan)}}, "out.bias has values that are not numbers"),
        ({"weights": {WEIGHT: torch.full((3,), 1e5)}, "dtype": torch.float16}, "bias has values too large"),
    ],
)  # fmt: skip
def test_what_load_would_refuse_is_not_saved(model, tmp_path, how, says):
    with pytest.raises(UserError, match=says):
        folders.save(model[0], tmp_path / "m", **how)
    assert not [*tmp_path.iterdir()]


def test_a_model_is_saved_in_no_folder_of_other_things(model, tmp_path):
    for name in ("pictures", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"x")
    folders.save(PairedSDE(net="tiny"), tmp_path / "other")
    kept = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    for name, says in (("pictures", "a.png and no model"), ("other", "PairedSDE, not a .*Diff")):
        with pytest.raises(UserError, match=says):
            folders.save(model[0], tmp_path / name)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == kept


def test_a_model_is_saved_over_one_of_its_kind_and_after_a_kill(model, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    for _ in range(2):
        folders.save(model[0], tmp_path)
    assert isinstance(folders.load(tmp_path), Diffusion)


def test_facts_whose_inner_names_are_numbers_are_saved(model, tmp_path):
    folders.save(model[0], tmp_path / "m", info={"settings": {1: 2}})
    assert describe_folder(tmp_path / "m")["info"] == {"settings": {"1": 2}}


def test_a_moved_file_breaks_no_model(model, tmp_path):
    package = Path(sfumato.__file__).parent
    shutil.copytree(package, tmp_path / "sfumato", ignore=shutil.ignore_patterns("__pycache__"))
    moved = (("nets", "denoiser_unet"), ("methods", "diffusion"))
    for room, name in moved:
        for file in (tmp_path / "sfumato").rglob("*.py"):
            text = file.read_text().replace(f"{room}.{name} import", f"{room}.moved_{name} import")
            file.write_text(text)
        at = tmp_path / "sfumato" / room
        (at / f"{name}.py").rename(at / f"moved_{name}.py")
    folders.save(UNet(width=16, multipliers=(1, 2)), tmp_path / "net")
    written = [model[1], tmp_path / "net"]
    for now, file in zip(written[:], ("methods.diffusion", "nets.denoiser_unet"), strict=True):
        old = shutil.copytree(now, tmp_path / file)
        rewrite(old, lambda info, file=file: info["model"].update(
            {"is": f"sfumato.{file}:{info['model']['is']}"}) or info.update(format=1))  # fmt: skip
        written.append(old)
    code = f"import sfumato; [sfumato.load(f) for f in {list(map(str, written))}]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path,
                   env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip


def test_names_of_parts_are_their_own():
    """A model folder knows a part by its name: no two parts of the package have one name."""
    code = (
        "import collections, sfumato.module as p; p._all_kinds()\n"
        "def below(c): return [c, *(d for s in c.__subclasses__() for d in below(s))]\n"
        "names = collections.Counter(p.kind_of(c) for c in set(below(p.Described)))\n"
        "assert len(names) > 30 and set(names) - {'Described'} == set(p.KINDS), names\n"
        "assert max(names.values()) == 1, names.most_common(3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_called_as_a_model_that_ships_is_said_to_be_meant(tmp_path, monkeypatch, recwarn):
    folders.resolve("sfumato/earth")
    assert not recwarn
    (tmp_path / "sfumato/earth").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(match="^sfumato/earth is the folder here, and not the model that ships"):
        assert folders.resolve("sfumato/earth:relief") == (Path("sfumato/earth"), "relief")


def test_loading_fills_nothing_and_wakes_no_compiler():
    """torch's initialisers on the meta device import its compiler: seconds before the first picture."""
    code = "import sfumato, sys; sfumato.load('sfumato/digits'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
