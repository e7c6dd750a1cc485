"""Notice trouble that comes, goes and comes again."""

from collections import OrderedDict
from collections.abc import Iterable

MOST_KEYS = 20_000

Key = tuple[str, str]
"""What was in trouble (as `streams.scopes.Place.shared_names` names it) and its cause."""


class Flaps:
    """When incidents began that are over, by what they were about.

    Args:
        window_ns: How long that is remembered.

        most: How many of them are remembered.
    """

    def __init__(self, window_ns: int, most: int) -> None:
        self._window_ns = window_ns
        self._most = most
        self._begins_ns: OrderedDict[Key, list[int]] = OrderedDict()

    def add(self, keys: Iterable[Key], begin_ns: int) -> None:
        """Take in an incident that is over."""
        for key in keys:
            # Those of other workers are heard in any order.
            newest = sorted([*self._begins_ns.get(key, ()), begin_ns])[-self._most :]
            self._begins_ns[key] = newest
            self._begins_ns.move_to_end(key)
        while len(self._begins_ns) > MOST_KEYS:
            self._begins_ns.popitem(last=False)

    def count(self, keys: Iterable[Key], begin_ns: int) -> int:
        """Give the how manieth incident of its kind within the window begins then."""
        return 1 + max(
            (
                sum(0 <= begin_ns - one <= self._window_ns for one in self._begins_ns.get(key, ()))
                for key in keys
            ),
            default=0,
        )
