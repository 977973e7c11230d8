"""Recipes as modules: their files lie in this folder of a wheel, and in `recipes/` of a checkout."""

from pathlib import Path

_checkout = Path(__file__).parents[2]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout / "recipes"))
