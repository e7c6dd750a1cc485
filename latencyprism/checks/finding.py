"""What a check found."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ``ok``; ``note`` where something more could be had; ``bad`` where something that is
            there cannot be watched as it should.

        subject: What was looked at.

        text: What was found; where it is not ok, what to do.

        details: The same for a program, in the fields that the subject has.
    """

    state: Literal["ok", "note", "bad"]
    subject: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)
