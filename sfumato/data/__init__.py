"""Pictures on disk to images (B,C,H,W) in [-1,1], and small data sets that need no download."""

from .digits import write_digits, write_mnist
from .earth import write_earth

WRITERS = {"earth": write_earth, "digits": write_digits, "mnist": write_mnist}

__all__ = ["WRITERS", "write_digits", "write_earth", "write_mnist"]
