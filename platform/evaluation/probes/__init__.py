"""Frozen-encoder probes."""
