"""Where point clouds come from: a class a source."""
