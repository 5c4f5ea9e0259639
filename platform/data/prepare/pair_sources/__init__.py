"""Where pairs of images come from: a class a source."""
