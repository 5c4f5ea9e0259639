"""Recipes that ship with Sightline."""
