"""The experiments of `recipes/inside.py`: what is done to the picture before, and to its latent.

In a chain OTHER is the latent of another picture of the domain, OWN the latent itself, NOISE a draw of
N(0, I), INK and GROUND are OWN where the picture is ink or ground and NOISE elsewhere, TOWARDS and AWAY are
the latents of two groups of training pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Setting(NamedTuple):
    """What stands above a column, operations on the latent, and on the picture before it is encoded."""

    label: str
    chain: str = ""
    first: str = ""


class Section(NamedTuple):
    """Experiments that belong together, with a sentence for the page; `only` in tasks of this kind."""

    title: str
    text: str
    settings: Sequence[Setting]
    only: str = ""


COEFFICIENTS = 0.01, 0.1, 0.3, 0.7
WEIGHTS = 0.1, 0.3, 0.5, 0.7, 0.9
FACTORS = 2, 4, 8, 16, 32


def swept(chain: str, name: str, values: Sequence[float]) -> list[Setting]:
    """A column for each value, which stands for * in the chain."""
    return [Setting(f"{name} {v:g}", chain.replace("*", f"{v:g}")) for v in values]


FIXED = "add c=*"
OTHER_HIGH = "slerp other=OTHER t=1, swap other=OWN factor=*"
NOISE_HIGH = "slerp other=NOISE t=1, swap other=OWN factor=*"

SECTIONS = (
    Section(
        "The latent as it is",
        "Nothing is done to it. The other model translates; the model that encoded gives the picture back: "
        "the map there and back is the identity, whatever it has learnt. NOISE alone shows what a model "
        "makes of no picture at all.",
        [Setting("nothing"), Setting("noise instead", "slerp other=NOISE t=1")],
    ),
    Section(
        "Normalise",
        "The slides do not say how. A latent of norm 1 has pixels of std 0.018, next to zero: all pictures "
        "become one. Min-max moves the mean; the z-score enlarges everything, the quiet ground too.",
        [Setting("z-score", "normalise"), Setting("min-max", "normalise mode=minmax"),
         Setting("norm 1", "normalise mode=l2")],
    ),
    Section(
        "Normalise, then multiply",
        "By 55.4 a latent of norm 1 has std 1 again: it is the z-score, but for the mean.",
        swept("normalise mode=l2, scale c=*", "norm 1, times", (10, 20, 33, 55.4)),
    ),
    Section("Multiply the latent as it is", "Smaller is nearer to the one picture that zero becomes.",
            swept("scale c=*", "times", (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2))),
    Section(
        "Normalised noise + c fixed noise",
        "One draw of N(0, I), the same for all pictures and coefficients.",
        swept("normalise, " + FIXED, "c =", COEFFICIENTS),
    ),
    Section("Source noise + c fixed noise", "The same without normalising.",
            swept(FIXED, "c =", COEFFICIENTS)),
    Section("Source noise + c fixed noise, variance kept", "Divided by the root of 1 + c^2.",
            swept(FIXED + " preserve_variance=true", "c =", (*COEFFICIENTS, 2))),
    Section("Source noise + c fixed noise times source noise", "The other reading of the slide.",
            swept(FIXED + " form=product", "c =", COEFFICIENTS)),
    Section("Blend the picture with its latent", "w picture + (1 - w) latent.",
            swept("blend w=*", "w =", WEIGHTS)),
    Section("Blend the picture with the normalised latent", "",
            swept("normalise, blend w=*", "w =", WEIGHTS)),
    Section("Blend, variance kept", "Square roots of the weights.",
            swept("blend w=* preserve_variance=true", "w =", WEIGHTS)),
    Section(
        "Checkerboard with the picture",
        "Every other cell is the picture's.",
        [*swept("checkerboard cell=*", "cell", (1, 4)),
         *swept("normalise, checkerboard cell=*", "normalised, cell", (1, 4))],
    ),
    Section(
        "Checkerboard with fixed noise",
        "",
        [*swept("checkerboard cell=* other=noise", "cell", (1, 4)),
         *swept("normalise, checkerboard cell=* other=noise", "normalised, cell", (1, 4))],
    ),
    Section("Blur the picture, then encode", "",
            [Setting(f"sigma {s:g}", first=f"blur sigma={s:g}") for s in (0.5, 1, 2)]),
    Section("Blur the latent", "White noise falls to std 0.141 at sigma 2; its neighbours become alike.",
            swept("blur sigma=*", "sigma", (0.25, 0.5, 0.75, 1, 2))),
    Section(
        "Blur the latent, std restored",
        "The notebook divides by 0.6. Even at the right std the latent is smooth, which no latent of a "
        "picture is: the models make blobs of it.",
        [Setting("sigma 2, / 0.6", "blur sigma=2, scale c=1.6667"),
         *swept("blur sigma=* renormalise=true", "renormalised, sigma", (0.5, 1, 2)),
         Setting("picture and latent, / 0.6", "blur sigma=2, scale c=1.6667", "blur sigma=2")],
    ),
    Section(
        "Rotate",
        "The slide says the latent, the notebook turns the picture. New corners are 0, which is mid gray in "
        "a picture, or -1, black.",
        [*swept("rotate angle=*", "latent by", (15, 60, 90)),
         Setting("60, bilinear", "rotate angle=60 interpolation=bilinear"),
         Setting("60, fill -1", "rotate angle=60 fill=-1"),
         Setting("picture by 60", first="rotate angle=60"),
         Setting("picture, fill -1", first="rotate angle=60 fill=-1")],
    ),
    Section(
        "Rotate and blur, in both orders; blur twice",
        "",
        [Setting("latent: turn, blur / 0.6", "rotate angle=60, blur sigma=2, scale c=1.6667"),
         Setting("latent: blur / 0.6, turn", "blur sigma=2, scale c=1.6667, rotate angle=60"),
         Setting("picture: turn, blur", first="rotate angle=60 fill=-1, blur sigma=2"),
         Setting("then blur the latent", "blur sigma=2, scale c=1.6667",
                 "rotate angle=60 fill=-1, blur sigma=2")],
    ),
    Section("Translate", "Is a moved latent a moved picture?",
            [*swept("translate right=*", "latent right by", (1, 4, 8)),
             Setting("picture right by 4", first="translate right=4")]),
    Section("From one latent to another", "Along the great circle, to the latent of another picture.",
            swept("slerp other=OTHER t=*", "t =", (0.25, 0.5, 0.75, 1))),
    Section(
        "Low frequencies of another, high ones of its own",
        "Factor f: what a picture has at 1/f of its resolution comes from the other; at 32 that is one "
        "number a channel, the latent's mean.",
        swept("swap other=OTHER factor=*", "factor", FACTORS),
    ),
    Section("High frequencies of another, low ones of its own", "",
            swept(OTHER_HIGH, "factor", FACTORS)),
    Section("Low frequencies of noise, high ones of its own", "",
            swept("swap other=NOISE factor=*", "factor", FACTORS)),
    Section("High frequencies of noise, low ones of its own", "",
            swept(NOISE_HIGH, "factor", FACTORS)),
    Section("Where is it?", "Its own latent in one region of the picture, noise elsewhere.",
            [Setting("own on the ink", "slerp other=INK t=1"),
             Setting("own on the ground", "slerp other=GROUND t=1")], "digits"),
    Section("Towards blue", "The mean latent of blue training pictures minus that of the others.",
            swept("attribute towards=TOWARDS away=AWAY weight=*", "weight", (0.5, 1, 2)), "digits"),
    Section("Towards the target's latents", "The mean latent of training pictures of the target, encoded "
            "by its own model, minus that of the source.",
            swept("attribute towards=TOWARDS away=AWAY weight=*", "weight", (0.5, 1, 2)), "earth"),
)  # fmt: skip

HALVES = Section(
    "Which chain carries what?",
    "One half of the pair from another picture, the other half its own.",
    [Setting("all of another", "slerp other=OTHER t=1"),
     Setting("result's half of another", "slerp other=RESULT t=1"),
     Setting("source's half of another", "slerp other=SOURCE t=1")],
)  # fmt: skip
