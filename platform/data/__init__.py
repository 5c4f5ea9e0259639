"""Data sets: how they are prepared, stored, checked, read and streamed to training."""
