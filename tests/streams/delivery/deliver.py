"""A process that keeps notifications until it is killed: FOLDER URL COUNT."""

import os
import signal
import sys
from pathlib import Path

from streams.delivery import Deliveries, NotifySettings
from tests.streams.delivery.notifications import life


def main(folder: str, url: str, count: str) -> None:
    """Put lives of incidents, say so, and die without a word."""
    settings = NotifySettings(
        url=url,
        allow_private=True,
        spool_folder=folder,
        retry_first_seconds=0.05,
        give_up_seconds=1e9,
    )
    deliveries = Deliveries(settings, lambda *_: None, {})
    for n in range(int(count)):
        for notification in life(f"i{n}"):
            deliveries.put(notification)
    Path(folder, "all-were-put").touch()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
