"""Pictures to pictures: what `sfumato translate` does.

Results keep the sources' names and tree, beside a run.json from which the run can be repeated.
Pictures are written one by one and whole.  A run that was stopped goes on where
it was, with the batches it would have had: a picture's last bits depend on its batch.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sfumato.checkpoints.model_folder import ModelFolder
from sfumato.core.arguments import checked
from sfumato.core.devices import device_of, with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.core.versions import version
from sfumato.data.folders import for_folder
from sfumato.data.hashing import sha256
from sfumato.data.image_folder import ImageFolder
from sfumato.data.masks import check_mask
from sfumato.data.open_data import measured_range, outside
from sfumato.data.preparation import Side
from sfumato.data.resize import Resize, covering, said_size
from sfumato.data.value_range import Stated, rule_of
from sfumato.data.write import Format
from sfumato.diffusion.watch import Watch
from sfumato.methods.registry import name_of
from sfumato.module import channels_of, describe
from sfumato.training.verdict import FOG
from sfumato.translation.plan import Plan
from sfumato.translation.results import Depth, Results
from sfumato.translation.run_file import Summary, crops, saved_depth, saved_digest, there, to_repeat
from sfumato.translation.translator import assembled, options_of
from sfumato.windows import WHOLE, networks, trained_side, windowed

Paths = str | Path | Sequence[str | Path]
Scale = Literal["native"]


@checked
@with_torch_defaults
def translate(
    paths: Paths,
    out: str | Path,
    *,
    method: str | None = None,
    model: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    classifier: str | Path | None = None,
    seed: int = 0,
    batch: Count | None = None,
    size: str | Count | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    side: Side | None = None,
    scale: Scale | None = None,
    windows: bool | None = None,
    resize_back: bool = False,
    format: Format | None = None,
    depth: Depth | None = None,
    alpha: str | None = None,
    range: Stated | None = None,
    to_range: Stated | None = None,
    pages: Literal["first", "all"] = "first",
    strict: bool = False,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    expect: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    loaded: dict[Path, ModelFolder] | None = None,
) -> Summary:
    """Translates pictures and folders of pictures into a folder of results.

    Args:
        paths: pictures, or folders whose trees and names are kept.
        out: folder for the results; after a stop, the same command goes on.
        method: the method to translate by, see `sfumato methods`; not needed with model.
        model: folder of a trained translator.
        source: model of the source domain, FOLDER:DOMAIN.
        target: model of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.
        seed: seed of the noise; a picture's result depends on the seed and the picture alone.
        batch: pictures translated at a time; by default as many as should fit into memory.
        size: short side of the pictures in pixels, or WIDTHxHEIGHT, as in 96x64; by default as in the
            model's training, which also decides the next three.
        resize: how pictures get that size: short (scale the short side, keep the whole picture), crop (cut
            out its middle), stretch, or none (pictures have it already).
        upscale: enlarge pictures that are smaller than size, instead of leaving them out.
        side: which half of a picture is read: left, right, or whole (it is one picture).
        scale: native takes every picture at its own size, also where training had made them smaller.
        windows: whether networks see overlapping windows of the training's size, see `sfumato.windowed`; by
            default where a picture is more than twice as large.
        resize_back: bring results to the sources' size.
        format: of the results: png, tiff, webp (these lose nothing), or jpeg; by default tiff if the
            results have a range, other channels than 1 or 3, or pages, and else png.
        depth: bits of a sample of the results, 32 of floats; by default each has its source's type.
        alpha: keep (results take over the sources' transparency), or the colour that transparent pictures
            are laid on, such as black or #ff8800; by default the training's, which is white.
        range: the values that become black and white: two ends such as -1000 3000; auto, the least and the
            largest of the pictures; or percentile 0.1 99.9 of them; by default the training's.
        to_range: two ends of the results' values; by default the training's, or as range.
        pages: first, or all of TIFFs of several pages, whose results have as many.
        strict: refuse to begin if the folders hold anything that cannot be read, or only in part.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.
        options: the method's own options.
        expect: refuse to begin unless run.json's "run" is this one; used by `repeat`.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.
        loaded: models that are read already, see `assembled`.

    Raises:
        UserError: for anything wrong with the pictures, models or options, in one line.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    out, pictures = for_folder(out), ImageFolder(given)
    outside(out, given)
    pictures.by_name("rename one, or translate them into two folders")
    made, where = assembled(method, model, source, target, classifier, loaded), device_of(device)
    part, chosen = made.part.to(where), options_of(made.part, options or {})
    if scale and (size or resize or upscale or resize_back):
        raise UserError(
            f"--scale {scale} takes pictures as they are: leave out --size, --resize, --upscale and "
            f"--resize-back"
        )
    begun = {size, resize, scale} == {None} and crops(out)
    how: dict[str, Any] = {"size": size, "upscale": upscale, "side": side, "contradicted": not scale}
    how |= {"direction": chosen.get("direction"), "alpha": None if alpha == "keep" else alpha}
    to = to_range and rule_of(to_range, "to_range").ends
    if to_range is not None and to is None:
        words = to_range if isinstance(to_range, str) else " ".join(map(str, to_range))
        raise UserError(f"--to-range {words}: results cannot be measured: expected two ends, such as 0 4095")
    number, sides = channels_of(made.part, how["direction"]), ((p, side or "whole") for p in pictures.paths)
    how["ranges"] = measured_range(range, sides, number, every=pages == "all"), to
    resize = "none" if scale else "crop" if begun else resize
    prepare, notes = made.preparation(**how, resize=resize, whole=True)
    prepare = replace(prepare, page=0) if pages == "all" else prepare
    pictures.preparation = prepare
    depth = depth or (None if expect else saved_depth(out))
    plain = pages == "first" and not prepare.to_range and (prepare.to_channels or prepare.channels) in (1, 3)
    form = Results(
        format or ("png" if plain and depth != 32 else "tiff"), depth, alpha == "keep", resize_back
    )
    form.check(prepare)
    sizes, whole_to = _sizes(pictures), math.inf
    if windows or (windows is None and networks(part) and trained_side(part)):
        whole_to = (trained_side(part) or 0) * (1 if windows else WHOLE)
        if windows or any(max(size) > whole_to for size in sizes):
            part = windowed(part, whole=whole_to or None)
    if mask := chosen.get("mask"):
        check_mask(Path(mask))
    run = {
        "method": name_of(part), "translator": describe(made.part), "seed": seed,
        "preparation": prepare.to_json(), "windows": windows, **form.to_json(),
        "options": chosen | ({"mask": sha256(Path(mask))} if mask else {}), "weights": made.weights,
        "pictures": {"count": len(pictures), "sha256": pictures.digest_as(saved_digest(out, expect))},
        "versions": {name: version(name) for name in ("sfumato", "torch")},
    }  # fmt: skip
    origin = {
        "sources": [str(Path(p).absolute()) for p in given], "method": method,
        "roots": sorted({str(root.absolute()) for root in pictures.roots}),
        "models": {r: f"{m.folder.absolute()}:{m.domain or ''}".rstrip(":") for r, m in made.models.items()},
        "mask": str(Path(mask).absolute()) if mask else None,
        # 64 of 64x64 pixels should fit into memory
        "batch": batch or max(1, min(64, 2**18 // max(map(math.prod, sizes), default=1))),
        "device": str(where),
    }  # fmt: skip
    plan = Plan(part, chosen, pictures, out, json.loads(json.dumps(run)), origin, form, whole_to, watch)
    told = {str(m.folder): str(m.info.get("verdict")) for m in made.models.values()}
    notes += [f"{folder}: {text}" for folder, text in told.items() if FOG in text]
    for text in notes:
        warnings.warn(text, stacklevel=3)
    if not all(map(there, plan.results)):
        plan.rehearse()
    if strict:
        plan.pictures = pictures.decoded(strict=True)
    for text in plan.pictures.said():
        warnings.warn(text, stacklevel=3)
    return plan.carry_out(expect)


@checked
@with_torch_defaults
def repeat(run: str | Path, out: str | Path, *, device: str | None = None) -> Summary:
    """Does a recorded run again, into another folder; the same machine gives the same bytes.

    Args:
        run: a translation's run.json, or the folder that holds it.
        out: the folder for the results.
        device: instead of the recorded one.

    Raises:
        UserError: if its pictures or models are no longer what they were.
    """
    what, origin = to_repeat(Path(run))
    options = what["options"] | ({"mask": origin["mask"]} if origin["mask"] else {})
    how = what["preparation"]
    return translate(
        origin["sources"], out, method=origin["method"], **origin["models"], options=options,
        seed=what["seed"], size=how["size"] and said_size(tuple(how["size"])),
        **{k: how[k] for k in ("resize", "upscale", "side")}, expect=what,
        **{k: what[k] for k in ("windows", "resize_back", "format", "depth")},
        alpha="keep" if what["alpha"] else how.get("transparency", "on white").removeprefix("on "),
        range=how.get("range"), to_range=how.get("to_range"),
        pages="first" if how.get("page") is None else "all", batch=origin["batch"],
        device=device or origin["device"],
    )  # fmt: skip


def _sizes(pictures: ImageFolder) -> set[tuple[int, int]]:
    """The (height, width) that pictures have when they are prepared, by their headers."""
    how = pictures.preparation
    if how.size and how.resize != "short":
        return {how.size}
    return {covering(size, how.size) if how.size else size for size in pictures.known_sizes()}
