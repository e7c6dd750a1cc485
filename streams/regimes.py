"""Recognise that an engine runs in another setting by its inventory, and know an earlier one again.

What a batch costs is decided by framework, version, model, ranks, accelerators and command. Where
one of them changes, what was learnt says nothing of the engine any more.
"""

import zlib
from base64 import b85decode, b85encode
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import orjson

from schemas.records import Engine

# Settings of before that are kept, newest last, while their states together take no more than this
# when packed. A checkpoint has those for which there is room.
MOST_SHELVED = 2
SHELF_BYTES = 40 * 1024
# The agent finds ranks and accelerators one by one: within a process there only come more, and the
# first look at one may see fewer than there are.
GROWING = ("ranks", "devices", "device_models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What decides the cost of a batch, as far as it is known."""

    framework: str | None = None
    version: str | None = None
    model: str | None = None
    ranks: int | None = None
    devices: int | None = None
    device_models: tuple[str, ...] | None = None
    command: str | None = None

    @classmethod
    def of(cls, engine: Engine) -> "Regime":
        """Read it from the inventory."""
        models = tuple(sorted(engine.device_models))
        return cls(
            framework=engine.framework or None,
            version=engine.version or None,
            model=engine.model or None,
            ranks=engine.ranks or None,
            devices=len(engine.device_ids) or None,
            device_models=models if models and all(models) else None,
            command=engine.command_digest,
        )

    def changes(self, other: "Regime") -> str:
        """Say what is different in the other one; what either does not know is no difference.

        >>> Regime(ranks=4, model="a").changes(Regime(ranks=2, version="1"))
        'ranks 4 -> 2'
        """
        found: list[str] = []
        for one in fields(self):
            before, now = getattr(self, one.name), getattr(other, one.name)
            if before is None or now is None or before == now:
                continue
            name = one.name.replace("_", " ")
            # A digest tells nobody anything.
            said = "" if name == "command" else f" {_said(before)} -> {_said(now)}"
            found.append(f"{name}{said or ' changed'}")
        return ", ".join(found)

    def known_by(self, newer: "Regime") -> "Regime":
        """Give the newer one, with what it does not know from this one."""
        known = {one.name: getattr(newer, one.name) for one in fields(newer)}
        return replace(self, **{name: value for name, value in known.items() if value is not None})

    def grown_by(self, newer: "Regime") -> "Regime":
        """Give the newer one of the same process, of which the agent may see less than before."""
        most = {
            name: max((getattr(self, name), getattr(newer, name)), key=_size) for name in GROWING
        }
        return self.known_by(replace(newer, **most))

    def apart_from_growth(self) -> "Regime":
        """Give what of it cannot change by the agent seeing more."""
        return replace(self, **dict.fromkeys(GROWING))

    def is_less_of(self, other: "Regime") -> bool:
        """Tell whether it may be the other one, of which the agent has not found all yet."""
        if other.apart_from_growth().changes(self.apart_from_growth()):
            return False
        more = Counter(self.device_models or ()) - Counter(other.device_models or ())
        counts = ((self.ranks, other.ranks), (self.devices, other.devices))
        fewer = all(one is None or all_ is None or one <= all_ for one, all_ in counts)
        return fewer and (other.device_models is None or not more)


class Regimes:
    """The setting that an engine runs in, and what was learnt in those before."""

    def __init__(self) -> None:
        self._now: Regime | None = None
        # Of a new process, while it may be that not all of it is found yet.
        self._doubtful: Regime | None = None
        self._shelf: list[tuple[Regime, str]] = []

    def know(self, engine: Engine, *, same_process: bool) -> str:
        """Take in the inventory; say what changed, if it is another setting."""
        known, found = self._now, Regime.of(engine)
        if known is None:
            self._now = found
            return ""
        doubtful, self._doubtful = self._doubtful, None
        if not same_process or doubtful is not None:
            return self._know_begun(known, found, doubtful if same_process else None)
        changes = known.apart_from_growth().changes(found.apart_from_growth())
        if changes:
            self._now = found
            return changes
        self._now = known.grown_by(found)
        # A setting that was taken for another one until the agent had found all of it.
        grown = known.changes(self._now)
        return grown if grown and self._find(self._now) is not None else ""

    def _know_begun(self, known: Regime, found: Regime, doubtful: Regime | None) -> str:
        """Take in a new process; fewer ranks or devices count once a second look finds no more."""
        changes = known.changes(found)
        grows = doubtful is None or doubtful.grown_by(found) != doubtful
        if changes and grows and found.is_less_of(known):
            self._doubtful = found
            return ""
        self._now = found if changes else known.known_by(found)
        return changes

    def swap(self, before: Regime | None, learnt: dict[str, Any] | None) -> dict[str, Any] | None:
        """Shelve what was learnt in the setting before; take down what fits the one of now.

        Args:
            before: The setting before.

            learnt: State of what was learnt in it; None if that is too little to be kept.
        """
        assert self._now is not None
        place = self._find(self._now)
        taken = self._shelf.pop(place)[1] if place is not None else None
        if before is not None and learnt is not None:
            self._shelf.append((before, _packed(learnt)))
        self._shelf = self._that_fit(SHELF_BYTES)
        return None if taken is None else _unpacked(taken)

    @property
    def now(self) -> Regime | None:
        """The setting that the engine runs in."""
        return self._now

    def to_state(self, room_bytes: int = SHELF_BYTES) -> dict[str, Any]:
        """Give everything as plain data; of the shelf the newest for which there is room."""
        return {
            "now": asdict(self._now) if self._now is not None else None,
            "doubtful": asdict(self._doubtful) if self._doubtful is not None else None,
            "shelf": [[asdict(one), learnt] for one, learnt in self._that_fit(room_bytes)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._now = _regime(state["now"]) if state["now"] is not None else None
        doubtful = state.get("doubtful")
        self._doubtful = _regime(doubtful) if doubtful is not None else None
        self._shelf = [
            # Earlier versions did not pack them.
            (_regime(regime), learnt if isinstance(learnt, str) else _packed(learnt))
            for regime, learnt in state["shelf"]
        ]

    def _that_fit(self, room_bytes: int) -> list[tuple[Regime, str]]:
        """Give the newest of the shelf that take no more than this."""
        shelf = self._shelf[-MOST_SHELVED:]
        while shelf and sum(len(packed) for _, packed in shelf) > room_bytes:
            del shelf[0]
        return shelf

    def _find(self, regime: Regime) -> int | None:
        places = range(len(self._shelf) - 1, -1, -1)
        return next((at for at in places if not self._shelf[at][0].changes(regime)), None)


def _regime(state: dict[str, Any]) -> Regime:
    return msgspec.convert(state, Regime)


def _packed(learnt: dict[str, Any]) -> str:
    return b85encode(zlib.compress(orjson.dumps(learnt))).decode()


def _unpacked(packed: str) -> dict[str, Any]:
    learnt: dict[str, Any] = orjson.loads(zlib.decompress(b85decode(packed)))
    return learnt


def _said(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _size(value: int | tuple[str, ...] | None) -> int:
    if value is None:
        return 0
    return len(value) if isinstance(value, tuple) else value
