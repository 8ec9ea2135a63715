"""Pickles of EDM: networks and preconditioning against their formulas, written down once more here."""

import math
import os
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
from test_published import error
from test_train import TINY, folders  # noqa: F401
from torch.nn import functional as F

from sfumato.checkpoints.edm import OBJECT
from sfumato.checkpoints.model_folder import load, save
from sfumato.checkpoints.published import read_published
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.diffusion.integrate import integrate
from sfumato.training.train import train
from sfumato.translation.translator import translator

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
LITTLE = {"img_resolution": 16, "in_channels": 3, "out_channels": 3, "label_dim": 0, "augment_dim": 9,
          "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
          "dropout": 0.1, "use_fp16": True}  # fmt: skip
WIDE = LITTLE | {"model_channels": 128, "channel_mult": [1, 1], "attn_resolutions": [16]}
DDPMPP = {"embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard",
          "decoder_type": "standard", "resample_filter": [1, 1]}  # fmt: skip
NCSNPP = DDPMPP | {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
                   "resample_filter": [1, 3, 3, 1]}  # fmt: skip
THREE = {"channel_mult": [1, 2, 1]}
CASES = {
    "DDPM++, EDM": ("SongUNet", "EDMPrecond", LITTLE | DDPMPP),
    "NCSN++ of 3 classes, VE": ("SongUNet", "VEPrecond", LITTLE | NCSNPP | {"label_dim": 3} | THREE),
    "DDPM++, VP": ("SongUNet", "VPPrecond", LITTLE | DDPMPP),
    "ADM of 3 classes, EDM": ("DhariwalUNet", "EDMPrecond", WIDE | {"label_dim": 3, "augment_dim": 0}),
    "ADM, iDDPM": ("DhariwalUNet", "iDDPMPrecond", WIDE | {"out_channels": 6, "channel_mult": [1]}),
}


