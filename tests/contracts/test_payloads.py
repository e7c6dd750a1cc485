"""What every payload has to keep; a new file in streams/delivery/payloads is tested by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Notification
from streams.delivery.payloads import Context, available, load
from streams.delivery.request import MOST_BODY_BYTES
from tests.schemas.samples import full, minimal
from tests.streams.delivery.notifications import life, member, notification

CONTEXT = Context("on-call", "https://lp.example", "the-key")
SAMPLES: dict[str, Notification] = {
    "full": full(Notification),
    "minimal": minimal(Notification),
    **{str(one.state): one for one in life()},
    "many": notification(members=tuple(member(f"host-{n}:8000") for n in range(1000))),
    "huge": notification(summary="x" * 100_000, next_step="<&>" * 30_000),
}


def body(kind: str, what: Notification, context: Context = CONTEXT) -> Any:
    return json.loads(json.dumps(load(kind).body(what, context)))


@pytest.mark.parametrize("kind", available())
@pytest.mark.parametrize("name", SAMPLES)
def test_any_notification_makes_a_body_of_bounded_size(kind: str, name: str) -> None:
    written = json.dumps(body(kind, SAMPLES[name]))
    assert 2 < len(written) < MOST_BODY_BYTES


@pytest.mark.parametrize("kind", available())
def test_the_same_notification_makes_the_same_body(kind: str) -> None:
    """A delivery that is tried again or replayed is the same delivery."""
    assert body(kind, SAMPLES["full"]) == body(kind, SAMPLES["full"])


@pytest.mark.parametrize("kind", available())
@pytest.mark.parametrize("name", ["full", "minimal", "firing", "resolved"])
def test_a_body_says_which_incident_what_and_where(kind: str, name: str) -> None:
    what = SAMPLES[name]
    written = json.dumps(body(kind, what), ensure_ascii=False)
    first_line = json.dumps(what.summary.splitlines()[0], ensure_ascii=False).strip('"')
    assert first_line in written
    assert json.dumps(what.incident_id.splitlines()[0], ensure_ascii=False).strip('"') in written


@pytest.mark.parametrize("kind", available())
def test_a_body_links_to_the_console_where_there_is_one(kind: str) -> None:
    link = "https://lp.example/incident/abc"
    assert link in json.dumps(body(kind, SAMPLES["firing"]))
    without = json.dumps(body(kind, SAMPLES["firing"], replace(CONTEXT, console_url="")))
    assert "/incident/" not in without


@pytest.mark.parametrize("kind", available())
def test_a_body_tells_who_takes_care(kind: str) -> None:
    assert "anna" in json.dumps(body(kind, notification(acknowledged_by="anna")))


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"unknown kind of receiver 'teams'; have: .*slack"):
        load("teams")
