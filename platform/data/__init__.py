"""Data sets, plans and streams."""
