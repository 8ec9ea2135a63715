"""The laboratory of latents: encode and decode, compare with N(0, I), and operate on them."""

from .chain import Operation, apply, parse
from .gaussianity import Report, qq_plot, report
from .latents import Latents, round_trip
from .operations import OPERATIONS, direction
from .pictures import decode_latents, encode_pictures

__all__ = [
    "OPERATIONS", "Latents", "Operation", "Report", "apply", "decode_latents", "direction",
    "encode_pictures", "parse", "qq_plot", "report", "round_trip",
]  # fmt: skip
