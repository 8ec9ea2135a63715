"""Numbers that carry their protocol: scores, comparisons, and a look at the data before training."""

from .compare import compare, evaluate
from .protocol import Protocol
from .score import Judge
from .study import study

__all__ = ["Judge", "Protocol", "compare", "evaluate", "study"]
