"""Hear what all engines say of themselves, whichever worker watches them."""

from __future__ import annotations

from schemas.records import Norms
from schemas.settings import KafkaSettings
from schemas.topics import NORMS
from streams.hearing import Hearing


class NormsReader:
    """Reads all partitions of the norms' topic, from its beginning.

    Args:
        settings: Where Kafka is.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._hearing = Hearing(settings, (NORMS,))

    def read(self, timeout_seconds: float = 1.0) -> list[Norms]:
        """Wait so long for news; give what came.

        Raises:
            BrokerError: Kafka does not answer, or has no such topic. The next call tries again.
        """
        records = self._hearing.read(timeout_seconds)
        return [one for one in records if isinstance(one, Norms)]
