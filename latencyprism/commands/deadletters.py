"""Show what was given up, and send it again once the reason is mended.

'list' shows the dead letters that nobody has sent again. 'replay' sends them: a notification that a
receiver did not take goes to that receiver, under the same idempotency key, unless its incident has
gone on since, so that it would tell what is over; any other message goes to its topic, as it was.
What was sent is remembered on the topic of dead letters, so that a second 'replay' sends nothing
twice.
"""

import argparse
import base64
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latencyprism.errors import CommandError, need
from latencyprism.times import shown, span_ns
from schemas.codec import MAX_BURIED_BYTES, DecodeError, decode, encode
from schemas.records import DeadLetter, Notification, Record
from schemas.settings import KafkaSettings, read_settings, section
from schemas.topics import (
    DEADLETTERS,
    NOTIFICATIONS,
    TOPICS,
    Topic,
    key_of,
    time_ms_of,
    topic_of,
)

if TYPE_CHECKING:
    from streams.delivery import NotifySettings

REPLAYED = "replayed/"
ANSWER_SECONDS = 10.0
ERROR_LENGTH = 200

Key = tuple[str, int, int, str]


class NotSentError(Exception):
    """A dead letter stays where it is; the text says why."""


class OvertakenError(Exception):
    """A notification tells what is no longer so; the text says what is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("action", choices=("list", "replay"), help="what to do")
    parser.add_argument(
        "--place", metavar="PLACE", help="only what was given up there, as notify/default or store"
    )
    parser.add_argument("--topic", metavar="TOPIC", help="only messages of this topic")
    parser.add_argument("--last", metavar="SPAN", help="only the last 30m, 2h or 1d (all)")
    parser.add_argument(
        "--again", action="store_true", help="take those, too, that were sent again before"
    )
    parser.add_argument(
        "--overtaken",
        action="store_true",
        help="send notifications, too, whose incident has been told of anew or is over since",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")


def run(arguments: argparse.Namespace) -> int:
    """List or replay; the status is 1 if something could not be sent."""
    need("confluent_kafka", "collect")
    settings = read_settings(arguments.config)
    kafka = section(settings, "kafka", KafkaSettings)
    found = open_letters(_letters(kafka, settings), arguments.again)
    wanted = [one for one in found if _is_wanted(one, arguments)]
    if arguments.action == "list":
        for letter in wanted:
            _print(letter, letter.error)
        print(f"{len(wanted)} dead letters{_beside(len(found) - len(wanted))}.")
        return 0
    newest = {} if arguments.overtaken else _newest(wanted, kafka, settings)
    return _replay(wanted, newest, kafka, settings)


def open_letters(letters: Iterable[DeadLetter], again: bool = False) -> list[DeadLetter]:
    """Give the newest dead letter of each message, but of those that were sent again since."""
    newest: dict[Key, DeadLetter] = {}
    sent_ns: dict[Key, int] = {}
    for letter in letters:
        key = (letter.topic, letter.partition, letter.offset, letter.place)
        if letter.place.startswith(REPLAYED):
            key = (*key[:3], letter.place.removeprefix(REPLAYED))
            sent_ns[key] = max(sent_ns.get(key, 0), letter.at_ns)
        elif key not in newest or newest[key].at_ns <= letter.at_ns:
            newest[key] = letter
    left = [letter for key, letter in newest.items() if again or sent_ns.get(key, 0) < letter.at_ns]
    return sorted(left, key=lambda letter: letter.at_ns)


def _letters(kafka: KafkaSettings, settings: dict[str, Any]) -> Iterator[DeadLetter]:
    for record in _read(DEADLETTERS, kafka, settings):
        if isinstance(record, DeadLetter):
            yield record


def _newest(
    letters: list[DeadLetter], kafka: KafkaSettings, settings: dict[str, Any]
) -> dict[str, Notification]:
    """Give the newest notification of each incident that a dead letter is about."""
    from streams.delivery.dead import destination_of

    keys = {_bytes(one.key_base64) for one in letters if destination_of(one) is not None}
    newest: dict[str, Notification] = {}
    for record in _read(NOTIFICATIONS, kafka, settings) if keys else ():
        if isinstance(record, Notification) and key_of(record) in keys:
            known = newest.get(record.incident_id)
            if known is None or known.revision <= record.revision:
                newest[record.incident_id] = record
    return newest


def _read(topic: Topic, kafka: KafkaSettings, settings: dict[str, Any]) -> Iterator[Record]:
    from streams.broker import BrokerError
    from streams.config import StreamSettings
    from streams.history import History, Range

    wanted = Range(
        topics=(topic,),
        begin_ms=None,
        end_ms=time.time_ns() // 1_000_000 + 1,
        seekable=not section(settings, "stream", StreamSettings).embedded,
    )
    history = History(kafka, wanted)
    try:
        for found in history:
            yield found.record
    except BrokerError as err:
        raise CommandError(str(err)) from err
    if history.missing:
        raise CommandError(f"{topic.name} does not exist: run 'latencyprism topics --create'")


def _is_wanted(letter: DeadLetter, arguments: argparse.Namespace) -> bool:
    since_ns = time.time_ns() - span_ns(arguments.last, "--last") if arguments.last else 0
    return (
        arguments.place in (None, letter.place)
        and arguments.topic in (None, letter.topic, *letter.topic.split(".")[1:2])
        and letter.at_ns >= since_ns
    )


def _replay(
    letters: list[DeadLetter],
    newest: dict[str, Notification],
    kafka: KafkaSettings,
    settings: dict[str, Any],
) -> int:
    from confluent_kafka import Producer

    from streams.delivery import NotifySettings

    options: dict[str, Any] = {**kafka.client_options(), "log_level": 0}
    producer: Any = Producer(options)
    send = _Sender(producer, section(settings, "notify", NotifySettings), newest)
    failed = overtaken = 0
    for letter in letters:
        try:
            told = send(letter)
            _produce(producer, _mark(letter))
        except NotSentError as err:
            failed += 1
            told = f"NOT SENT: {err}"
        except OvertakenError as err:
            overtaken += 1
            told = f"OVERTAKEN: {err}"
        _print(letter, told)
    others = f", {overtaken} overtaken (--overtaken sends those, too)" if overtaken else ""
    print(f"{len(letters) - failed - overtaken} sent again, {failed} not{others}.")
    return 1 if failed else 0


class _Sender:
    """Send a dead letter to where it was to go; give what was done."""

    def __init__(
        self, producer: Any, notify: "NotifySettings", newest: dict[str, Notification]
    ) -> None:
        self._producer = producer
        self._notify = notify
        self._newest = newest

    def __call__(self, letter: DeadLetter) -> str:
        from streams.delivery.dead import destination_of

        name = destination_of(letter)
        try:
            if name is None:
                return self._to_topic(letter)
            return self._to_destination(letter, name)
        except DecodeError as err:
            raise NotSentError(f"it still cannot be read: {err}") from err

    def _to_topic(self, letter: DeadLetter) -> str:
        topic = TOPICS.get(letter.topic)
        if topic is None:
            raise NotSentError("it is of no topic of ours: produce it by hand")
        key, value = _bytes(letter.key_base64), _bytes(letter.value_base64)
        if value is not None and len(value) >= MAX_BURIED_BYTES:
            raise NotSentError(f"it was cut after {MAX_BURIED_BYTES} bytes: find its sender")
        _produce_raw(
            self._producer, topic.name, key, value, time_ms_of(decode(topic.record, value))
        )
        return f"sent to {topic.name}"

    def _to_destination(self, letter: DeadLetter, name: str) -> str:
        from streams.delivery.dead import notification_of
        from streams.delivery.post import NotTakenError, RefusedError
        from streams.delivery.request import Requests

        notification = notification_of(letter)
        newest = self._newest.get(notification.incident_id)
        if newest is not None and newest.revision > notification.revision:
            raise OvertakenError(_overtaken(newest))
        known = {one.name: one for one in self._notify.all_destinations(os.environ)}
        if name not in known:
            raise NotSentError(
                f"no destination {name!r} is in [notify]; have: {', '.join(known) or 'none'}"
            )
        try:
            requests = Requests(known[name], self._notify, os.environ)
        except ValueError as err:
            raise CommandError(str(err)) from err
        try:
            requests.post(notification, time.time())
        except (NotTakenError, RefusedError) as err:
            raise NotSentError(str(err)) from err
        finally:
            requests.close()
        return f"delivered to {name!r}"


def _overtaken(newest: Notification) -> str:
    since = f"since {shown(newest.at_ns)}"
    if newest.state == "resolved":
        return f"its incident is over {since}"
    return f"its incident has gone on to revision {newest.revision} ({newest.state}) {since}"


def _mark(letter: DeadLetter) -> DeadLetter:
    """Write down that a dead letter was sent again."""
    return DeadLetter(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        at_ns=time.time_ns(),
        place=REPLAYED + letter.place,
        error="sent again",
        key_base64=letter.key_base64,
    )


def _produce(producer: Any, record: Record) -> None:
    topic = topic_of(record).name
    _produce_raw(producer, topic, key_of(record), encode(record), time_ms_of(record))


def _produce_raw(
    producer: Any, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int
) -> None:
    failed: list[str] = []

    def told(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(str(error))

    producer.produce(topic, key=key, value=value, timestamp=timestamp_ms, on_delivery=told)
    if producer.flush(ANSWER_SECONDS) or failed:
        raise CommandError(
            f"Kafka does not take messages on {topic} ({'; '.join(failed) or 'no answer'}): see "
            "that the brokers run and run it again"
        )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _print(letter: DeadLetter, told: str) -> None:
    key = (_bytes(letter.key_base64) or b"").decode(errors="replace")
    where = letter.topic if letter.partition < 0 else f"{letter.topic}[{letter.partition}]"
    offset = "" if letter.partition < 0 else f" offset {letter.offset}"
    line = f"{shown(letter.at_ns)}  {letter.place}  {where}{offset}  {key}: {told[:ERROR_LENGTH]}"
    # What somebody else wrote must neither break the line nor speak to the terminal.
    print("".join(one if one.isprintable() else " " for one in line))


def _beside(others: int) -> str:
    return f", and {others} others" if others else ""
