"""Model folders: the same pixels after saving and loading; one line for everything that is wrong."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from truth import lively, tiny_denoiser

import sfumato.folder as folders
from sfumato import tensors
from sfumato.guide import Conditioned
from sfumato.methods.ddib import DDIB
from sfumato.methods.diffusion import Diffusion
from sfumato.methods.paired_sde import PairedSDE
from sfumato.part import Part, build, describe

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


@pytest.mark.parametrize("form", [2, 99, "1", None, 1.5])
def test_future_formats(copy, form):
    rewrite(copy, lambda info: info.update(format=form))
    fails(copy, r"has format .*reads up to 1: update its source")


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:Popen"])
def test_code_is_never_run(copy, name):
    rewrite(copy, lambda info: info["model"].update({"is": name}))
    fails(copy, "which is not part of sfumato")
    diffusion = {"is": "sfumato.methods.diffusion:Diffusion", "net": {"is": name}}
    rewrite(copy, lambda info: info["model"].update(diffusion))
    fails(copy, "which is not part of sfumato")


@pytest.mark.parametrize(
    "change",
    [
        {"is": "sfumato.process:VP"}, {"is": "sfumato.process:Process"}, {"is": "sfumato.folder:load"},
        {"domains": None}, {"domains": 3}, {"net": "smal"}, {"net": None}, {"channels": "three"},
        {"channels": -3}, {"process": "vpp"}, {"process": {"same as": "nowhere"}}, {"any_domain": 2.0},
        {"colour": True}, {"net": {"is": "sfumato.nets.unet:UNet", "multipliers": []}},
    ],
    ids=str,
)  # fmt: skip
def test_models_that_cannot_be_built(copy, change):
    def edit(info):
        if "is" in change:
            info["model"].clear()
        info["model"].update(change)

    rewrite(copy, edit)
    fails(copy, "does not describe a model|unknown|no field|is not a part|must be|is a share")


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
    folders.write_tensors(file, {"a": torch.zeros(2), "b": torch.ones(2)})
    with safe_open(file, framework="pt") as f:
        said = f.metadata()
    save_file({"a": torch.zeros(2), "c": torch.ones(2)}, file, said)
    with pytest.raises(ValueError, match="do not have their hash"):
        folders.read_tensors(file)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    (tmp_path / "day:1").mkdir()
    assert folders.resolve(f"{tmp_path}/day:1") == (tmp_path / "day:1", None)
    assert folders.resolve(f"{tmp_path}/day:1:cat") == (tmp_path / "day:1", "cat")