class Theirs(dict):
    """F(x, c_noise, label) by names of weights, which are drawn when they are first asked for."""

    def __init__(self, kind, outer, config):
        super().__init__()
        self.kind, self.outer, self.c = kind, outer, config
        self.song, self.rng = kind == "SongUNet", torch.Generator().manual_seed(0)
        self.taps = torch.tensor(config.get("resample_filter", [1, 1]), dtype=torch.float32)
        self.taps = self.taps.outer(self.taps) / self.taps.sum() ** 2

    def of(self, name, *shape):
        if name not in self:
            self[name] = torch.randn(shape, generator=self.rng) / max(1, math.prod(shape[1:])) ** 0.5
        return self[name]

    def conv(self, p, x, n, k=3, pad=None):
        w, b = self.of(f"{p}.weight", n, x.shape[1], k, k), self.of(f"{p}.bias", n)
        return F.conv2d(x, w, padding=k // 2 if pad is None else pad) + b[:, None, None]

    def linear(self, p, x, n, bias=True):
        y = x @ self.of(f"{p}.weight", n, x.shape[1]).T
        return y + self.of(f"{p}.bias", n) if bias else y

    def norm(self, p, x, eps=None):
        g = x.reshape(len(x), min(32, x.shape[1] // 4), -1)
        eps = eps or (1e-6 if self.song else 1e-5)
        g = (g - g.mean(2, keepdim=True)) / (g.var(2, keepdim=True, unbiased=False) + eps).sqrt()
        w, b = (self.of(f"{p}.{n}", x.shape[1])[:, None, None] for n in ("weight", "bias"))
        return g.reshape(x.shape) * w + b

    def filtered(self, x, scale, pad):
        return F.conv2d(x, scale * self.taps.expand(x.shape[1], 1, -1, -1), padding=pad, groups=x.shape[1])

    def resized(self, p, x, way, pad=None):
        n = len(self.taps)
        if way:
            self[f"{p}.resample_filter"] = self.taps[None, None]
        if way == "down":
            return self.filtered(x, 1, n // 2 - 1 if pad is None else pad)[:, :, ::2, ::2]
        if way == "up":
            wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
            wide[:, :, ::2, ::2] = x
            return self.filtered(wide, 4, n - 1 - (n // 2 - 1))
        return x

    def block(self, p, x, e, n, attend=False, way=""):
        h = self.conv(f"{p}.conv0", self.resized(f"{p}.conv0", F.silu(self.norm(f"{p}.norm0", x)), way), n)
        e = self.linear(f"{p}.affine", e, n if self.song else 2 * n)[:, :, None, None]
        if self.song:
            h = F.silu(self.norm(f"{p}.norm1", h + e))
        else:
            h = F.silu(self.norm(f"{p}.norm1", h) * (1 + e[:, :n]) + e[:, n:])
        h = self.conv(f"{p}.conv1", h, n)
        skip = self.resized(f"{p}.skip", x, way)
        if n != x.shape[1] or (way and self.song):
            skip = self.conv(f"{p}.skip", skip, n, 1)
        scale = 0.5**0.5 if self.song else 1
        h = (h + skip) * scale
        if not attend:
            return h
        heads = 1 if self.song else n // 64
        rows = self.conv(f"{p}.qkv", self.norm(f"{p}.norm2", h), 3 * n, 1)
        q, k, v = rows.reshape(len(x) * heads, n // heads, 3, -1).unbind(2)
        a = torch.einsum("ncq,nck->nqk", q, k / (n // heads) ** 0.5).softmax(2)
        a = torch.einsum("nqk,nck->ncq", a, v).reshape(h.shape)
        return (h + self.conv(f"{p}.proj", a, n, 1)) * scale

    def embedded(self, c_noise, hot):
        c, m = self.c, self.c["model_channels"]
        n = m * c.get("channel_mult_noise", 1)
        if self.song and c["embedding_type"] == "fourier":
            f = 2 * math.pi * self.of("map_noise.freqs", n // 2)
        else:
            f = 10_000.0 ** (-torch.arange(n // 2) / (n // 2 - self.song))
        angle = c_noise[:, None] * f
        parts = (angle.sin(), angle.cos()) if self.song else (angle.cos(), angle.sin())
        e = torch.cat(parts, 1)
        if self.song and c["label_dim"]:
            e = e + self.linear("map_label", hot * c["label_dim"] ** 0.5, n)
        if c["augment_dim"]:
            self.of("map_augment.weight", n, c["augment_dim"])
        e = self.linear("map_layer1", F.silu(self.linear("map_layer0", e, 4 * m)), 4 * m)
        if not self.song and c["label_dim"]:
            e = e + self.linear("map_label", hot, 4 * m, bias=False)
        return F.silu(e)

    def network(self, x, c_noise, hot):
        c, e = self.c, self.embedded(c_noise, hot)
        aux, skips = x, []
        for level, mult in enumerate(c["channel_mult"]):
            r = c["img_resolution"] // 2**level
            at, n = f"enc.{r}x{r}", c["model_channels"] * mult
            if level == 0:
                x = self.conv(f"{at}_conv", x, n if not self.song else c["model_channels"])
            else:
                x = self.block(f"{at}_down", x, e, x.shape[1], way="down")
                if c.get("encoder_type") == "residual":
                    p, m, pad = f"{at}_aux_residual", x.shape[1], 1 + (len(self.taps) - 1) // 2
                    aux = F.conv2d(aux, self.of(f"{p}.weight", m, aux.shape[1], 3, 3), padding=pad)
                    aux = self.resized(p, aux, "down", 0) + self.of(f"{p}.bias", m)[:, None, None]
                    x = aux = (x + aux) / 2**0.5
            skips.append(x)
            for i in range(c["num_blocks"]):
                x = self.block(f"{at}_block{i}", x, e, n, r in c["attn_resolutions"])
                skips.append(x)
        for level, mult in list(enumerate(c["channel_mult"]))[::-1]:
            r = c["img_resolution"] // 2**level
            at, n = f"dec.{r}x{r}", c["model_channels"] * mult
            if level == len(c["channel_mult"]) - 1:
                x = self.block(f"{at}_in1", self.block(f"{at}_in0", x, e, n, True), e, n)
            else:
                x = self.block(f"{at}_up", x, e, x.shape[1], way="up")
            for i in range(c["num_blocks"] + 1):
                attend = r in c["attn_resolutions"] and (i == c["num_blocks"] or not self.song)
                x = self.block(f"{at}_block{i}", torch.cat([x, skips.pop()], 1), e, n, attend)
        names = (f"{at}_aux_norm", f"{at}_aux_conv") if self.song else ("out_norm", "out_conv")
        return self.conv(names[1], F.silu(self.norm(names[0], x)), c["out_channels"])

    def mean(self, x, sigma, label=None):
        """D(x; sigma) of Karras et al. 2022, table 1; sigma a number."""
        hot = torch.zeros(len(x), self.c["label_dim"])
        if label is not None:
            hot[:, label] = 1
        told = {"EDMPrecond": lambda s: math.log(s) / 4,
                "VEPrecond": lambda s: math.log(s / 2),
                "VPPrecond": lambda s: 999 * ((0.01 + 39.8 * math.log(1 + s**2)) ** 0.5 - 0.1) / 19.9,
                "iDDPMPrecond": lambda s: U.index(s)}[self.outer](sigma)  # fmt: skip
        c_noise = torch.full((len(x),), float(told))
        if self.outer == "EDMPrecond":
            size = (sigma**2 + 0.25) ** 0.5
            out = self.network(x / size, c_noise, hot)
            return 0.25 / size**2 * x + sigma * 0.5 / size * out
        if self.outer == "VEPrecond":
            return x + sigma * self.network(x, c_noise, hot)
        out = self.network(x / (1 + sigma**2) ** 0.5, c_noise, hot)[:, :3]
        return x - sigma * out


def iddpm(M=1000):
    """sigma of numbers 0..M-1, from the recursion of Karras et al. 2022, table 1."""
    abar = lambda j: math.sin(math.pi / 2 * j / M / 1.008) ** 2
    u = [0.0]
    for j in range(M, 0, -1):
        u.append(((u[-1] ** 2 + 1) / max(abar(j - 1) / abar(j), 0.001) - 1) ** 0.5)
    return u[1:]


U = iddpm()


# ---- files as theirs are -------------------------------------------------------------------------


class Easy(dict):
    """dnnlib's."""


def reconstruct(meta):
    raise AssertionError("this ran")


class Persistent:
    def __init__(self, name, **state):
        self.meta = {"type": "class", "version": 6, "class_name": name, "state": Easy(state),
                     "module_src": "import os\nos.system('echo this ran')\nraise SystemExit"}  # fmt: skip

    def __reduce__(self):
        return reconstruct, (self.meta,), None


for kind, named in ((Easy, "dnnlib.util.EasyDict"), (reconstruct, OBJECT)):
    kind.__module__, _, kind.__qualname__ = named.rpartition(".")


@pytest.fixture(autouse=True)
def theirs_modules(monkeypatch):
    """The modules that their pickles name."""
    for kind in (Easy, reconstruct):
        module = types.ModuleType(kind.__module__)
        setattr(module, kind.__qualname__, kind)
        monkeypatch.setitem(sys.modules, kind.__module__.partition(".")[0], types.ModuleType("package"))
        monkeypatch.setitem(sys.modules, kind.__module__, module)


def module(state, name, **attributes):
    """Tensors by their names as their module would be pickled."""
    inner = {}
    for key in state:
        first, dot, rest = key.partition(".")
        inner.setdefault(first if dot else "", {})[rest or key] = state[key]
    own, hooks = inner.pop("", {}), OrderedDict()
    buffers = ("resample_filter", "freqs")
    held = {"training": False, "_backward_hooks": hooks, "_non_persistent_buffers_set": set(),
            "_parameters": OrderedDict((k, torch.nn.Parameter(v) if torch.is_tensor(v) else v)
                                       for k, v in own.items() if k not in buffers),
            "_buffers": OrderedDict((k, v) for k, v in own.items() if k in buffers) | {"none": None},
            "_modules": OrderedDict((k, module(v, "Layer")) for k, v in inner.items())}  # fmt: skip
    if set(inner) and all("x" in k and "_" in k for k in inner):
        dictionary = torch.nn.ModuleDict()
        dictionary._modules = held["_modules"]
        return dictionary
    return Persistent(name, **held, **attributes, _init_args=())


def written(file, theirs, changes=(), **of_outer):
    changes = dict(changes)
    config = theirs.c | changes.pop("config", {})
    state = {k: v for k, v in (dict(theirs) | changes).items() if v is not None}
    model = module(state, theirs.kind, _init_kwargs=Easy(config))
    outer = {"img_resolution": 16, "sigma_min": 0, "sigma_max": math.inf, "sigma_data": 0.5} | of_outer
    ema = Persistent(theirs.outer, _parameters={}, _buffers={}, _modules=OrderedDict(model=model), **outer)
    with file.open("wb") as f:
        pickle.dump({"ema": ema, "augment_pipe": Persistent("AugmentPipe", p=0.12), "loss_fn": None}, f)
    return file


def made(name="DDPM++, EDM"):
    theirs = Theirs(*CASES[name])
    with torch.no_grad():
        theirs.mean(X, U[500] if "iDDPM" in name else 1.0, 0 if theirs.c["label_dim"] else None)
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_pickle_is_the_published_denoiser(name, tmp_path, report):
    """The mean at 20 levels; and Heun of 20 steps, or DDIM, by another network's code."""
    theirs = made(name)
    read = read_published(written(tmp_path / "edm-afhqv2-64x64-x.pkl", theirs))
    assert "CC BY-NC-SA 4.0" in read.said
    assert ("augmentation" in read.said) == bool(theirs.c["augment_dim"])
    save(read.part, tmp_path / "m", info=read.info)
    assert "CC BY-NC-SA 4.0" in (tmp_path / "m/README.md").read_text()
    label = 2 if theirs.c["label_dim"] else None
    f = load(f"{tmp_path / 'm'}:{'afhqv2' if label is None else label}")
    ends = [(-f.process.log_snr(t) / 2).exp().item() for t in (f.process.t_max, f.process.t_min)]
    if "iDDPM" in name:
        sigmas = [U[n] for n in torch.linspace(990, 0, 21).round().int().tolist()]
    else:
        a, b = (s ** (1 / 7) for s in ends)
        sigmas = [(a + (b - a) * i / 20) ** 7 for i in range(21)]
        sigmas[0], sigmas[-1] = ends
    times = f.process.time(-2 * torch.tensor(sigmas, dtype=torch.float64).log()).clamp(max=f.process.t_max)
    worst, x, heun = 0.0, X * sigmas[0], theirs.outer in ("EDMPrecond", "VEPrecond")
    for t, s, r in zip(times, sigmas, sigmas[1:], strict=False):
        alpha = f.process(t)[0].float()
        mean = theirs.mean(x, s, label)
        worst = max(worst, error(f(alpha * x, t), mean))
        d = (x - mean) / s
        y = x + (r - s) * d
        if heun:
            y = x + (r - s) * (d + (y - theirs.mean(y, r, label)) / r) / 2
        x = y
    (first, _), (last, _) = f.process(times[0]), f.process(times[-1])
    whole = integrate("heun" if heun else "ddim", f, first.float() * X * sigmas[0], times)
    whole = error(whole / last.float(), x)
    report(f"{name}: mean, and {'Heun' if heun else 'DDIM'} of 20", worst, whole)
    assert worst < 1e-5
    assert whole < 1e-5


class Dangerous:
    def __reduce__(self):
        return os.system, ("echo this ran",)


WRONG = {
    "code": ({"map_layer0.weight": Dangerous()}, {}, r"a\.pkl holds posix\.system, which is neither numbers"),
    "missing": ({"map_layer0.bias": None}, {}, r"map_layer0\.bias is missing, expected \(64,\)"),
    "more": ({"map_layer2.bias": torch.zeros(1)}, {}, r"map_layer2\.bias, which its SongUNet does not have"),
    "NaN": ({"map_layer0.bias": torch.full((64,), torch.nan)}, {}, r"map_layer0\.bias has values that are"),
    "claimed": ({"map_layer0.bias": torch.zeros(1).expand(10**6)}, {}, "claim to be larger than the file"),
    "complex": ({"map_layer0.bias": torch.zeros(64, dtype=torch.cfloat)}, {}, "complex64, torch.strided"),
    "deep": ({"config": {"channel_mult": [1] * 99}}, {}, "has 99 levels of 1 blocks: expected up to 16"),
    "filter": ({"config": {"resample_filter": [1, 2, 1]}}, {}, r"its resample_filter is \[1, 2, 1\]"),
    "other filter": ({"config": {"resample_filter": [1, 3, 3, 1]}}, {}, "is not that of"),
    "skip": ({"config": {"encoder_type": "skip"}}, {}, "its encoder_type is 'skip': expected standard or"),
    "odd": ({"config": {"img_resolution": None}}, {}, "holds no network of EDM: expected its 'ema'"),
    "deviation": ({"sigma_data": 1.0}, {}, "for data of deviation 1.0: expected 0.5"),
    "domains": ({}, {"domains": ("a", "b")}, r"no classes: expected 1 domain, not 2"),
    "size": ({}, {"size": 64}, "records what it was trained with: leave out --size"),
    "back": ({}, {"back": "other.pkl"}, "has no way back"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name, tmp_path, capfd):
    changes, given, message = WRONG[name]
    outer = {k: v for k, v in changes.items() if k == "sigma_data"}
    file = written(tmp_path / "a.pkl", made(), {k: v for k, v in changes.items() if k not in outer}, **outer)
    with pytest.raises(UserError, match=message) as told:
        read_published(file, **given)
    assert "\n" not in str(told.value)
    assert "this ran" not in capfd.readouterr().out


def test_it_is_imported_translated_with_and_trained_on(tmp_path, capsys, folders):  # noqa: F811
    file, out = written(tmp_path / "edm-ffhq-64x64-uncond-vp.pkl", made()), str(tmp_path / "m")
    with pytest.raises(SystemExit) as end:
        main(["import", str(file), "--out", out])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "model of ffhq: EDM's SongUNet of 16, 32 channels, preconditioned by EDMPrecond" in said
    for method, roles, options in (
        ("sdedit", {}, {}), ("ilvr", {}, {"factor": 4}), ("ddib", {"source": out}, {}),
    ):  # fmt: skip
        y = translator(method, target=out, **roles).translate(X[:, :, :, :7], steps=2, **options)
        assert y.shape == (2, 3, 8, 7)
        assert y.isfinite().all()
    how = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
    part = train("diffusion", folders, tmp_path / "run", start=out, **how)
    assert part.denoiser.net.net.map_label.weight.shape == (3, 16)
    assert (part.denoiser.prediction, part.denoiser.process.sigma_max) == ("edm", 80)
