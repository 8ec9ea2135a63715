"""Numbers that carry their protocol: scores, comparisons, and a look at the data before training."""

from sfumato.evaluation.compare import compare, evaluate
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.preference_study import study
from sfumato.evaluation.protocol import Protocol

__all__ = ["Judge", "Protocol", "compare", "evaluate", "study"]
