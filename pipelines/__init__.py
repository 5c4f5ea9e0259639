"""The commands of `sightline`, one module each."""
