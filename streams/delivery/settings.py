"""Section ``[notify]``: what is told to whom, and how patiently."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.records import Notification, Severity

DEFAULT = "default"
"""Name of the destination that ``url`` makes."""

SIGNING_SECRET = "LATENCYPRISM_WEBHOOK_SECRET"

Patterns = tuple[str, ...]
Seconds = Annotated[float, Meta(gt=0)]


class DestinationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table ``[[notify.destinations]]``: a place where notifications are posted.

    Attributes:
        name: In logs, dead letters and the spool; lower-case letters, digits, ``-`` and ``_``.

        kind: What it reads: alertmanager, alertmanager_api, slack or pagerduty.

        url: Where to post, http or https; may stay empty where the kind has an address of its own.

        url_env: Name of the environment variable with the url, where that is a secret.

        secret_env: Name of the environment variable with the signing secret or key.

        severities: Only these; empty for all.

        causes: Only incidents with such a cause, as shell patterns; empty for all.

        engines: Only incidents with such an engine among their members, likewise.

        hosts: Only incidents on such a host, likewise.

        cloudevents: Whether CloudEvents 1.0 headers are sent, too.

        allow_private: Whether the address may be private, loopback or link-local.

        per_minute: Deliveries in any minute, at most; 0 for no limit.

        send_updates: Whether more is told between the first message and the end.

        send_resolved: Whether the end is told.

        max_age_seconds: An incident that has been over for so long before anything of it could be
            delivered goes to the dead letters; what is open, or was told of, is tried on.

        spool_mib: What waits on disk, at most; beyond that the oldest goes to the dead letters.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,40}$")]
    kind: str = "alertmanager"
    url: str = ""
    url_env: str = ""
    secret_env: str = ""
    severities: tuple[Severity, ...] = ()
    causes: Patterns = ()
    engines: Patterns = ()
    hosts: Patterns = ()
    cloudevents: bool = False
    allow_private: bool = False
    per_minute: Annotated[int, Meta(ge=0)] = 0
    send_updates: bool = True
    send_resolved: bool = True
    max_age_seconds: Seconds = 3600.0
    spool_mib: Annotated[int, Meta(ge=1, le=10_000)] = 64

    def wants(self, notification: Notification) -> bool:
        """Tell whether an incident is one for this destination, by what is known of it now."""
        alert, members = notification.alert, notification.members
        engines = {alert.engine_id, *(member.engine_id for member in members)}
        hosts = {alert.host, *(member.host for member in members)} - {None}
        return (
            (not self.severities or notification.severity in self.severities)
            and _fits({notification.cause}, self.causes)
            and _fits(engines, self.engines)
            and _fits({host for host in hosts if host is not None}, self.hosts)
        )


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[notify]``.

    Attributes:
        url: Where notifications are posted in Alertmanager's format, http or https: the destination
            ``default``; empty for none. Deliveries are signed when LATENCYPRISM_WEBHOOK_SECRET is
            set.

        allow_private: Whether that address may be private, loopback or link-local.

        timeout_seconds: How long a receiver may take to connect, take a delivery and answer.

        receiver: Name that the payload gives the destination ``default``.

        console_url: Base of the links in messages; empty for no link.

        retry_first_seconds: Pause after the first failure; it doubles with each further one.

        retry_most_seconds: The longest pause.

        give_up_seconds: ``max_age_seconds`` of ``default``.

        spool_folder: What waits for delivery; a folder that survives restarts, for one worker.

        listen: Where the API of incidents, silences and acknowledgements listens; empty for
            nowhere.

        flap_count: An incident that came back so often within ``flap_seconds`` is flapping.

        flap_seconds: See there.

        group_seconds: Incidents that begin within this time and share a host or device are one.

        destinations: Further places.
    """

    url: str = ""
    allow_private: bool = False
    timeout_seconds: Seconds = 5.0
    receiver: str = "latencyprism"
    console_url: str = ""
    retry_first_seconds: Seconds = 0.5
    retry_most_seconds: Seconds = 60.0
    give_up_seconds: Seconds = 3600.0
    spool_folder: str = "/var/lib/latencyprism/notify"
    listen: str = ""
    flap_count: Annotated[int, Meta(ge=2)] = 4
    flap_seconds: Seconds = 600.0
    group_seconds: Annotated[float, Meta(ge=0)] = 60.0
    destinations: tuple[DestinationSettings, ...] = ()

    def all_destinations(self, environment: Mapping[str, str]) -> tuple[DestinationSettings, ...]:
        """Give the destinations, that of ``url`` first.

        Raises:
            ValueError: Two have one name.
        """
        found = self.destinations
        if self.url:
            found = (
                DestinationSettings(
                    name=DEFAULT,
                    url=self.url,
                    secret_env=SIGNING_SECRET if environment.get(SIGNING_SECRET) else "",
                    allow_private=self.allow_private,
                    max_age_seconds=self.give_up_seconds,
                ),
                *found,
            )
        names = [one.name for one in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"[notify] destinations has more than one with the name {twice[0]!r}: give each a "
                f"name of its own ({DEFAULT!r} is that of [notify] url)"
            )
        return found


def _fits(values: set[str], patterns: Patterns) -> bool:
    return not patterns or any(
        fnmatchcase(value, pattern) for value in values for pattern in patterns
    )
