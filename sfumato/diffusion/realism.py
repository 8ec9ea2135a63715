"""Away from the source's domain: by a classifier's features or its odds, of x_t or of E[x | x_t]."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import UserError, choose
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.energies import Classifies, Compares, Reference, against, logits_of, similarity
from sfumato.diffusion.guidance import Energy, On

Similarity = Literal["cosine", "logits"]
ON_MEAN = 0.3
"""Noise sigma/alpha at which `on_mean` compares."""


def realism(
    classifier: Classifies | None,
    target: Denoises,
    reference: Reference,
    kind: Similarity = "cosine",
    on: On = "sample",
) -> Energy:
    """The energy of one of the two kinds, for `Guided` with the same `on`.

    Args:
        classifier: of noisy images.
        target: denoiser that is guided; the odds are those against its domain.
        reference: the noised source.
        kind: cosine (`similarity` of features) or logits (`odds_against`).
        on: the noisy sample, or the mean E[x | x_t].

    Raises:
        UserError: without a classifier, for an unknown kind, or odds without a domain.
    """
    if classifier is None:
        raise UserError("realism needs --classifier FOLDER, or be it 0")
    choose("similarity", kind, get_args(Similarity))
    domain = getattr(target, "domain", None)
    if kind == "logits" and domain is None:
        raise UserError("similarity logits needs a domain to go to: FOLDER:DOMAIN")
    function = (
        similarity(classifier.features)
        if kind == "cosine"
        else odds_against(classifier, classifier.domains.index(str(domain)))
    )
    if on == "sample":
        return against(function, reference)
    return on_mean(function, reference)


def odds_against(classifier: Classifies, domain: int) -> Compares:
    """log (1 - p) / p with p = p_t(domain | y): unlike -log p, it does not fade where p nears 1."""

    def odds(y: Tensor, x: Tensor, t: Tensor) -> Float[Tensor, " b"]:
        logits = logits_of(classifier, y, t)
        others = torch.cat([logits[:, :domain], logits[:, domain + 1 :]], dim=1)
        return others.logsumexp(1) - logits[:, domain]

    return odds


def on_mean(function: Compares, reference: Reference) -> Energy:
    """E[x | x_t] against the source, both with the same noise; for `Guided` with on="mean".

    Their noise level is sigma/alpha = `ON_MEAN`, whatever t is: nearly clean, so that a classifier
    is sure, and with noise, as it was trained. The noise is the reference's, fresh or shared.
    """
    process, source = reference.process, reference.source
    level = process.time(torch.tensor(-2 * math.log(ON_MEAN), dtype=torch.float64))

    def energy(mean: Tensor, t: Tensor) -> Tensor:
        z = reference.noise(t)
        y, x = process.perturb(mean, level, z), process.perturb(source, level, z)
        return function(y, x, level)

    return Energy(energy)
