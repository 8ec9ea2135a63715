"""A look at pictures before any training: `sfumato doctor`."""

from sfumato.checkup.report import Report, doctor

__all__ = ["Report", "doctor"]
