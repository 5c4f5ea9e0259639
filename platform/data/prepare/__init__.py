"""Prepares data sets. `source.py` says what a source is, one file holds each source, `job.py` writes the shards, `split.py` splits."""
