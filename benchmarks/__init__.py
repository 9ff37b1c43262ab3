"""Odradek beside the real Temporal server: the same load on both, on the same machine, in one run."""
