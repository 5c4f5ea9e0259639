"""Layers that timm lacks, once."""
