"""Pictures to pictures: what `sfumato translate` does.

Results keep the sources' names and tree, beside a run.json from which the run can be repeated.
Pictures are written one by one and whole.  A run that was stopped goes on where it was, with the batches
it would have had: a picture's last bits depend on its batch.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sfumato.checkpoints.hub import spelled
from sfumato.core.arguments import checked
from sfumato.core.devices import device_of, with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.options import told_by
from sfumato.core.terminal import count
from sfumato.core.versions import version
from sfumato.data.folders import for_folder, for_new_file
from sfumato.data.folders import made as made_folder
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import doubles, none_twice, reads_as_picture
from sfumato.data.masks import mask_record, masks_of
from sfumato.data.open_data import measured_range, outside
from sfumato.data.preparation import Preparation
from sfumato.data.read import Joined
from sfumato.data.resize import UNCUT, covered, covering, said_size
from sfumato.data.stacks import joined
from sfumato.data.value_range import two_ends
from sfumato.data.write import Format, format_of
from sfumato.methods.registry import name_of
from sfumato.module import describe
from sfumato.translation.options import TranslateOptions
from sfumato.translation.plan import Plan, known_sizes
from sfumato.translation.results import Results
from sfumato.translation.run_file import (
    SHOWN,
    Summary,
    crops,
    prepared_in,
    read_run,
    saved_depth,
    saved_digest,
    there,
    to_repeat,
)
from sfumato.translation.translator import Assembled, assembled, options_of
from sfumato.windows import by_windows, placed, seen_whole


@told_by(TranslateOptions)
@with_torch_defaults
def translate(asked: TranslateOptions) -> Summary:
    """Translates pictures and folders of pictures into a folder of results, or one picture into a file.

    A folder that holds results of these folders already gets those that are missing, or whose pictures have
    changed since.

    Raises:
        UserError: for anything wrong with the pictures, models or options, in one line.
    """
    if reads_as_picture(asked.out) and not Path(asked.out).is_dir():
        return _into_a_file(asked, Path(asked.out))
    out, pictures = for_folder(asked.out), ImageFolder(asked.given)
    outside(out, [*asked.given, *asked.further])
    pictures, apart = _named_apart(asked, out, pictures)
    further = [ImageFolder([folder]) for folder in asked.further]
    none_twice([file for folder in (pictures, *further) for file in folder.paths] if further else ())
    pictures = joined(pictures, further)
    made, where = assembled(**asked.roles, loaded=asked.loaded), device_of(asked.device)
    part, chosen = made.part, options_of(made.part, asked.options or {})
    pictures.preparation, notes = _preparation(asked, made, chosen.get("direction"), pictures)
    form = _form(asked, pictures.preparation)
    sizes, whole_to = _sizes(pictures), seen_whole(part, asked.windows)
    if asked.windows or any(max(size) > whole_to for size in sizes):
        part = by_windows(part, whole_to)
    part, home = placed(part, where)
    masks = masks_of(Path(mask), pictures.names) if (mask := chosen.get("mask")) else []
    found = {"count": len(pictures), "sha256": pictures.digest_as(saved_digest(out, asked.expect))}
    if mask and Path(mask).is_dir():
        found["masks"] = ImageFolder(masks).digest
    run = {
        "method": name_of(part), "translator": describe(made.part), "seed": asked.seed,
        "preparation": pictures.preparation.to_json(), "windows": asked.windows, **form.to_json(),
        "options": chosen | ({"mask": mask_record(Path(mask))} if mask else {}), "weights": made.weights,
        "pictures": found,
        "versions": {name: version(name) for name in ("sfumato", "torch")},
    }  # fmt: skip
    places = {role: spelled(m.folder.absolute()) for role, m in made.models.items()}
    origin = {
        "sources": [str(Path(p).absolute()) for p in asked.given], "method": asked.method,
        "beside": [str(Path(p).absolute()) for p in asked.further],
        "roots": [*sorted({str(root.absolute()) for root in pictures.roots}),
                  *(str(Path(p).absolute()) for p in asked.further)],
        "models": {r: f"{at}:{made.models[r].domain or ''}".rstrip(":") for r, at in places.items()},
        "mask": str(Path(mask).absolute()) if mask else None,
        # 64 of 64x64 pixels should fit into memory
        "batch": asked.batch or max(1, min(64, 2**18 // max(map(math.prod, sizes), default=1))),
        "device": str(where),
    }  # fmt: skip
    run = json.loads(json.dumps(run))
    plan = Plan(
        part, home, chosen, pictures, out, run, origin, form, masks, whole_to, asked.watch, apart=apart
    )
    fresh = not all(map(there, plan.results))
    far = made.far(pictures, chosen.get("direction")) if fresh else []
    for text in notes + made.notes(chosen) + made.foggy + far:
        warnings.warn(text, stacklevel=3)
    if fresh:
        plan.rehearse()
    if asked.strict:
        plan.pictures = pictures.decoded(strict=True)
    for text in pictures.said():  # what is read in part is said by what is returned
        warnings.warn(text, stacklevel=3)
    done = plan.carry_out(asked.expect)
    done.far = far
    return done


def _named_apart(
    asked: TranslateOptions, out: Path, pictures: ImageFolder
) -> tuple[ImageFolder, dict[str, str]]:
    """The pictures of names of their own, and {picture: why} of the others: first come, first served."""
    advice = "rename one, or translate them into two folders"
    if not asked.one_of_each:
        pictures.by_name(advice)
        return pictures, {}
    saved = read_run(out)["from"] if (out / "run.json").is_file() else None
    first = saved.get("made_of") if isinstance(saved, dict) else None
    order = sorted(range(len(pictures)), key=lambda i: pictures.file_names[i] not in (first or ()))
    later = doubles(pictures.paths, pictures.names, advice, order)
    rest = pictures.subset([i for i in range(len(pictures)) if i not in later])
    return rest, {str(file := pictures.paths[i]): f"{file}, as {why}" for i, why in later.items()}


def _preparation(
    asked: TranslateOptions, made: Assembled, direction: str | None, pictures: ImageFolder
) -> tuple[Preparation, list[str]]:
    """How the pictures are prepared, and what contradicts the models' training, in words."""
    if asked.scale and (asked.size or asked.resize or asked.upscale or asked.resize_back):
        raise UserError(
            f"--scale {asked.scale} takes pictures as they are: leave out --size, --resize, --upscale and "
            f"--resize-back"
        )
    to = two_ends(asked.to_range, "to_range", "results")
    begun = {asked.size, asked.resize, asked.scale} == {None} and crops(Path(asked.out))
    prepare, notes = made.preparation(
        size=asked.size, resize="none" if asked.scale else "crop" if begun else asked.resize, whole=True,
        upscale=asked.upscale, side=asked.side, contradicted=not asked.scale, direction=direction,
        alpha=None if asked.alpha == "keep" else asked.alpha, to_range=to, beside=len(asked.further),
    )  # fmt: skip
    if asked.expect is not None and prepare.beside:
        before = prepared_in(asked.expect)
        prepare = replace(prepare, range=before.range, to_range=before.to_range, beside=before.beside)
    elif asked.range is not None:
        prepare = _measured(asked, prepare, pictures)
    return replace(prepare, page=0) if asked.pages == "all" else prepare, notes


