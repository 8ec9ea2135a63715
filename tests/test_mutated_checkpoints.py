"""Files and folders of models, mutated by the hundred: each loads rightly or is refused in one line.

None runs code, touches more than a GB or computes for more than five seconds.
"""

import io
import json
import pickle
import random
import re
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from test_edm import CASES, Theirs, theirs_modules  # noqa: F401
from test_edm import written as edm
from test_published import CHAIN, weights

from sfumato.checkpoints.model_folder import load, save
from sfumato.checkpoints.published import read_published
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError
from sfumato.methods.diffusion import Diffusion
from sfumato.nets.adm import ADM
from sfumato.translation.pictures import repeat, translate

SIZE, SECONDS, MEMORY = {"widths": (32,), "blocks": 1, "attention": (), "embedding": 32}, 5, 2**30
HOW = CHAIN | {"head_channels": 32}
RNG = random.Random(0)


class Runs:
    """What a careless reader would run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


# ---- mutations -----------------------------------------------------------------------------------


def bytes_of(whole, flips=8, cuts=5):
    """(name, content) of a file with flipped bits, cut short, and with more behind it."""
    for i in range(flips):
        at, content = RNG.randrange(len(whole)), bytearray(whole)
        content[at] ^= 1 << RNG.randrange(8)
        yield f"bit {i} of byte {at}", bytes(content)
    for i in range(flips // 2):  # where the structure is
        at, content = RNG.randrange(min(400, len(whole))), bytearray(whole)
        content[at] = RNG.randrange(256)
        yield f"byte {i} at {at}", bytes(content)
    for n in range(cuts):
        yield f"cut {n}", whole[: len(whole) * n // cuts]
    yield "more behind it", whole + b"\0" * 999
    yield "twice", whole + whole
    yield "ones", b"\xff" * len(whole)


def nested(depth, inner):
    for _ in range(depth):
        inner = [inner]
    return inner


def laughs(depth=28):
    """A tuple that holds another twice, and so on: its hash takes 2^depth steps."""
    inner = ("ha",)
    for _ in range(depth):
        inner = (inner, inner)
    return inner


def keyed():
    """A pickle of a dictionary whose key is `laughs`, which nobody can make."""
    return b"\x80\x02}" + pickle.dumps(laughs(), protocol=2)[2:-1] + b"K\x01s."


def tensors(state, mark):
    """(name, state) with one tensor, or a name, that is not as it should be."""
    first = next(iter(state))
    x = state[first]
    few = torch.zeros(1)
    values = {
        "NaN": x * torch.nan, "infinity": x / 0, "float8": x.to(torch.float8_e4m3fn), "meta": x.to("meta"),
        "complex": x.to(torch.cfloat), "int8": x.to(torch.int8), "bool": x > 0, "sparse": x.to_sparse(),
        "csr": x.flatten(1).to_sparse_csr(), "conjugate": x.to(torch.cfloat).conj(), "double": x.double(),
        "nested": torch.nested.nested_tensor([x[0], x[1]]), "half": x.half(), "brain": x.bfloat16(),
        "quantised": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "parameter": torch.nn.Parameter(x),
        "terabytes": few.expand(10**6, 10**6), "a view of one": few.expand(x.shape), "empty": x[:0],
        "strided": few.as_strided(x.shape, [0] * x.ndim), "number": x[0, 0, 0, 0] if x.ndim > 3 else x[0, 0],
        "turned": x.flatten(1).T, "None": None, "text": "weights", "list": x.tolist(), "deep": nested(500, x),
        "code": Runs(mark), "storage": x.untyped_storage(), "dict": {"weight": x}, "laughs": laughs(),
    }  # fmt: skip
    for name, value in values.items():
        yield name, state | {first: value}
    for name in "", ".", "..", "a" * 10**5, "ключ", "\x1b[31m\u202e", "input_blocks..0", 7, b"b", (1,), None:
        yield f"named {str(name)[:20]!r}", state | {name: x}
    code = Runs(mark), {"ema": Runs(mark)}
    for what in None, [], {}, "model", 7, x, [state], {"ema": nested(900, 1)}, *code:
        yield f"a {type(what).__name__}", what
    yield "no first", {k: v for k, v in state.items() if k != first}
    yield "of two", {"model": state, "ema": {f"model.{k}": v for k, v in state.items()}}


def packed(whole):
    """(name, content) of a zip of torch's that is packed, or claims what it does not hold."""
    with zipfile.ZipFile(io.BytesIO(whole)) as old:
        entries = {e.filename: old.read(e) for e in old.infolist()}
    pkl = next(n for n in entries if n.endswith("data.pkl"))
    data = next(n for n in entries if "/data/" in n)
    bombs = {
        "packed": (zipfile.ZIP_DEFLATED, {}), "zeros": (zipfile.ZIP_DEFLATED, {data: bytes(10**8)}),
        "no pickle": (0, {pkl: None}), "no data": (0, {data: None}), "less data": (0, {data: b"1"}),
        "a zip inside": (0, {pkl: whole}), "text": (0, {pkl: b"cposix\nsystem\n(S'true'\ntR."}),
        "large index": (0, {pkl: b"\x80\x02K\x01r\xff\xff\xff\x7f."}), "stop": (0, {pkl: b"\x80\x02."}),
        "long": (0, {pkl: b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00"}), "nothing": (0, {pkl: b""}),
        "a key": (0, {pkl: keyed()}),
        "marks": (0, {pkl: b"\x80\x02" + b"(" * 10**5 + b"."}), "up": (0, {f"../../{data}": b"x"}),
    }  # fmt: skip
    for name, (how, changed) in bombs.items():
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", how) as new:
            for entry, content in (entries | changed).items():
                if content is not None:
                    new.writestr(entry, content)
        yield name, out.getvalue()
    for number, large in ((b"M\x60\x03", b"\x8a\x06\0\0\0\0\0\x40"), (b"K ", b"\x8a\x06\0\0\0\0\0\x40")):
        assert number in entries[pkl]  # of values, and of channels
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as new:
            for entry, content in (entries | {pkl: entries[pkl].replace(number, large)}).items():
                new.writestr(entry, content)
        yield f"claims {large.hex()} for {number!r}", out.getvalue()


def headers(whole):
    """(name, content) of a safetensors file with another header."""
    n = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + n]), whole[8 + n :]
    first = next(k for k in header if k != "__metadata__")
    own = header[first]
    for size in 0, 1, n - 1, n + 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1:
        yield f"a header of {size}", size.to_bytes(8, "little") + whole[8:]
    changes = {
        "terabytes": {"shape": [10**6, 10**6]}, "negative": {"shape": [-1]},
        "overflow": {"shape": [2**63, 2]},
        "float8": {"dtype": "F8_E4M3"}, "complex": {"dtype": "C64"}, "unknown": {"dtype": "F31"},
        "double": {"dtype": "F64"}, "whole numbers": {"dtype": "I32"}, "fraction": {"shape": [1.5]},
        "back": {"data_offsets": own["data_offsets"][::-1]}, "beyond": {"data_offsets": [0, 2**62]},
        "all of it": {"data_offsets": [0, len(data)]}, "no offsets": {"data_offsets": []},
        "no shape": {"shape": None}, "many sides": {"shape": [1] * 10**4}, "more of it": {"code": "exec"},
    }  # fmt: skip
    made = {k: json.dumps(header | {first: own | v}) for k, v in changes.items()}
    rest = {k: v for k, v in header.items() if k != first}
    names = "", ".", "ключ", "\0", "x" * 9999, "\x1b"
    made |= {f"named {k[:9]!r}": json.dumps({k: own} | rest) for k in names}
    made |= {
        "metadata of numbers": json.dumps(header | {"__metadata__": {"sha256": 7}}),
        "other hash": json.dumps(header | {"__metadata__": {"sha256": "0"}}),
        "deep protocol": json.dumps(header | {"__metadata__": {"protocol": "[" * 10**5}}),
        "a list": "[]", "deep": "[" * 10**5, "a number": "7", "no JSON": "x" * n,
        "text": '"' + "x" * 99 + '"',
        "twice": json.dumps(header)[:-1] + f', "{first}": {json.dumps(own)}}}', "none": "{}",
        "UTF-16": "\ufeff" + json.dumps(header),
    }  # fmt: skip
    for name, text in made.items():
        content = text.encode()
        yield name, len(content).to_bytes(8, "little") + content + data


