"""Turns what people have into data sets: one file a source, `job.py` does the work, `split.py` keeps train and val apart."""