def _measured(asked: TranslateOptions, how: Preparation, pictures: ImageFolder) -> Preparation:
    """The same with the ranges that are stated, each folder's measured by itself if they are."""
    ends = []
    for k, layer in enumerate(how.layers):
        places = map(pictures.picture, range(len(pictures)))
        files = (place.files[k] if isinstance(place, Joined) else place for place in places)
        sides = ((file, asked.side or "whole") for file in files)
        ends.append(measured_range(asked.range, sides, layer.channels, every=asked.pages == "all"))
    beside = tuple(layer._replace(range=one) for layer, one in zip(how.beside, ends[1:], strict=True))
    return replace(how, range=ends[0], beside=beside, to_range=how.to_range or ends[0])


def _form(asked: TranslateOptions, how: Preparation) -> Results:
    """How the results of pictures that are prepared so are written."""
    depth = asked.depth or (None if asked.expect else saved_depth(Path(asked.out)))
    plain = how.page is None and not how.to_range and (how.to_channels or how.channels) in (1, 3)
    fits: Format = "png" if plain and depth != 32 else "tiff"
    form = Results(asked.format or fits, depth, asked.alpha == "keep", asked.resize_back)
    form.check(how)
    return form


def _into_a_file(asked: TranslateOptions, file: Path) -> Summary:
    """Translates one picture into a file; of a folder of results, nothing but this stays.

    Raises:
        UserError: there are more pictures, the file is there already, or is of another format.
    """
    format, many = format_of(for_new_file(file, "--out")), len(ImageFolder(asked.given))
    if many > 1 or any(map(os.path.isdir, asked.given)):
        raise UserError(
            f"--out {file} is the name of a picture, and {count(many, 'picture')} of a folder would be "
            f"translated: give one picture, or name a folder, such as --out {file.with_suffix('')}"
        )
    if asked.format not in (None, format):
        raise UserError(f"--out {file} is no {asked.format}: leave out --format")
    with TemporaryDirectory(dir=made_folder(file.parent), prefix=".", suffix=".partial") as place:
        done = translate(**vars(asked) | {"out": place, "format": format})
        (result,) = (path for path in Path(place).iterdir() if path.name != "run.json")
        os.replace(result, file)
    return done


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
    again = ImageFolder(origin["sources"]).file_names
    if others := sorted({*origin["made_of"]} - {*again}):
        some = ", ".join(others[:SHOWN]) + ", ..." * (len(others) > SHOWN)
        warnings.warn(
            f"{run} holds results of {count(len(others), 'picture')} more, which its last command did not "
            f"name, or which are gone ({some}): they are not repeated; a command that names all keeps them",
            stacklevel=3,
        )
    options = what["options"] | ({"mask": origin["mask"]} if origin["mask"] else {})
    how, expect = what["preparation"], what | {key: origin[key] for key in ("made_of", "models")}
    return translate(
        origin["sources"], out, method=origin["method"], **origin["models"], options=options,
        seed=what["seed"], size=how["size"] and said_size(tuple(how["size"])),
        **{k: how[k] for k in ("resize", "upscale", "side")}, expect=expect,
        **{k: what[k] for k in ("windows", "resize_back", "format", "depth")},
        alpha="keep" if what["alpha"] else how.get("transparency", "on white").removeprefix("on "),
        range=how.get("range"), to_range=how.get("to_range"), beside=origin["beside"],
        pages="first" if how.get("page") is None else "all", batch=origin["batch"],
        device=device or origin["device"],
    )  # fmt: skip


def _sizes(pictures: ImageFolder) -> set[tuple[int, int]]:
    """The (height, width) that pictures have when they are prepared, by their headers."""
    how = pictures.preparation
    if how.size is None:
        return known_sizes(pictures)
    if how.resize not in UNCUT:
        return {how.size}
    return {covering(size, covered(size, how.size, how.resize)) for size in known_sizes(pictures)}
