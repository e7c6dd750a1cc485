"""Write the JSON Schemas in ``schemas/json``, one per topic: `python -m schemas.generate`."""

import sys
from pathlib import Path

import orjson

from schemas.codec import json_schema
from schemas.topics import TOPICS

FOLDER = Path(__file__).parent / "json"


def generate() -> dict[str, bytes]:
    """Give the content of each file by its name."""
    return {
        f"{topic.name}.json": orjson.dumps(
            json_schema(topic.record), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        )
        for topic in TOPICS.values()
    }


def main() -> int:
    """Write the files anew and remove those of topics that are no more."""
    files = generate()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
