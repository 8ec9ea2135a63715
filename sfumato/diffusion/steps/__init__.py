"""Steps x_t -> x_s of solvers, as plain functions."""
