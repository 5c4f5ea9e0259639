"""Masks and labels of the layouts that people know, and palettes of colours."""
