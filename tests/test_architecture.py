"""Who may import whom; the contracts stand in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_imports_keep_to_the_contracts() -> None:
    pytest.importorskip("importlinter", reason="no import-linter: pip install --group dev")
    script = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_tests_are_no_packages() -> None:
    """An ``__init__.py`` would make pytest import tests/models as ``models``."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
