"""Readers of meshes and clouds, a file format each. Each takes bytes, and raises `BrokenSampleError` with `reason: detail`."""