def texts(whole, changes):
    """(name, content) of a JSON file that others wrote otherwise; changes are {name: (path, value)}."""
    for name, (path, value) in changes.items():
        said = json.loads(whole)
        inner = said
        for key in path[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        yield f"{'.'.join(map(str, path))} {name}", json.dumps(said).encode()
    for text in "", "[]", "7", "null", '"x"', "[" * 10**5, "{" * 10**5, '{"a": ' * 999, "NaN", '{"model": 1}':
        yield f"text {text[:20]!r}", text.encode()
    yield "UTF-16", whole.encode("utf-16")
    yield "NULs", b"\0" * 999
    yield "twice", (whole[:-2] + ", " + whole[1:]).encode()
    yield "a long number", re.sub(r"\d+", "9" * 5000, whole, count=1).encode()


# ---- what is read --------------------------------------------------------------------------------


def state_of(**config):
    with without_values():
        net = ADM(**SIZE | {"heads": 1} | config)
    return weights(net)


def peak(reset=False):
    """The most memory that this process has touched, in bytes, since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    said = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(said[1])


def judged(name, read, wrong):
    """Reads a mutant, and enters into `wrong` what it should not have done; whether it loads."""
    loads = False
    before, begun = peak(reset=True), time.process_time()
    try:
        read()
        loads = True
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 2200:
            wrong.append(f"{name}: not one line: {str(error)[:99]!r}")
    except BaseException as error:
        wrong.append(f"{name}: {type(error).__name__}: {str(error)[:150]!r}")
    if (took := time.process_time() - begun) > SECONDS:
        wrong.append(f"{name}: took {took:.1f} s")
    if (grown := peak() - before) > MEMORY:
        wrong.append(f"{name}: took {grown / 2**20:.0f} MB")
    return loads


def all_of(mutants, place, read, mark, harmless):
    """Writes and reads them one after the other; those that load are `harmless`, by beginnings of names."""
    wrong, n = [], 0
    for name, content in mutants:
        place.write_bytes(content)
        if judged(name, read, wrong) and not name.startswith(harmless):
            wrong.append(f"{name}: loads")
        n += 1
    assert not wrong, "\n".join([f"{len(wrong)} of {n}", *wrong])
    assert not mark.exists()
    return n


def saveable(mutants, **how):
    """Those of the mutants that can be written at all."""
    for name, state in mutants:
        out = io.BytesIO()
        try:
            torch.save(state, out, **how)
        except Exception:
            continue
        yield name, out.getvalue()


HARMLESS = "double", "half", "brain", "parameter", "of two", "a view of one", "strided", "more", "twice"
"""What changes nothing of a model, or only its values to others."""
BITS = "bit ", "byte "
"""What goes unnoticed in files without checksums, where it changes a value."""


@pytest.mark.filterwarnings("ignore")
def test_zips_and_older_files_of_torch(tmp_path):
    mark, file, state = tmp_path / "this ran", tmp_path / "a.pt", state_of()
    read, n = lambda: read_published(file, **HOW), 0
    for how in {}, {"_use_new_zipfile_serialization": False}:
        out = io.BytesIO()
        torch.save(state, out, **how)
        mutants = [*saveable(tensors(state, mark), **how), *bytes_of(out.getvalue())]
        mutants += [("a key", keyed())] if how else packed(out.getvalue())
        n += all_of(mutants, file, read, mark, ("a list", *HARMLESS, *BITS))  # as DDIM's code writes one
    assert n > 140


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("theirs_modules")
def test_pickles_of_edm(tmp_path):
    mark, file = tmp_path / "this ran", tmp_path / "a.pkl"
    theirs = Theirs(*CASES["DDPM++, VP"])
    theirs.c = theirs.c | {"model_channels": 8, "channel_mult": [1], "augment_dim": 0}
    theirs.mean(torch.zeros(1, 3, 8, 8), 1.0)
    whole = edm(file, theirs).read_bytes()
    mutants = []
    for name, state in tensors(dict(theirs), mark):
        if isinstance(state, dict) and {*theirs} <= {*state} and all(isinstance(k, str) for k in state):
            try:
                mutants.append((name, edm(file, theirs, state).read_bytes()))
            except Exception:  # what cannot be pickled
                pass
    mutants += bytes_of(whole)
    mutants += [
        ("large index", b"\x80\x02K\x01r\xff\xff\xff\xff."), ("marks", b"\x80\x02" + b"(" * 10**5 + b"."),
        ("long", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00"), ("a list", pickle.dumps([1])),
        ("deep", pickle.dumps({"ema": nested(400, 1)})), ("code", pickle.dumps({"ema": Runs(str(mark))})),
        ("of protocol 0", pickle.dumps({"ema": Runs(str(mark))}, protocol=0)), ("text", b"<html>"),
        ("a key", keyed()),
        ("getattr", b"\x80\x02cbuiltins\ngetattr\ncposix\nsystem\nX\x04\0\0\0nonetR."),
        ("instance", b"(S'x'\niposix\nsystem\n."), ("state of a class", b"\x80\x02cbuiltins\nset\n}b."),
        ("extension", b"\x80\x02\x82\x01."), ("persistent", b"\x80\x02K\x01Q."), ("older", b"\x80\x63."),
    ]  # fmt: skip
    assert all_of(mutants, file, lambda: read_published(file), mark, HARMLESS + BITS) > 60


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The files of a model of ours, and of a translation with it."""
    root = tmp_path_factory.mktemp("ours")
    save(Diffusion(domains=("a", "b"), net="tiny"), root / "model", info={"size": 16})
    (root / "in").mkdir()


    Image.new("RGB", (16, 16)).save(root / "in/x.png")
    how = {"method": "sdedit", "target": f"{root / 'model'}:a", "options": {"steps": 1}, "device": "cpu"}
    translate(root / "in", root / "out", **how)
    return root


def test_models_of_ours(ours, tmp_path):
    mark, folder = tmp_path / "this ran", tmp_path / "m"
    folder.mkdir()
    names = "model.json", "weights.safetensors"
    weights, model = ((ours / "model" / n).read_bytes() for n in names[::-1])
    (folder / names[0]).write_bytes(model)
    read = lambda: load(folder)
    mutants = [*bytes_of(weights), *headers(weights)]
    nan = {k: v * torch.nan for k, v in load_file(ours / "model" / names[1]).items()}
    mutants.append(("NaN", to_safetensors(nan)))
    n = all_of(mutants, folder / names[1], read, mark, ("more of", "twice"))
    (folder / names[1]).write_bytes(weights)
    net = "model", "net"
    changes = {
        "of code": (("model", "is"), "os:system"), "of builtins": (("model", "is"), "builtins:eval"),
        "dotted": (("model", "is"), "sfumato.core.files:x"), "of torch": (("model", "is"), "torch.nn:Linear"),
        "number": (("model", "is"), 7), "list": (("model", "is"), ["Diffusion"]),
        "gone": (("model", "is"), KeyError),
        "large": (("model", "channels"), 10**9), "huge": (("model", "channels"), 10**30),
        "fraction": (("model", "channels"), 1.5), "negative": (("model", "channels"), -1),
        "not a number": (("model", "any_domain"), float("nan")), "text": (("model", "channels"), "3"),
        "unknown": (net, "gigantic"), "of nothing": (net, None), "itself": (net, {"same as": "net"}),
        "a deep one": (net, nested(500, 1)), "other": (net, {"is": "ADM", "blocks": 10**6, "heads": 1}),
        "wide": (net, {"is": "ADM", "widths": [10**7] * 3, "heads": 1}),
        "many": (("model", "domains"), ["a"] * 2),
        "no name": (("model", "domains"), [7, None]), "a word": (("model", "domains"), "ab"),
        "thousands": (("model", "domains"), [str(i) for i in range(10**4)]), "new": (("model", "new"), 1),
        "sine": (("model", "process"), "sine"), "eval": (("model", "prediction"), "__import__('os')"),
        "future": (("format",), 99), "true": (("format",), True), "words": (("info",), "x"),
        "wide pictures": (("info", "size"), 10**9), "no size": (("info", "size"), "16"),
        "prepared": (("info", "preparation"), {"size": [1e9, 2]}),
        "prepared otherwise": (("info", "preparation"), []),
        "unicode": (("model", "domains"), ["\u202e", "\x1b[31m"]),
        "surrogate": (("model", "domains"), ["\udcff", "b"]),
    }  # fmt: skip
    n += all_of(texts(model.decode(), changes), folder / names[0], read, mark, ("model.domains",))
    assert n > 90


def test_runs_of_ours(ours, tmp_path):
    mark, run = tmp_path / "this ran", tmp_path / "run.json"
    whole = (ours / "out/run.json").read_text()
    said = json.loads(whole)
    changes = {
        f"{n} {part} {key}": ((part, key), value)
        for part in ("run", "from") for key in said[part]
        for n, value in enumerate((None, 7, "\x1b", [[]], {"a": 1}, 1e400))
    }  # fmt: skip
    changes = dict(RNG.sample(sorted(changes.items()), 30))
    changes |= {f"lacks {k}": ((part, k), KeyError) for part in ("run", "from") for k in said[part]}
    outs = iter(range(10**6))
    read = lambda: repeat(run, tmp_path / f"out{next(outs)}")
    assert all_of(texts(whole, changes), run, read, mark, ("run.", "from.")) > 60


def test_folders_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    import test_diffusers_folders as theirs

    mark, folder = tmp_path / "this ran", tmp_path / "p"
    net, scheduler = theirs.randomly(diffusers.UNet2DModel(**theirs.LITTLE)), diffusers.DDPMScheduler()
    theirs.written(folder, net, scheduler)
    file = folder / "unet/config.json"
    whole, read, values = file.read_text(), lambda: read_published(folder), {}
    odd = None, -1, 10**9, 1.5, "x", [[]], {"a": 1}, [10**7] * 3, ["Dangerous"] * 2
    for key in ("block_out_channels", "down_block_types", "layers_per_block", "sample_size", "act_fn",
                "attention_head_dim", "norm_num_groups", "in_channels", "_class_name"):  # fmt: skip
        values |= {f"{n}": ((key,), value) for n, value in RNG.sample([*enumerate(odd)], 3)}
    n = all_of(texts(whole, {f"{k} {v[0][0]}": v for k, v in values.items()}), file, read, mark, ("",))
    file.write_text(whole)
    file = folder / "scheduler/scheduler_config.json"
    whole = file.read_text()
    values = {
        f"{key} {i}": ((key,), value)
        for key in ("num_train_timesteps", "beta_start", "trained_betas", "beta_schedule", "prediction_type")
        for i, value in enumerate([KeyError, *RNG.sample(odd, 3)])
    }
    n += all_of(texts(whole, values), file, read, mark, ("",))
    file.write_text(whole)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    n += all_of(bytes_of(file.read_bytes(), 4, 3), file, read, mark, BITS)
    assert n > 50
