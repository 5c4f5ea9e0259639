"""Settings: recipes, overrides, validation, and the hash that a resume compares."""

from .fingerprint import SETTINGS_VERSION, hashed_text, settings_hash
from .loading import load, parse_overrides
from .recipes import read_recipe, recipe_names
from .schema import METHOD_SECTIONS, PLATFORM_SECTIONS, Experiment, without_password

__all__ = [
    "METHOD_SECTIONS",
    "PLATFORM_SECTIONS",
    "SETTINGS_VERSION",
    "Experiment",
    "hashed_text",
    "load",
    "parse_overrides",
    "read_recipe",
    "recipe_names",
    "settings_hash",
    "without_password",
]
