"""Frames with their cameras: what other programs, phones and videos leave, and photos without poses."""
