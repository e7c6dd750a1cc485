"""The ClickHouse tables: numbered SQL files, applied in order, never changed once released."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file and its statements."""

    number: int
    name: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """Read all migrations, in order."""
    return [
        Migration(int(path.stem[:4]), path.stem, split_statements(path.read_text()))
        for path in sorted(Path(__file__).parent.glob("[0-9]*.sql"))
    ]


def split_statements(text: str) -> tuple[str, ...]:
    """Split a file at the semicolons that end a line, comments left out.

    >>> split_statements("-- why\\nSELECT 1;\\n\\nSELECT 2;\\n")
    ('SELECT 1', 'SELECT 2')
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    parts = ("\n".join(lines) + "\n").split(";\n")
    return tuple(part.strip() for part in parts if part.strip())
