"""Layers and tensor functions that several methods share and timm lacks."""
