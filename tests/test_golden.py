"""What the package does, recorded: files may move and names may change, the pictures and files may not.

    python tests/test_golden.py --write          records golden.json anew: look at its diff
    python tests/test_golden.py --old FOLDER     makes what tests/old holds, in the present format

tests/old holds folders as format 1 wrote them, and stays as it is: a new format gets a folder beside it.

    models/NAME/model.json    of every method, part and process.  The weights of models follow from their
                              names and shapes, which tensors.json has: no constructor has a say in them.
    pictures/0, 1             digits, of equal names, so that they are pairs, too
    runs/METHOD/              trainings of 2 steps, as they were left
    translation/, latents/    of those pictures by runs/diffusion, by ddib and explore encode

@OLD stands in them for the path of tests/old.  Numbers are compared with a tolerance: other processors
sum in another order.  How many are the same to the bit is a row of the table after the tests.
Of the package, nothing but its public names and its commands is used here.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import typing
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import sfumato

HERE = Path(__file__).parent
OLD, FILE = HERE / "old", HERE / "golden.json"
PACKAGE = Path(sfumato.__file__).parent
GOLDEN = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
SAID = OLD / "models/tensors.json"
TENSORS = json.loads(SAID.read_text(encoding="utf-8")) if SAID.is_file() else {}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
SOLVERS = (
    "ddim", "heun", "dpm2m", "ab2", "ab3", "dopri5", "ancestral", "ancestral_large",
    "predictor_corrector", "euler_maruyama", "sde_dpm2m", "sde_heun",
)  # fmt: skip
OPTIONS = {
    "sdedit": [{"strength": 0.9, "repeats": 2}],
    "ilvr": [{"factor": 4, "keep_down_to": 0.5}],
    "egsde": [
        {"factor": 4, "every": 2, "repeats": 2}, {"realism": 0.0}, {"energy": "edges", "energy_weight": 1.0},
    ],
    "classifier_guidance": [{"strength": 0.9, "guidance_scale": 4.0, "every": 2}],
    "controllable": [{"guidance_scale": 1.0, "every": 2}],
    "unit_ddpm": [{"release_steps": 2, "steps": 5}],
}
"""Options with which methods are seen, besides each of their choices and switches alone."""
TRAINED = "diffusion", "unpaired_sde", "pix2pix", "cyclegan", "unit_ddpm"
SIZES = {"size": 16, "batch": 2, "held_out": 0, "preview_every": 0, "quiet": True}
RUNS = "diffusion", "unpaired_sde", "pix2pix"
FOLDERS = [OLD / "pictures" / name for name in "01"]


# ---- models from names --------------------------------------------------------------------------


def numbers(name, shape):
    """The weights of this name: the same whatever else a network has, and in any order."""
    z = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + z.abs() / 10
    if len(shape) > 1:
        return z / (z.numel() / shape[0]) ** 0.5
    return z / 10 + name.endswith("weight")


def shapes(file):
    """{name: shape, or type and values of what is counted and measured} of a file of tensors."""
    with safe_open(file, framework="pt") as opened:
        tensors = {k: opened.get_tensor(k) for k in opened.keys()}
    measured = lambda k, v: k.split(".")[0] == "colours" or not v.is_floating_point()
    return {
        k: {"dtype": str(v.dtype)[6:], "values": v.tolist()} if measured(k, v) else list(v.shape)
        for k, v in sorted(tensors.items())
    }


def named_weights(name):
    """The weights of a model of tests/old."""
    kept = lambda v: torch.tensor(v["values"], dtype=getattr(torch, v["dtype"]))
    return {k: kept(v) if isinstance(v, dict) else numbers(k, v) for k, v in TENSORS[name].items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model folders as they were: call it with a name."""
    return Models(tmp_path_factory.mktemp("models"))


class Models:
    def __init__(self, root):
        self.root = root

    def __call__(self, name):
        folder = self.root / name
        if not folder.exists():
            shutil.copytree(OLD / "models" / name, folder)
            save_file(named_weights(name), folder / "weights.safetensors")
        return folder


