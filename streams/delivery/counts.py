"""What became of the notifications to one destination."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Since the worker began, but for ``queued``.

    Attributes:
        queued: Waiting now.

        delivered: Taken by the receiver.

        retried: Attempts that failed and are made again.

        dead: Given up, and on the dead-letter topic.

        dropped: Updates that a newer one overtook while they waited.

        unreadable: Lines of the spool that nobody can read, kept in its file ``unreadable``.

        full: Notifications that the spool could not take, and that Kafka kept.
    """

    queued: int = 0
    delivered: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0
    unreadable: int = 0
    full: int = 0
