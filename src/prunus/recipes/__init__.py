"""Recipes: a whole run as one YAML file, each stage cached and resumable. ``prunus run RECIPE``."""

from prunus.recipes.costs import dry_run
from prunus.recipes.reading import read_recipe, ready_recipes
from prunus.recipes.running import Run, Step, final_weights, run
from prunus.recipes.schema import Recipe
from prunus.recipes.tasks import Data, accuracy

__all__ = [
    "Data",
    "Recipe",
    "Run",
    "Step",
    "accuracy",
    "dry_run",
    "final_weights",
    "read_recipe",
    "ready_recipes",
    "run",
]
