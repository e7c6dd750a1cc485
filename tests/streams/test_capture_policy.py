"""Which incidents get captures, and how few."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from schemas.records import Alert, AlertState, Capture, Severity
from streams import capture_policy
from streams.capture_policy import (
    LONGEST_WAIT_NS,
    CapturePolicy,
    CaptureSettings,
    capture_id_of,
    parse_hours,
)
from tests.schemas.samples import full

SECOND_NS = 1_000_000_000
NOON_NS = int(datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC).timestamp()) * SECOND_NS
ENGINE = "h:8000"


class Played:
    """A policy, and a clock that the test turns."""

    def __init__(self, **settings: Any) -> None:
        self.policy = CapturePolicy(CaptureSettings(**settings))
        self.now_ns = NOON_NS

    def wait(self, seconds: float) -> list[Capture]:
        self.now_ns += int(seconds * SECOND_NS)
        return self.policy.tick(self.now_ns)

    def say(
        self,
        state: AlertState = "firing",
        incident_id: str = "1",
        engine_id: str = ENGINE,
        severity: Severity = "page",
        **more: Any,
    ) -> list[Capture]:
        alert = replace(
            full(Alert),
            incident_id=incident_id,
            engine_id=engine_id,
            state=state,
            severity=severity,
            at_ns=self.now_ns,
            host=None,
        )
        return self.policy.add(replace(alert, **more), self.now_ns)

    def hear(self, asked: Capture, *states: Any) -> None:
        for state in states:
            self.policy.hear(replace(asked, state=state))

    def taken(self, **more: Any) -> Capture:
        """Let an incident fire and its capture be taken."""
        [asked] = self.say(**more)
        self.hear(asked, "requested", "running", "done")
        return asked


def test_a_firing_incident_asks_for_one_capture_that_names_it() -> None:
    played = Played(seconds=7.0)
    [asked] = played.say(incident_id="incident 7", host="h")
    assert (asked.state, asked.engine_id, asked.host) == ("requested", ENGINE, "h")
    assert (asked.incident_id, asked.reason) == ("incident 7", "incident 7")
    assert (asked.seconds, asked.at_ns, asked.compare_with) == (7.0, NOON_NS, None)


def test_the_id_is_made_of_the_incident_so_that_a_repeat_is_the_same_capture() -> None:
    ids = [Played().say(incident_id=name)[0].capture_id for name in ("1", "1", "2")]
    assert ids[0] == ids[1] != ids[2]
    assert all(re.fullmatch(r"[0-9a-f]{8,64}", one) for one in ids)
    assert capture_id_of("1") != capture_id_of("1", after_recovery=True)


def test_repeats_and_updates_ask_for_nothing_more() -> None:
    played = Played(least_seconds_between=0)
    assert len(played.say()) == 1
    assert played.say() == played.say("updated") == played.say("updated", severity="ticket") == []


def test_an_update_that_raises_the_severity_asks() -> None:
    played = Played()
    assert played.say(severity="ticket") == played.say("updated", severity="ticket") == []
    assert len(played.say("updated", severity="page")) == 1
    assert played.say("updated", severity="page") == []


def test_which_severities_ask_is_a_setting() -> None:
    assert len(Played(severities=("page", "ticket")).say(severity="ticket")) == 1
    assert Played(severities=()).say() == []
    assert Played(enabled=False).say() == []


def test_of_many_engines_on_one_host_only_the_first_asks() -> None:
    played = Played()
    found = [played.say(incident_id=str(one), engine_id=f"h:{8000 + one}") for one in range(5)]
    assert [len(one) for one in found] == [1, 0, 0, 0, 0]
    assert len(played.say(incident_id="other", engine_id="elsewhere:8000")) == 1
    # What the rate limit refused stays refused: that moment is over.
    played.wait(901)
    assert played.say("updated", incident_id="3", engine_id="h:8003") == []
    assert len(played.say(incident_id="new")) == 1


def test_one_after_a_recovery_does_not_keep_the_next_incident_from_its_own() -> None:
    played = Played(least_seconds_between=900)
    played.taken()
    played.wait(800)
    played.say("resolved")
    assert len(played.wait(31)) == 1
    played.wait(100)
    assert len(played.say(incident_id="2")) == 1


def test_a_host_has_no_more_than_its_number_in_a_day_recoveries_included() -> None:
    played = Played(least_seconds_between=0, most_per_day=3)
    played.taken()
    played.say("resolved")
    assert len(played.wait(31)) == 1
    assert [len(played.say(incident_id=name)) for name in ("2", "3")] == [1, 0]
    played.wait(86_401)
    assert len(played.say(incident_id="4")) == 1


@pytest.mark.parametrize(
    ("hours", "quiet"),
    [("", False), ("11:00-12:01", True), ("12:01-11:59", False), ("22:00-12:30", True)],
)
def test_in_quiet_hours_nothing_is_captured(hours: str, quiet: bool) -> None:
    assert (Played(quiet_hours=hours).say() == []) is quiet


@pytest.mark.parametrize("hours", ["22:00", "22:00-26:00", "a-b", "22:00-22:00", "1-2-3"])
def test_hours_that_are_none_are_refused_with_what_to_do(hours: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="quiet_hours is"):
        msgspec.convert({"quiet_hours": hours}, CaptureSettings)


def test_hours_need_no_minutes() -> None:
    assert parse_hours("22-06") == parse_hours("22:00-06:00") == (22 * 60, 6 * 60)


def test_an_alert_that_lay_about_asks_for_nothing() -> None:
    played = Played()
    assert played.say(at_ns=NOON_NS - 61 * SECOND_NS) == []


def test_after_the_recovery_and_some_calm_a_second_one_is_compared_with_the_first() -> None:
    played = Played(calm_seconds=30.0)
    first = played.taken()
    assert played.say("resolved") == played.wait(29) == []
    [second] = played.wait(2)
    assert (second.compare_with, second.incident_id) == (first.capture_id, first.incident_id)
    assert second.capture_id != first.capture_id
    assert second.at_ns == played.now_ns
    assert played.wait(100) == played.say("resolved") == played.wait(100) == []


def test_no_second_one_without_a_first_that_was_taken() -> None:
    played = Played(least_seconds_between=0)
    [asked] = played.say()
    played.say("resolved")
    assert played.wait(60) == []
    played.hear(asked, "failed")
    assert played.wait(60) == []
    assert played.say("resolved", incident_id="unknown") == played.wait(60) == []


def test_a_first_one_that_is_done_after_the_recovery_counts() -> None:
    played = Played()
    [asked] = played.say()
    played.say("resolved")
    assert played.wait(60) == []
    played.hear(asked, "done")
    assert len(played.wait(1)) == 1


def test_a_second_one_waits_until_the_engine_is_calm_and_not_for_ever() -> None:
    played = Played()
    played.taken()
    played.say("resolved")
    played.wait(10)
    assert played.say(incident_id="2") == played.wait(600) == []
    played.say("resolved", incident_id="2")
    assert played.wait(29) == []
    assert len(played.wait(2)) == 1
    played = Played()
    played.taken()
    played.say("resolved")
    played.say(incident_id="2")
    played.wait(LONGEST_WAIT_NS / SECOND_NS + 1)
    played.say("resolved", incident_id="2")
    assert played.wait(60) == []


def test_none_after_the_recovery_where_the_settings_say_so() -> None:
    played = Played(after_recovery=False)
    played.taken()
    played.say("resolved")
    assert played.wait(60) == []


def test_a_second_one_does_not_fall_into_quiet_hours() -> None:
    played = Played(quiet_hours="12:01-13:00")
    played.taken()
    played.say("resolved")
    assert played.wait(90) == []


def test_a_worker_that_restarts_hears_what_was_asked_for() -> None:
    before = Played()
    first = before.taken()
    after = Played()
    after.hear(first, "requested", "running", "done")
    assert after.say("updated") == after.say(incident_id="2", engine_id="h:8001") == []
    after.say("resolved")
    [second] = after.wait(31)
    again = Played()
    for one in (first, replace(first, state="done"), second):
        again.policy.hear(one)
    again.say("resolved")
    assert again.wait(31) == []


def test_what_people_ask_for_is_none_of_its_business() -> None:
    played = Played()
    played.policy.hear(replace(full(Capture), incident_id=None, host="h", state="requested"))
    played.policy.hear(
        replace(full(Capture), incident_id="2", capture_id="0" * 32, host="h", at_ns=NOON_NS)
    )
    assert len(played.say()) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_policy, "MOST_INCIDENTS", 50)
    monkeypatch.setattr(capture_policy, "MOST_HOSTS", 50)
    played = Played()
    for one in range(200):
        played.taken(incident_id=str(one), engine_id=f"h{one}:8000")
    policy = played.policy
    kept = (policy._cases, policy._hosts, policy._judged, policy._open)
    assert {len(one) for one in kept} == {50}
