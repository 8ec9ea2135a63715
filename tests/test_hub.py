"""Models on a Hub: a mock of it on 127.0.0.1 (hub_mock.py), by the library that asks the real one."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from hub_mock import TOKEN, Hub
from huggingface_hub import constants
from PIL import Image

import sfumato
from sfumato.checkpoints import hub as names
from sfumato.checkpoints.hub import recorded_name
from sfumato.checkpoints.model_folder import own_file, resolve, save
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.evaluation.entries import entries_of
from sfumato.evaluation.protocol import named_protocol
from sfumato.methods.registry import find
from sfumato.studio import app, choices
from sfumato.training.session import Session

X, T = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub that this process asks, with a cache and a login of its own."""
    hub = Hub()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)  # the studio's tests may have been here
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("home")),
                            "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                            "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():  # fmt: skip
            patch.setenv(name, value)
        importlib.reload(constants)  # reads them when it is imported
        yield hub
    importlib.reload(constants)
    hub.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a model, and with what else is in one."""
    folder = tmp_path_factory.mktemp("runs") / "pets"
    torch.manual_seed(0)
    start = {"model": "hf://you/old@" + "0" * 40, "sha256": "1" * 64}
    info = {"size": 16, "held_out_loss": 0.25, "start": start}
    save(find("diffusion")(net="tiny", domains=("cat", "dog")), folder, info=info)
    (folder / "training.safetensors").write_bytes(b"large")
    (folder / "secret.txt").write_text("mine")
    (folder / names.SEEN).write_bytes(b"statistics")
    return folder


@pytest.fixture(scope="module")
def first(hub, run):
    return sfumato.push(run, "me/pets", license="mit")


@pytest.fixture
def pushed(hub, first):
    """hf://me/pets@COMMIT of the run, which is what main is; nothing of it is remembered by the process."""
    hub.models["me/pets"]["branches"]["main"] = first.partition("@")[2]
    names.fetched.cache_clear()
    hub.asked.clear()
    return first


def said(*words):
    """What a command that ends in an error says."""
    with pytest.raises(UserError) as error:
        sfumato.push(*words) if len(words) > 1 else sfumato.load(*words)
    return str(error.value)


