"""One set of results against its sources, its truths and the target domain: numbers with intervals.

A `Judge` holds what several methods are scored under: the protocol, the feature network, and the
pictures they are compared with.  Its `record` is written beside every score.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.arguments import described
from sfumato.core.devices import device_of
from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.core.terminal import count, tracked
from sfumato.core.versions import version
from sfumato.data.image_folder import ImageFolder
from sfumato.data.joined import listed
from sfumato.data.pictures import ImageSet, chunks, controls, matched, read_groups
from sfumato.data.preparation import Preparation
from sfumato.data.resize import as_many, said_size
from sfumato.data.show import evenly
from sfumato.evaluation.features import Features, Inception, cache_folder, extract
from sfumato.evaluation.inputs import banded, enlarged, partners, shared, sources_in
from sfumato.evaluation.intervals import (
    Interval,
    bootstrap_frechet,
    bootstrap_kid,
    bootstrap_mean,
    bootstrap_sums,
)  # fmt: skip
from sfumato.evaluation.learned import Learned, named_features
from sfumato.evaluation.measures import TASKS, Task, caveats, measures
from sfumato.evaluation.metrics import METRICS, l2, label_parts, mean_iou
from sfumato.evaluation.options import ScoreOptions
from sfumato.evaluation.probe import crossed
from sfumato.evaluation.protocol import Views
from sfumato.evaluation.scores import Scores, grouping


class Judge:
    """What results are scored under.

    Args:
        source: folder of the sources; results are matched to them by name.
        target: folder of real pictures of the target domain, the reference of FD and KID.
        like: any set of results, whose picture size is that of all, or that (height, width).
        prepare: how the results' sources were prepared, and so how sources, truths, references and
            training pictures are brought to the results' size; None: as resize and side say it.
        resamples: resamples of the bootstrap, which draws whole groups.
        how: `ScoreOptions`. A module of torch that classifies is taken to the device, other functions are
            given images on the CPU; there numbers of whole sets, and intervals, are computed in float64.

    Raises:
        UserError: names or counts that do not match, an unknown protocol, unreadable pictures.
    """

    def __init__(
        self, source: str | Path, target: str | Path, like: ImageSet | tuple[int, int], *,
        prepare: Preparation | None = None, resamples: int = 1000, **how: Any,
    ) -> None:  # fmt: skip
        told = ScoreOptions(target=target, **how)
        prepare = prepare or shared({}, told.resize, told.side)
        truth, train, task, groups = told.truth, told.train, told.task, told.groups
        self.protocol, self.weights = told.rules, told.inception
        self.resamples, self.classifier = resamples, told.classifier
        self.device = device_of(told.device)
        if truth is None and task is not None:
            raise UserError("a task is scored against the truth's labels: give --truth, too")
        self.task_name = task if isinstance(task, str) else getattr(task, "__name__", None)
        self.task = TASKS[choose("task", task, TASKS)] if isinstance(task, str) else task
        self.source = sources_in(source, listed(told.beside), prepare or Preparation())
        self.target = partners(target, self.source)
        answers = partners(truth, self.source) if truth else None
        self.truth = answers and answers.only(self.source.names, "truth", "sources")
        self.train = partners(train, self.source) if train else None
        for part in filter(None, (self.source, self.target, self.train)):
            if len(part) < 2:
                raise UserError(f"{part.folder} holds one picture: a comparison needs 2 or more")
        h, w = like if isinstance(like, tuple) else like.get([0]).shape[-2:]
        self.size = (h, w)
        self.views = Views(self.protocol, self.size, prepare is not None, not self.source.to_rgb)
        asked = {name: METRICS[name] for name in self.protocol.metrics}
        self.too_small = [m for m in asked.values() if m.least > min(self.views.shown)]
        self.not_rgb = [m for m in asked.values() if m.of_rgb and self.views.bands]
        self.metrics = {k: m for k, m in asked.items() if m not in [*self.too_small, *self.not_rgb]}
        self._seen: dict[str, Tensor] = {}
        self.groups = read_groups(groups, self.source.names, paths=self.source.paths) if groups else None
        self.target_groups = None
        try:  # a table may be of the sources alone
            own = groups and read_groups(groups, self.target.names, False, self.target.paths)
            self.target_groups = own or None
        except UserError as error:
            warnings.warn(f"the reference pictures are taken one by one: {error}", stacklevel=2)

    # ---- what is compared, at which size --------------------------------------------------------

    def said(self) -> list[str]:
        """What is left out of folders and columns, and what is enlarged to be compared, in words."""
        words = {"target": "reference", "train": "training"}
        sets = {words.get(role, role): s for role, s in self.sets.items()}
        left = [line for s in sets.values() for line in s.said(others=False)]
        left += [
            f"{m.label} is left out: it needs {m.least} pixels or more on each side, and pictures are "
            f"compared at {said_size(self.views.shown)}"
            for m in self.too_small
        ]
        left += [f"{m.label} is left out: it is of red, green and blue" for m in self.not_rgb]
        return left + banded(self.source) + enlarged(sets, self.views.shown)

    @property
    def sets(self) -> dict[str, ImageFolder]:
        """The pictures by their roles."""
        roles = ("source", "truth", "target", "train")
        return {role: s for role in roles if (s := getattr(self, role))}

    @cached_property
    def at_size(self) -> dict[str, ImageFolder]:
        """The same, at the results' size."""
        return {role: s.fitted(self.size) for role, s in self.sets.items()}

    @cached_property
    def features(self) -> Features:
        p = self.protocol
        if p.features == "inception" and self.weights is not None:
            return Inception(self.weights, p.feature_resize, p.imagenet).to(self.device)
        return named_features(p.features, self.weights).to(self.device)

    @cached_property
    def eyes(self) -> Features:
        """The network of the perceptual distance and the probe: always Lite0."""
        alone = self.protocol.features != "lite0"
        return named_features("lite0").to(self.device) if alone else self.features

    def embed(self, images: ImageSet, features: Features) -> Tensor:
        """Features (N, D) of a set at the protocol's size, kept for the next time."""
        if features is self.eyes and images.key in self._seen:
            return self._seen[images.key]
        view = self.views.featured(images)
        return extract(features, view, cache=cache_folder() / "features", key=view.key)

    # ---- the record -----------------------------------------------------------------------------

    @cached_property
    def record(self) -> dict[str, Any]:
        """protocol.json: all that a number depends on besides the results."""
        held = None
        if self.train is not None:
            seen = set(self.train.hashes)
            tested = [self.source, self.truth]
            if self.protocol.reference == "test":  # a paper's may be the training pictures
                tested.append(self.target)
            held = sum(h in seen for s in tested if s for h in s.hashes)
        split = "not known" if held is None else "held out" if held == 0 else "training"
        sets = {"source": self.source, "reference": self.target, "truth": self.truth}
        prepared = {
            role: replace(s.preparation, size=None, upscale=True).to_json()
            for role, s in sets.items() if s
        }  # fmt: skip
        return {
            "protocol": self.protocol.to_json(), "size": list(self.size), "split": split,
            "preparation": prepared if self.views.known or self.protocol.size is None else None,
            "pictures": {k: {"count": len(s), "sha256": s.digest} for k, s in sets.items() if s},
            "features": self.features.describe(),
            "task": self.task_name, "groups": grouping(self.groups),
            "reference_groups": grouping(self.target_groups),
            "domain": "own classifier" if self.classifier else self.features.prober,
            "bootstrap": {"resamples": self.resamples, "level": 0.95, "seed": 0},
            "versions": {n: version(n) for n in ("sfumato", "torch", "pillow")},
        }  # fmt: skip

    # ---- scores ---------------------------------------------------------------------------------

    def scores(
        self, many: Sequence[ImageSet], backs: Sequence[ImageSet | None] | None = None
    ) -> list[Scores]:
        """Scores of sets of results, in one pass over the sources.

        Args:
            many: sets of results, with the sources' names.
            backs: their translations back to the source domain, where there are any.

        Raises:
            UserError: names differ from the sources', sizes differ, or pixels are not numbers.
        """
        names = self.source.names
        many = [matched(results, names) for results in many]
        returned = [back and matched(back, names) for back in backs or [None] * len(many)]
        found = self._per_image(many, returned)
        return [self._pooled(r, images) for r, images in zip(many, found, strict=True)]

    def _pooled(self, results: ImageSet, images: dict[str, Tensor]) -> Scores:
        """Numbers of a set from those of its pictures, and from its features."""
        names, deviations = self.source.names, images.pop("std").tolist()
        flat = [n for n, std in zip(names, deviations, strict=True) if std < 1 / 255]
        labels = [images.pop(k) for k in ("labels", "true labels") if k in images]
        if self.classifier is None and (said := self._probed(results)) is not None:
            images["domain"] = said
        numbers = {key: bootstrap_mean(values, self.groups, self.resamples) for key, values in images.items()}
        if labels:
            parts = label_parts(*labels)
            numbers["task"] = bootstrap_sums(parts, mean_iou, self.groups, self.resamples)
            images["task"] = mean_iou(parts)
        x, y = (self.embed(s, self.features) for s in (results, self.target))
        numbers |= self._distances(x, y, self.groups)
        order = [key for key in measures("", "") if key in numbers]
        return Scores(
            numbers={key: numbers[key] for key in order},
            images={key: [round(v, 6) for v in images[key].tolist()] for key in images},
            names=names, record=self.record,
            notes=caveats(len(names), len(self.target), self.features, flat),
        )  # fmt: skip

    def controls(self) -> list[Scores]:
        """Rows of what needs no method, to be scored."""
        made = controls(self.at_size["source"], self.at_size["train" if self.train else "target"])
        return [
            Scores(name, name, "control", cost={"nfe": 0}, results=[results])
            for name, results in made.items()
        ]

    def real(self) -> dict[str, Interval]:
        """The distances of training pictures, as many as there are sources: what is to be reached."""
        if self.train is None:
            return {}
        names = self.train.names
        some = self.train.only([names[i] for i in evenly(len(names), len(self.source))], "", "")
        x, y = (self.embed(s, self.features) for s in (some, self.target))
        return self._distances(x, y, None)

    def _distances(self, x: Tensor, y: Tensor, groups: list[str] | None) -> dict[str, Interval]:
        few = self.resamples // (5 if x.shape[1] < 500 else 50)  # a draw takes longer
        return {
            "kid": bootstrap_kid(x, y, groups, self.target_groups, resamples=self.resamples),
            "fd": bootstrap_frechet(x, y, groups, self.target_groups, resamples=max(few, 2)),
        }

    @torch.inference_mode()
    def _per_image(
        self, many: Sequence[ImageSet], backs: Sequence[ImageSet | None]
    ) -> list[dict[str, Tensor]]:
        """Measures of single results by key, each (N, ...), for every set."""
        others = {"source": self.views.pixels(self.source)}
        if self.truth is not None:
            others["truth"] = self.views.pixels(self.truth)
        shown = many if self.protocol.size is None else [self.views.pixels(s) for s in many]
        returned = [s and self.views.pixels(s) for s in backs]
        see = any(m.of_maps for m in self.metrics.values())
        rows: list[list[dict[str, Tensor]]] = [[] for _ in many]
        for indices in tracked("measuring", list(chunks(len(self.source)))):
            xs = {key: view.get(indices).to(self.device) for key, view in others.items()}
            maps = {key: self.eyes.maps(as_many(x, 3)) if see else [] for key, x in xs.items()}
            for n, (view, back) in enumerate(zip(shown, returned, strict=True)):
                y = self._checked(view, indices, xs["source"])
                row = self._against(y, self.eyes.maps(as_many(y, 3)) if see else [], xs, maps)
                if back is not None:
                    row["cycle"] = l2(back.get(indices).to(self.device), xs["source"])
                rows[n].append({key: values.cpu() for key, values in row.items()})
        found = [{key: torch.cat([r[key] for r in rs]) for key in rs[0]} for rs in rows]
        for results, images in zip(many, found, strict=True):
            features = images.pop("features", None)
            if features is not None and self.protocol.feature_size is self.protocol.size is None:
                self._seen[results.key] = features  # what `embed` would compute again
        return found

    def _against(
        self, y: Tensor, seen: list[Tensor], xs: dict[str, Tensor], maps: dict[str, list[Tensor]]
    ) -> dict[str, Tensor]:
        """Measures of results y (b, C, H, W), whose maps are `seen`, against their sources and truths."""
        row = {"std": y.flatten(1).std(1)}
        if seen:
            row["features"] = seen[-1].mean((2, 3))
        for other, x in xs.items():
            for name, metric in self.metrics.items():
                shown = (seen, maps[other]) if metric.of_maps else (y, x)
                row[f"{other}/{name}"] = metric.function(*shown)
        if self.task is not None:
            row["labels"], row["true labels"] = (self._labels(self.task, x) for x in (y, xs["truth"]))
        if self.classifier is not None:
            domain = self._by(self.classifier, y)
            fits = isinstance(domain, Tensor) and domain.shape == (len(y),)
            if not fits or not ((domain >= 0) & (domain <= 1)).all():
                raise UserError(
                    f"the classifier answered {described(domain)}: expected a tensor of "
                    f"{count(len(y), 'number')} from 0 to 1, whether each image is of the target, as by "
                    f"net(images).argmax(1) == 3"
                )
            row["domain"] = domain.float()
        return row

    def _labels(self, task: Task, images: Tensor) -> Tensor:
        """What the task says of images (B, 3, H, W): whole numbers (B, H, W)."""
        found = self._by(task, images)
        fits = isinstance(found, Tensor) and found.ndim == 3 and len(found) == len(images)
        if not fits or found.is_floating_point() or found.is_complex():
            kind = f" of {found.dtype}" if isinstance(found, Tensor) else ""
            raise UserError(
                f"the task answered {described(found)}{kind}: expected whole numbers (B, H, W), the label of "
                f"every pixel, as by net(images).argmax(1)"
            )
        return found

    def _by(self, own: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What a function of the user's says of images."""
        if isinstance(own, nn.Module):
            own.to(self.device)
            return own(images)
        return own(images.cpu())

    def _checked(self, results: ImageSet, indices: Sequence[int], like: Tensor) -> Tensor:
        """Results, of which every value is a number, of the others' size."""
        y = results.get(indices)
        check_numbers({results.names[i]: x for i, x in zip(indices, y, strict=True)}, " (NaN)")
        if y.shape != like.shape:
            (h, w), (h2, w2) = y.shape[-2:], like.shape[-2:]
            raise UserError(f"results have {w}x{h} pixels, expected {w2}x{h2} as the others")
        return y.to(self.device)

    def _probed(self, results: ImageSet) -> Tensor | None:
        """1 where the prober takes a result for the target domain; None with too few pictures."""
        if isinstance(self.features, Learned):
            y, real = (self.features.says(self.embed(s, self.features)) for s in (results, self.target))
            return (y == real.mode().values).float()
        if min(len(self.source), len(self.target)) < 8 or (self.groups and len(set(self.groups)) < 2):
            return None
        a, b, y = (self.embed(s, self.eyes) for s in (self.source, self.target, results))
        return crossed(a, b, y, self.groups)
