"""Processes, denoisers, solvers and guidance: the mathematics, without data and networks."""
