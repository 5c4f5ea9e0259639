"""Comparisons: several recipes on one budget, with several seeds, measured by the same probes."""
