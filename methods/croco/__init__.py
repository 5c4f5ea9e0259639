"""CroCo: cross-view completion."""