def old(name, to):
    """A copy of a folder of tests/old that lies where it may be written to."""
    shutil.copytree(OLD / name, to)
    for file in to.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("@OLD", json.dumps(str(OLD))[1:-1]), encoding="utf-8")
    return to


def typed(*words):
    """Runs `sfumato WORDS` in this process."""
    argv, hook = sys.argv, sys.excepthook
    sys.argv = ["sfumato", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_module("sfumato", run_name="__main__", alter_sys=False)
    finally:
        sys.argv, sys.excepthook = argv, hook
    assert end.value.code == 0, words


# ---- what is recorded ---------------------------------------------------------------------------


def digest(y):
    return hashlib.sha256(y.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def seen(y):
    """An image batch as it is recorded: means of 4x4 blocks."""
    return {"values": [round(v, 5) for v in F.adaptive_avg_pool2d(y, 4).flatten().tolist()],
            "sha256": digest(y)}  # fmt: skip


def projections(file):
    """{name: mean, and projection on a direction of its own} of the tensors of a file."""
    out = {}
    for name, value in sorted(load_file(file).items()):
        v = value.double().flatten()
        d = numbers(f"{name} direction", [1, v.numel()]).double().flatten()
        out[name] = [round(v.mean().item(), 6), round((v @ d).item(), 6)]
    return out


def close(found, wanted, tolerance=1e-4):
    """Equal to the tolerance, or to that share of the largest where that is more."""
    found, wanted = (torch.tensor(v, dtype=torch.float64) for v in (found, wanted))
    scale = max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def same(found, wanted, tolerance=1e-4):
    """The same names with close numbers."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        try:
            close(found[name], wanted[name], tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def same_weights(file, wanted):
    """The same weights after a few steps of 1e-3.

    A bias before a norm has no gradient but rounding, which Adam follows at full speed.
    """
    found = projections(file)
    biases = {name for name in wanted if name.endswith("bias")}
    for names, tolerance in ((wanted.keys() - biases, 3e-3), (biases, 2e-2)):
        pick = lambda numbers, names=names: {k: v for k, v in numbers.items() if k in names}
        same(pick(found), pick(wanted), tolerance)
    assert found.keys() == wanted.keys()


def translated(part, **options):
    """What `translate` makes of the two images, and in how many evaluations."""
    nfe = []
    watch = lambda t, x, mean, extras: nfe.append(extras["nfe"])
    y = part.translate(IMAGES.clone(), as_is=True, seed=3, watch=watch, **options)
    return seen(y) | {"nfe": sum(nfe)}


def variants(part, method):
    """The options with which a method is seen: each choice and switch alone, at few steps.

    Two methods are seen with every solver, the others with some of each kind.
    """
    parameters = inspect.signature(part.translate, eval_str=True).parameters
    few = {"steps": 3} if "steps" in parameters else {}
    yield few
    for name, p in parameters.items():
        choices = (
            typing.get_args(p.annotation)
            if typing.get_origin(p.annotation) is typing.Literal
            else ()
        )
        choices = (True, False) if p.annotation is bool else choices
        if name == "solver":
            choices = SOLVERS if method in ("ddib", "sdedit") else ("heun", "dpm2m", "ancestral")
        for value in choices:
            if value != p.default:
                yield few | {name: value}
    for options in OPTIONS.get(method, []):
        yield few | options


def others(models):
    """What else is public of methods: new images, latents, and ways there and back."""
    diffusion, ddib = sfumato.load(models("diffusion")), sfumato.load(models("ddib"))
    latent = ddib.encode(IMAGES, steps=3)
    bound = sfumato.translator(
        "ddib", source=f"{models('diffusion')}:b", target=f"{models('diffusion')}:a"
    )
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    yield "sample", seen(diffusion.sample("a", IMAGES, steps=3, seed=1))
    yield "encode", seen(latent)
    yield "decode", seen(ddib.decode(latent, steps=3))
    yield "round trip", seen(ddib.round_trip(IMAGES, steps=3, as_is=True))
    yield "bound", translated(bound, steps=4)
    yield "mask", translated(sfumato.load(models("sdedit")), steps=4, mask=mask)


def pixels(models):
    for name in TENSORS:
        part = sfumato.load(models(name))
        if hasattr(type(part), "translate"):
            for options in variants(part, name.split("-")[0]):
                try:
                    yield f"{name} {json.dumps(options)}", translated(part, **options)
                except (ValueError, RuntimeError) as error:  # this solver is not for it
                    print(f"left out: {name} {options}: {error}")


def trained(models, name, out, *steps, method=None):
    """A model trained to each of these steps, resuming: its weights' file."""
    data = dict(zip("ab", FOLDERS, strict=True)) if name == "diffusion" else FOLDERS
    for n in steps:
        how = {"steps": n, "lr": 1e-3, "schedule": "constant", "warmup": 0, "resume": n != steps[0]}
        sfumato.train(method or sfumato.load(models(name)), data, out, **SIZES, **how)
    return out / "weights.safetensors"


SHIPPED = {
    "ddib": ("digits/3", {"source": "sfumato/digits:3", "target": "sfumato/digits:5"}),
    "egsde": ("digits/3", {"target": "sfumato/digits:8", "classifier": "sfumato/digits_classifier"}),
    "sdedit": ("earth/relief", {"target": "sfumato/earth:topographic"}),
}  # fmt: skip


def shipped(method):
    """A picture of the studio by a shipped model."""
    folder, how = SHIPPED.get(method, ("earth/relief", {}))
    file = min((PACKAGE / "studio/examples" / folder).glob("*.png"))
    x = torch.as_tensor(sfumato.read(file))
    if method in SHIPPED:
        return x, sfumato.translator(method, **how), {"steps": 4}
    return x, sfumato.load("sfumato/earth_pairs"), {"steps": 4, "direction": method}


def files_of_package():
    """{file: sha256} of the models that ship with the package."""
    files = sorted(
        f for kind in ("json", "safetensors") for f in PACKAGE.glob(f"models/*/*.{kind}")
    )
    return {
        f.relative_to(PACKAGE).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


HELP = """
import contextlib, io, json, re, runpy, sys
said = {}
for command in json.loads(sys.argv[1]):
    out, sys.argv = io.StringIO(), ["sfumato", *command.split(), "--help"]
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        runpy.run_module("sfumato", run_name="__main__")
    flags = sorted(set(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue())))
    said[command] = {"flags": flags, "light": "torch" not in sys.modules}
print(json.dumps(said))
"""


def helps():
    """{command: its flags, and whether its help came without torch}; those that need torch come last."""
    light = ["", "demo", "train", "explore", "studio", "methods", "info", "import", "cite"]
    heavy = [
        "data digits",
        "data earth",
        "compare",
        "evaluate",
        "sweep",
        "doctor",
        "study",
        "translate",
        "push",
        "export",
    ]
    heavy += [
        f"explore {c}" for c in ("encode", "decode", "report", "apply", "trajectory", "sensitivity")
    ]
    classes = {n: sfumato.find(n) for n in sfumato.names()}
    heavy += [f"train {n}" for n, c in classes.items() if hasattr(c, "objectives")]
    heavy += [f"translate --method {n}" for n, c in classes.items() if hasattr(c, "translate")]
    words = [sys.executable, "-c", HELP, json.dumps(light + heavy)]
    where = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "200"}
    done = subprocess.run(words, capture_output=True, text=True, env=where, check=True)
    return json.loads(done.stdout)


# ---- the tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TENSORS)
def test_an_old_model_folder_loads_and_its_tensors_keep_their_names(name, models, tmp_path):
    part = sfumato.load(models(name))
    sfumato.save(part, tmp_path)
    assert shapes(tmp_path / "weights.safetensors") == TENSORS[name]
    again, wanted = sfumato.load(tmp_path).state_dict(), part.state_dict()
    assert all(torch.equal(again[k], v) for k, v in wanted.items())


@pytest.mark.parametrize("name", sorted({key.split(" ")[0] for key in GOLDEN.get("pixels", {})}))
def test_a_method_makes_the_pictures_it_made(name, models, report):
    assert name.split("-")[0] in sfumato.names()
    part, bits, n = sfumato.load(models(name)), 0, 0
    for key, wanted in GOLDEN["pixels"].items():
        method, _, options = key.partition(" ")
        if method == name:
            found = translated(part, **json.loads(options))
            assert found["nfe"] == wanted["nfe"], key
            same({key: found["values"]}, {key: wanted["values"]})
            bits, n = bits + (found["sha256"] == wanted["sha256"]), n + 1
    report(f"golden pictures of {name}, the same to the bit", f"{bits} of {n}")


def test_every_method_is_seen():
    seen = {key.split(" ")[0].split("-")[0] for key in TENSORS}
    assert set(sfumato.names()) <= seen


def test_latents_new_images_and_bound_denoisers_are_what_they_were(models):
    found = dict(others(models))
    assert found["bound"].get("nfe") == GOLDEN["others"]["bound"]["nfe"]
    values = lambda all_: {k: v["values"] for k, v in all_.items()}
    same(values(found), values(GOLDEN["others"]))


@pytest.mark.parametrize("name", TRAINED)
def test_six_steps_of_training_give_the_weights_they_gave(name, models, tmp_path):
    straight = trained(models, name, tmp_path / "straight", 6)
    resumed = trained(models, name, tmp_path / "resumed", 3, 6)
    assert straight.read_bytes() == resumed.read_bytes()
    same_weights(straight, GOLDEN["trained"][name])


def test_a_method_begins_with_the_weights_of_its_seed(models, tmp_path):
    file = trained(models, "diffusion", tmp_path, 1, method="diffusion")
    same_weights(file, GOLDEN["trained"]["by name"])


@pytest.mark.parametrize("method", RUNS)
def test_an_old_run_resumes_from_its_folder_alone(method, tmp_path):
    run = old(f"runs/{method}", tmp_path / "run")
    typed("train", "--resume", "--out", run, "--steps", "4")
    same_weights(run / "weights.safetensors", GOLDEN["resumed"][method])
    sfumato.load(run)


def png(folder):
    """The pictures of a folder, in [-1, 1]."""
    return {
        p.name: torch.as_tensor(sfumato.read(p)).flatten().tolist()
        for p in sorted(folder.glob("*.png"))
    }


def test_an_old_translation_is_repeated(tmp_path):
    before, words = old("translation", tmp_path / "before"), ("--out", tmp_path / "again")
    typed("translate", "--repeat-from", before / "run.json", *words)
    same(png(tmp_path / "again"), png(OLD / "translation"), 3 / 255)
    assert len(png(OLD / "translation")) == 6


def test_an_old_translation_that_was_stopped_goes_on(tmp_path):
    before = old("translation", tmp_path / "before")
    run = json.loads((before / "run.json").read_text(encoding="utf-8"))
    run["run"]["versions"] = {
        n: sfumato.__version__ if n == "sfumato" else torch.__version__
        for n in run["run"]["versions"]
    }
    (before / "run.json").write_text(json.dumps(run), encoding="utf-8")
    first = sorted(png(before))[0]
    (before / first).unlink()
    done = sfumato.translate(
        run["from"]["sources"], before, method="ddib", **run["from"]["models"],
        options={"steps": 4}, batch=run["from"]["batch"], device="cpu",
    )  # fmt: skip
    assert (done.written, done.kept) == (1, 5)
    same(png(before), png(OLD / "translation"), 3 / 255)


def test_old_latents_are_decoded(tmp_path):
    out = tmp_path / "decoded"
    typed(
        "explore",
        "decode",
        OLD / "latents",
        "--model",
        f"{OLD}/runs/diffusion:1",
        "--out",
        out,
        "--steps",
        4,
    )
    same(png(out), GOLDEN["decoded"], 3 / 255)


def test_the_shipped_files_are_what_they_were():
    assert files_of_package() == GOLDEN["files"]


@pytest.mark.parametrize("how", GOLDEN.get("shipped", {}))
def test_a_shipped_model_makes_the_picture_it_made(how):
    x, part, options = shipped(how)
    y = part.translate(x[None], as_is=True, **options)
    close(seen(y)["values"], GOLDEN["shipped"][how]["values"])


def test_commands_keep_their_flags_and_a_light_help():
    found = helps()
    assert found.keys() == GOLDEN["help"].keys()
    for command, wanted in GOLDEN["help"].items():
        assert not set(wanted["flags"]) - set(found[command]["flags"]), f"{command} lost flags"
        assert found[command]["light"] >= wanted["light"], (
            f"`sfumato {command} --help` imports torch"
        )


# ---- how they were made -------------------------------------------------------------------------


def write():
    """Records golden.json."""
    with tempfile.TemporaryDirectory() as root:
        root, models = Path(root), Models(Path(root) / "models")
        made = {"pixels": dict(pixels(models)), "others": dict(others(models))}
        made["trained"] = {n: projections(trained(models, n, root / n, 3, 6)) for n in TRAINED}
        made["trained"]["by name"] = projections(
            trained(models, "diffusion", root / "by name", 1, method="diffusion")
        )
        made["resumed"] = {}
        for method in RUNS:
            run = old(f"runs/{method}", root / "runs" / method)
            typed("train", "--resume", "--out", run, "--steps", "4")
            made["resumed"][method] = projections(run / "weights.safetensors")
        model = f"{OLD}/runs/diffusion:1"
        typed(
            "explore",
            "decode",
            OLD / "latents",
            "--model",
            model,
            "--out",
            root / "d",
            "--steps",
            4,
        )
        made["decoded"] = png(root / "d")
        made["shipped"] = {}
        for how in (*SHIPPED, "source-to-target", "target-to-source"):
            x, part, options = shipped(how)
            made["shipped"][how] = seen(part.translate(x[None], as_is=True, **options))
    made |= {"files": files_of_package(), "help": helps()}
    FILE.write_text(compact(made), encoding="utf-8")


def compact(made):
    """JSON with a line for each list: what changes is a line of the diff."""
    text = json.dumps(made, indent=1)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda m: re.sub(r"\s+", "", m[0]), text) + "\n"


def make_old(to):
    """Makes what tests/old holds, in the present format."""
    to = Path(to).absolute()
    to.mkdir(parents=True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        make_models(to / "models", Path(root))
        make_pictures(to / "pictures", Path(root) / "digits")
    make_runs(to)
    for file in to.rglob("*.json"):
        text = file.read_text(encoding="utf-8").replace(json.dumps(str(to))[1:-1], "@OLD")
        file.write_text(text, encoding="utf-8")


def make_models(to, root):
    """A model.json of each method in variants, and of each part and process that they are made of."""
    own = {n: {"net": "tiny"} for n in sfumato.names() if hasattr(sfumato.find(n), "objectives")}
    own |= {f"{n}-net": {"net": inner(n)} for n in ("diffusion", "pix2pix", "cyclegan")}
    for process in (sfumato.VP(), sfumato.DDPM(), sfumato.Cosine(), sfumato.VE(), sfumato.Flow()):
        own[f"paired_sde-{type(process).__name__}"] = {"net": "tiny", "process": process}
    own["unpaired_sde"] |= {"warmup_batches": 2, "distil_batches": 2, "buffer": 4, "refresh": 2}
    own["unit_ddpm"] |= {"warmup_batches": 3}
    how = {"net": "tiny", "pairing": "auxiliary", "shared": False, "normalise": True}
    own["unpaired_sde-auxiliary"] = how
    own["paired_sde-eps"] = {"net": "tiny", "process": "ddpm", "prediction": "eps"}
    own["neural_ot-weak"] = {"net": "tiny", "cost": "weak"}
    made = {name: new(name.split("-")[0], **options) for name, options in own.items()}
    made["unpaired_sde-auxiliary"].seen.fill_(5000)  # past its first phases
    for name, part in made.items():
        sfumato.save(part, root / name)
    role = {"source": f"{root}/diffusion:a", "target": f"{root}/diffusion:b"}
    role["classifier"] = root / "domain_classifier"
    for name in sfumato.names():
        if name not in made:
            asked = {f.name for f in dataclasses.fields(sfumato.find(name))}
            made[name] = sfumato.translator(name, **{k: v for k, v in role.items() if k in asked})
    made["egsde-alone"] = sfumato.translator("egsde", target=role["target"])
    kinds = {type(part) for part in made.values()}
    for module in [m for part in made.values() for m in part.modules()]:
        if isinstance(module, sfumato.Part) and type(module) not in kinds:
            kinds.add(type(module))
            made[f"part-{type(module).__name__}"] = module
    tensors = {}
    for name, part in sorted(made.items()):
        sfumato.save(part, root / name)
        tensors[name] = shapes(root / name / "weights.safetensors")
        (to / name).mkdir(parents=True)
        shutil.copy(root / name / "model.json", to / name)
    (to / "tensors.json").write_text(compact(tensors), encoding="utf-8")


def new(name, **options):
    """The method for pictures of 16 pixels and the domains a and b."""
    cls = sfumato.find(name)
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(
        **{k: v for k, v in {"domains": ("a", "b"), "side": 16}.items() if k in known}, **options
    )


def inner(name, **options):
    """The network that a tiny method is made of; with options, one of its kind."""
    modules = new(name, net="tiny").modules()
    net = next(m for m in modules if type(m).__name__ in ("UNet", "UNetGenerator", "ResNet"))
    return type(net)(**options) if options else net


def make_pictures(to, root):
    """Six pictures of each of two digits."""
    typed("data", "digits", root, "--size", "16", "--copies", "1")
    for name in "01":
        (to / name).mkdir(parents=True)
        for n, file in enumerate(sorted((root / "train" / name).glob("*.png"))[:6]):
            shutil.copy(file, to / name / f"{n}.png")


def make_runs(to):
    """Trainings, each of two steps, and what their models make."""
    little = {"width": 4, "multipliers": (1,), "blocks": 1, "attention": 0}
    folders = [to / "pictures" / name for name in "01"]
    sides = {"labels": inner("unpaired_sde").labels, "conditioning": 3}
    options = {
        "diffusion": {"net": inner("diffusion", **little, labels=2)},
        "unpaired_sde": {"net": inner("unpaired_sde", **little, **sides), "warmup_batches": 1,
                         "distil_batches": 2},
        "pix2pix": {"net": "tiny"},
    }
    for method in RUNS:
        data, out = to / "pictures" if method == "diffusion" else folders, to / "runs" / method
        sfumato.train(method, data, out, options=options[method], steps=2, **SIZES)
        for name in ("loss.png", "training.before.safetensors"):
            (out / name).unlink(missing_ok=True)
        if method != "diffusion":
            (out / "weights.safetensors").unlink()  # training.safetensors has them, too
    model = to / "runs/diffusion"
    how = {"source": f"{model}:0", "target": f"{model}:1", "options": {"steps": 4}, "device": "cpu"}
    sfumato.translate(folders[0], to / "translation", method="ddib", batch=4, **how)
    where = ("--model", f"{model}:0", "--out", to / "latents", "--steps", 4)
    typed("explore", "encode", folders[0], *where)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--old"] and len(sys.argv) == 3:
        make_old(sys.argv[2])
    elif sys.argv[1:] == ["--write"]:
        write()
    else:
        sys.exit(__doc__)
