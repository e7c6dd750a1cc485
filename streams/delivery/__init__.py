"""Notifications to webhooks: kept on disk until taken, in order, each destination for itself."""

from streams.delivery.counts import Counts
from streams.delivery.dead import buried
from streams.delivery.deliveries import Deliveries
from streams.delivery.settings import DestinationSettings, NotifySettings
from streams.delivery.spool import SpoolFull

__all__ = [
    "Counts",
    "Deliveries",
    "DestinationSettings",
    "NotifySettings",
    "SpoolFull",
    "buried",
]
