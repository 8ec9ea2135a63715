"""The commands about model folders: what one is, and one made of weights from elsewhere."""

from __future__ import annotations

from pathlib import Path

from sfumato.core.terminal import say


def info(folder: str) -> None:
    """Describe a model folder.

    Args:
        folder: a model folder, or sfumato/NAME for a model that ships; FOLDER:DOMAIN checks the domain, too.
    """
    import json

    from sfumato.checkpoints.model_folder import denoiser_of, describe_folder, load, resolve
    from sfumato.data.hashing import sha256
    from sfumato.methods.registry import name_of

    path, domain = resolve(folder)
    part = load(path)
    if domain is not None:
        denoiser_of(part, domain, str(path))
    facts = {
        "folder": str(path), "method": name_of(part), "domains": getattr(part, "domains", None),
        "parameters": f"{sum(p.numel() for p in part.parameters()):,}",
        **describe_folder(path)["info"], "sha256 of weights": sha256(path / "weights.safetensors"),
    }  # fmt: skip
    for key, value in facts.items():
        if value is not None:
            say(f"{key + ':':20}{value if isinstance(value, str) else json.dumps(value)}")


def import_(file: str, back: str | None = None, *, out: Path, size: int | None = None) -> None:
    """Make a model folder of a generator that the papers' code of CycleGAN, pix2pix or CUT trained.

    Args:
        file: the generator's weights, such as latest_net_G.pth; only tensors are read.
        back: weights of a CycleGAN's other generator, for the way back.
        out: the model folder to make.
        size: side in pixels of the pictures that it was trained on, and that it will make.
    """
    from sfumato.checkpoints.foreign import read_generator
    from sfumato.checkpoints.model_folder import save
    from sfumato.core.arguments import check_value
    from sfumato.core.ranges import TrainingSide
    from sfumato.data.folders import for_new_folder

    check_value("size", size, TrainingSide | None)
    for_new_folder(out)
    part, said = read_generator(file, back)
    save(part, out, info={"imported": Path(file).name} | ({"size": size} if size else {}))
    say(f"{out} holds {said}; `sfumato translate PICTURES --model {out} --out RESULTS` uses it")