def command(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def test_what_is_pushed_comes_back_to_the_bit(hub, run, pushed, capsys):
    back, was = sfumato.load("hf://me/pets"), sfumato.load(run)
    assert back.state_dict().keys() == was.state_dict().keys()
    assert all(torch.equal(value, was.state_dict()[k]) for k, value in back.state_dict().items())
    files = hub.models["me/pets"]["commits"][pushed.partition("@")[2]]
    assert files.keys() == {".gitattributes", *names.FILES}
    assert files["model.json"] == (run / "model.json").read_bytes()
    assert torch.equal(sfumato.load(Path("hf://me/pets:dog"))(X, T), sfumato.load(f"{run}:dog")(X, T))
    assert command("push", run, "me/pets", "--license", "mit") == 0
    out = capsys.readouterr().out
    assert f"weights.safetensors and README.md of {run} are at {hub.url}/me/pets\n" in out
    assert f"hf://me/pets, and as it is now {pushed}\n" in out


def test_the_card_has_a_header_and_says_where_the_model_is(hub, pushed):
    card = (resolve("hf://me/pets")[0] / "README.md").read_text()
    header, text = card.removeprefix("---\n").split("\n---\n")
    for line in (
        "library_name: sfumato", "pipeline_tag: image-to-image", "tags:\n- sfumato\n- diffusion",
        "license: mit", "base_model: you/old", "name: pets", "value: 0.25",
    ):  # fmt: skip
        assert line in header
    assert text.startswith("# A diffusion model\n")
    assert "--source hf://me/pets:cat --target hf://me/pets:dog\n" in text
    sfumato.push("hf://me/pets", "me/copy")  # has a header already, which stays
    assert (resolve("hf://me/copy")[0] / "README.md").read_text().count("license: mit\n") == 1
    assert len(hub.models["me/copy"]["branches"]) == 1


def test_a_revision_is_a_branch_or_commit_and_a_process_keeps_to_what_it_found(hub, run, pushed, tmp_path):
    other = find("diffusion")(net="tiny", domains=("cat", "dog"))
    save(other, tmp_path / "other")
    at = sfumato.push(tmp_path / "other", "me/pets", revision="larger")
    weight = lambda name: next(iter(sfumato.load(name).state_dict().values()))
    first, second = weight(run), weight(tmp_path / "other")
    assert not torch.equal(first, second)
    for name in (at, "hf://me/pets@larger"):
        assert torch.equal(weight(name), second)
    for name in (pushed, "hf://me/pets", "hf://me/pets@main"):
        assert torch.equal(weight(name), first)
    hub.models["me/pets"]["branches"]["main"] = at.partition("@")[2]  # others go on
    assert torch.equal(weight("hf://me/pets"), first)
    names.fetched.cache_clear()
    assert torch.equal(weight("hf://me/pets"), second)


def test_only_the_files_of_a_model_are_fetched(hub, pushed):
    evil = {name: b"raise" for name in ("modeling.py", "config.json", "pytorch_model.bin", "sub/model.json")}
    hub.commit("me/pets", "evil", hub.models["me/pets"]["commits"][pushed.partition("@")[2]] | evil)
    folder, _ = resolve("hf://me/pets@evil")
    assert {f.name for f in folder.iterdir()} == {*names.FILES}
    assert {line.rpartition("/")[2] for line in hub.asked} == {*names.FILES}


def test_without_network_it_is_the_cache(hub, run, pushed, monkeypatch):
    sfumato.load("hf://me/pets")
    names.fetched.cache_clear()
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("hf://me/pets", pushed):
        assert torch.equal(sfumato.load(f"{name}:cat")(X, T), sfumato.load(f"{run}:cat")(X, T))
    assert said("hf://me/other") == (
        "hf://me/other is not in the cache of this machine, and HF_HUB_OFFLINE is set"
    )
    assert said(run, "me/pets") == f"{hub.url} is not asked: HF_HUB_OFFLINE is set"
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf://me/nothing", "no model me/nothing at http.*; if it is private, log in by: hf auth login"),
        ("hf://me/pets@v9", "me/pets has no revision v9: see http.*/me/pets/commits"),
        ("hf://me/foreign", "hf://me/foreign is no model of sfumato: it lacks model.json or weights"),
        ("hf://pets", "hf://pets names no model: expected hf://OWNER/NAME"),
        ("hf://datasets/me/pets", "expected hf://OWNER/NAME"),
        ("hf://me/pets:", "expected hf://OWNER/NAME"),
        ("hf://me/pe--ts", "hf://me/pe--ts: Cannot have -- or .. in repo_id"),
        ("hf://me/pets:cow", "unknown domain 'cow'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_line(hub, pushed, name, expected):
    hub.create("me/foreign")
    with pytest.raises(UserError, match=expected):
        sfumato.load(name)


def test_private_models_are_for_those_who_are_logged_in(hub, run, monkeypatch):
    sfumato.push(run, "me/secret", private=True)
    sfumato.load("hf://me/secret")
    names.fetched.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-other")
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no model me/secret" in said("hf://me/secret")
    hub.create("me/open")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.asked.clear()
    with pytest.raises(UserError, match="me/open is public already: name another"):
        sfumato.push(run, "me/open", private=True)
    assert not [line for line in hub.asked if "/commit/" in line or "/lfs/" in line]


def test_what_cannot_be_pushed_is_said_in_a_line_and_nothing_is_sent(hub, run, tmp_path, monkeypatch, capsys):
    hub.asked.clear()
    for words, expected in (
        ((run, "pets"), "pets is no name on the Hub: expected OWNER/NAME, such as me/digits"),
        ((run, "me/pets@main"), "is no name on the Hub"),
        ((f"{run}:cat", "me/pets"), f"{run}:cat is one domain: a model is uploaded with all, as in {run}"),
        ((tmp_path, "me/pets"), "is not a model folder: it has no model.json"),
    ):
        assert expected in said(*words)
    monkeypatch.delenv("HF_TOKEN")
    assert command("push", run, "me/new") == 2
    assert f"nobody is logged in to {hub.url}: type hf auth login\n" in capsys.readouterr().err
    assert not hub.asked
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert said(run, "me/new") == f"{hub.url} refuses: it knows no such token: log in by: hf auth login"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match="the Hub refuses the header of the card: .* no such license"):
        sfumato.push(run, "me/pets", license="none")
    assert said(run, "you/pets") == f"{hub.url} refuses: this login may not do this with you/pets"
    assert not [line for line in hub.asked if "/commit/" in line or "/lfs/" in line]


def test_the_commit_is_in_what_is_recorded(hub, pushed, tmp_path, monkeypatch):
    data = {"cat": tmp_path / "cats", "cow": tmp_path / "cows"}
    for blue, folder in enumerate(data.values()):
        folder.mkdir()
        for n in range(3):
            Image.new("RGB", (16, 16), (90 * n, 9, blue)).save(folder / f"{n}.png")
    how = ["--method", "sdedit", "--target", "hf://me/pets:dog", "--steps", "2", "--device", "cpu"]
    assert command("translate", tmp_path / "cats", "--out", tmp_path / "out", *how) == 0
    said = json.loads((tmp_path / "out/run.json").read_text())
    assert said["from"]["models"] == {"target": f"{pushed}:dog"}
    runs = []
    monkeypatch.setattr(Session, "learn", lambda self: runs.append(self.folder.run))
    how = {"size": 16, "steps": 1, "held_out": 0, "quiet": True, "device": "cpu"}
    sfumato.train("diffusion", data, tmp_path / "run", start=Path("hf://me/pets"), **how)
    assert runs[0]["start"]["model"] == pushed
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    names.fetched.cache_clear()
    assert recorded_name("hf://me/pets") == recorded_name(pushed) == pushed  # typed again to resume
    sfumato.repeat(tmp_path / "out", tmp_path / "again")
    assert all(
        (tmp_path / "again" / f.name).read_bytes() == f.read_bytes() for f in (tmp_path / "out").glob("*.png")
    )


def test_nothing_is_written_to_a_folder_of_such_a_name(run):
    with pytest.raises(UserError, match="name one, and upload it by `sfumato push`"):
        save(sfumato.load(run), "hf://me/pets")


def test_it_is_named_wherever_a_model_is(hub, run, pushed, capsys):
    (entry,) = entries_of(["sdedit target=hf://me/pets:dog"])
    assert resolve(entry.roles["target"]) == (resolve("hf://me/pets")[0], "dog")
    assert command("info", "hf://me/pets:dog") == 0
    assert f"folder:             {pushed}\n" in capsys.readouterr().out
    protocol = named_protocol("standard", "hf://me/pets")
    assert (protocol.name, protocol.features) == ("standard+pets", pushed)
    assert named_protocol(protocol, "hf://me/pets") == protocol
    given = choices.gather([app._here("hf://me/pets")])
    assert given.models[pushed].card().startswith("---\n")
    assert f"{pushed}:cat" in given.denoisers()
    with pytest.raises(UserError, match=f"{pushed} is a diffusion model, which other methods translate with"):
        sfumato.translator(model="hf://me/pets")


def test_links_lead_to_the_contents_of_the_cache_alone(tmp_path):
    folder = tmp_path / "hub/models--me--pets/snapshots" / ("a" * 40)
    store, shared = folder.parents[1] / "blobs", tmp_path / "hub/blobs/ab"
    for place in (folder, store, shared):
        place.mkdir(parents=True)
    (shared / "large").write_bytes(b"1")  # of several repositories, as huggingface_hub keeps it
    (store / "e").symlink_to("../../blobs/ab/large")
    (tmp_path / "hub/mine").write_bytes(b"2")
    (folder / "weights.safetensors").symlink_to("../../blobs/e")
    (folder / "model.json").symlink_to("../../../mine")
    assert own_file(folder, "weights.safetensors").read_bytes() == b"1"
    with pytest.raises(UserError, match="is a link out of its folder"):
        own_file(folder, "model.json")
    plain = folder.rename(tmp_path / "hub/models--me--pets/snapshots/v1")
    with pytest.raises(UserError, match="is a link out of its folder"):
        own_file(plain, "weights.safetensors")
