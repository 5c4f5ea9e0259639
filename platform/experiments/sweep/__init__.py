"""Sweeps: many runs of one recipe on Ray Tune, compared by probes, resumed from their record."""
