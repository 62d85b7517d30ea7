"""Runs: one, many side by side, ablations and the whole ladder."""
