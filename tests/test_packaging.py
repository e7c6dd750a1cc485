"""Our top-level names are plain words: nobody else may own them in the same environment."""

from __future__ import annotations

import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("schemas", "collectors", "models", "streams", "simulator", "latencyprism")


@pytest.mark.parametrize("name", NAMES)
def test_no_other_distribution_has_a_package_of_this_name(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"latencyprism"}


@pytest.mark.parametrize("name", NAMES)
def test_the_package_that_is_imported_is_the_one_of_this_checkout(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / name
