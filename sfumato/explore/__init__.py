"""The laboratory: latents and operations on them, trajectories, and what a result depends on."""

from sfumato.explore.chain import Operation, apply, parse
from sfumato.explore.encode_pictures import decode_latents, encode_pictures
from sfumato.explore.latents import Latents, round_trip
from sfumato.explore.normality import Report, qq_plot, report
from sfumato.explore.operations import OPERATIONS, direction
from sfumato.explore.sensitivity import Sensitivity, mean_and_spread, occlusion, show_sensitivity
from sfumato.explore.trajectory import Trajectory, record, show_trajectory

__all__ = [
    "OPERATIONS", "Latents", "Operation", "Report", "Sensitivity", "Trajectory", "apply",
    "decode_latents", "direction", "encode_pictures", "mean_and_spread", "occlusion", "parse", "qq_plot",
    "record", "report", "round_trip", "show_sensitivity", "show_trajectory",
]  # fmt: skip
