"""What each kind of receiver reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Alert, CaptureLink, Notification
from streams.delivery.payloads import Context, load
from tests.schemas.samples import full
from tests.streams.delivery.notifications import BEGIN_NS, life, member, notification

CONTEXT = Context("on-call", "https://lp.example", "the-key")
TWO = (member("inference-7:8000"), member("inference-7:8001", ratio=2.0))


def body(kind: str, what: Notification) -> Any:
    return load(kind).body(what, CONTEXT)


# Alertmanager's webhook, version 4.


def webhook(what: Notification) -> dict[str, Any]:
    found: dict[str, Any] = body("alertmanager", what)
    return found


def test_the_webhook_has_the_fields_of_version_4() -> None:
    found = webhook(full(Notification))
    assert set(found) == {
        "version",
        "groupKey",
        "truncatedAlerts",
        "status",
        "receiver",
        "groupLabels",
        "commonLabels",
        "commonAnnotations",
        "externalURL",
        "alerts",
    }
    assert (found["version"], found["receiver"]) == ("4", "on-call")
    assert found["groupKey"] == (
        '{}:{alertname="LLMBatchLatencyAnomaly", incident_id="a incident_id\\nß"}'
    )
    for alert in found["alerts"]:
        assert set(alert) == {
            "status",
            "labels",
            "annotations",
            "startsAt",
            "endsAt",
            "generatorURL",
            "fingerprint",
        }
        assert {type(text) for text in alert["labels"].values()} == {str}
        assert {type(text) for text in alert["annotations"].values()} == {str}


def test_status_and_times_follow_the_life_of_the_incident() -> None:
    told = [webhook(one) for one in life()]
    alerts = [one["alerts"][0] for one in told]
    assert [one["status"] for one in told] == ["firing", "firing", "resolved"]
    assert [one["status"] for one in alerts] == ["firing", "firing", "resolved"]
    assert {one["startsAt"] for one in alerts} == {"2026-09-21T14:13:20.000Z"}
    never = "0001-01-01T00:00:00Z"
    assert [one["endsAt"] for one in alerts] == [never, never, "2026-09-21T14:13:32.345Z"]
    assert [one["annotations"]["state"] for one in alerts] == ["firing", "updated", "resolved"]


def test_each_member_is_an_entry_and_the_evidence_is_of_the_one_that_leads() -> None:
    found = webhook(notification(members=TWO, shared="host:inference-7"))
    lead, other = found["alerts"]
    assert [one["labels"]["engine_id"] for one in (lead, other)] == [one.engine_id for one in TWO]
    assert lead["fingerprint"] != other["fingerprint"]
    assert (lead["annotations"]["slowdown_ratio"], lead["annotations"]["expected_seconds"]) == (
        "1.500",
        "0.010000",
    )
    assert other["annotations"]["slowdown_ratio"] == "2.000"
    assert "expected_seconds" not in other["annotations"]
    assert found["commonLabels"].keys() == lead["labels"].keys() - {"engine_id"}
    assert found["commonAnnotations"]["shared"] == "host:inference-7"
    assert "slowdown_ratio" not in found["commonAnnotations"]


def test_labels_stay_the_same_whichever_member_leads_and_whatever_is_learnt() -> None:
    one = notification(members=TWO[:1])
    other_leads = replace(
        one.alert, engine_id="inference-7:8001", host="h", model="m", framework=None, cause="stall"
    )
    seen: dict[str, set[str]] = {}
    for what in (
        one,
        replace(one, members=TWO, shared="host:inference-7", cause="unknown", severity="ticket"),
        replace(one, members=TWO, alert=other_leads, acknowledged_by="anna"),
        replace(one, members=TWO, state="resolved", end_ns=BEGIN_NS + 5),
    ):
        for alert in webhook(what)["alerts"]:
            engine = alert["labels"]["engine_id"]
            seen.setdefault(engine, set()).add(json.dumps([alert["labels"], alert["fingerprint"]]))
    assert {engine: len(labels) for engine, labels in seen.items()} == {
        one.engine_id: 1 for one in TWO
    }


def test_what_is_not_known_is_no_label() -> None:
    unknown = member("x:1", framework=None, model=None, host=None)
    [alert] = webhook(notification(members=(unknown,)))["alerts"]
    assert set(alert["labels"]) == {"alertname", "engine_id", "incident_id"}


def test_an_incident_that_is_over_has_no_member_that_goes_on() -> None:
    over = notification(state="resolved", members=TWO)
    assert {alert["status"] for alert in webhook(over)["alerts"]} == {"resolved"}
    assert "0001" not in json.dumps(webhook(over))


def test_more_members_than_anybody_reads_are_counted() -> None:
    found = webhook(notification(members=tuple(member(f"h:{n}") for n in range(130))))
    assert (len(found["alerts"]), found["truncatedAlerts"]) == (100, 30)
    assert found["commonAnnotations"]["member_count"] == "130"


def test_the_evidence_is_in_the_annotations() -> None:
    alert: Alert = full(Alert)
    link = CaptureLink(capture_id="c1", engine_id="e", host="h", folder="/captures/c1")
    what = notification(alert=replace(alert, engine_id="inference-7:8000"), captures=(link,))
    annotations = webhook(what)["alerts"][0]["annotations"]
    for name in ("inflations", "missing_counters", "pressures", "counters_during", "peers"):
        assert json.loads(annotations[name]) == getattr(alert.evidence, name)
    assert json.loads(annotations["throttle_reasons"]) == list(alert.evidence.throttle_reasons)
    assert json.loads(annotations["captures"])[0]["folder"] == "/captures/c1"
    assert annotations["evidence_query"] == alert.evidence.sql
    assert json.loads(annotations["members"])[0]["engine_id"] == "inference-7:8000"


# Alertmanager itself.


def test_an_open_alert_ends_in_a_week_and_one_that_is_over_when_it_was() -> None:
    first, _, last = (body("alertmanager_api", one)[0] for one in life())
    assert first["labels"] == last["labels"] == webhook(life()[0])["alerts"][0]["labels"]
    assert first["endsAt"] == "2026-09-28T14:13:20.000Z"
    assert last["endsAt"] == "2026-09-21T14:13:32.345Z"
    assert first["startsAt"] < last["endsAt"]


# Slack.


def texts(what: Notification) -> list[str]:
    found = []
    for block in body("slack", what)["blocks"]:
        elements = block.get("elements") or [block["text"]]
        found += [one["text"] for one in elements]
    return found


def test_a_message_says_how_bad_what_and_what_to_do_first() -> None:
    what = notification(summary="batches take 47 ms where 20 ms is expected", next_step="run top")
    head, summary, step, details = texts(what)
    assert head == ":red_circle: PAGE inference-7:8000: host cpu contention"
    assert summary == "batches take 47 ms where 20 ms is expected"
    assert step == "*Do first:* run top"
    assert "since 2026-09-21 14:13:20 UTC" in details
    assert "<https://lp.example/incident/abc|open>" in details
    assert body("slack", what)["text"].startswith(head)


def test_a_message_of_many_engines_says_how_many_and_where() -> None:
    head = texts(notification(members=TWO, shared="host:inference-7"))[0]
    assert head == ":red_circle: PAGE 2 engines on inference-7: host cpu contention"


def test_a_message_of_the_end_says_so_and_asks_for_nothing() -> None:
    over = texts(life()[-1])
    assert over[0].startswith(":white_check_mark: OVER")
    assert not any("Do first" in text for text in over)


def test_what_slack_would_read_as_markup_is_escaped() -> None:
    found = body("slack", notification(summary="<!channel> & <@U1>"))
    assert "<!" not in json.dumps(found)
    assert found["blocks"][1]["text"]["text"] == "&lt;!channel&gt; &amp; &lt;@U1&gt;"
    assert "<!" not in body("slack", notification(cause="<!channel>"))["text"]


@pytest.mark.parametrize("text", ["x" * 5000, "&" * 5000])
def test_a_message_keeps_to_the_lengths_that_slack_takes(text: str) -> None:
    what = notification(summary=text, next_step=text, cause=text, incident_id=text)
    found = body("slack", what)
    assert len(found["blocks"][0]["text"]["text"]) <= 150
    assert all(len(one) <= 3000 for one in texts(what))


# PagerDuty.


def test_an_event_follows_the_life_of_the_incident_under_one_key() -> None:
    events = [body("pagerduty", one) for one in life()]
    assert [one["event_action"] for one in events] == ["trigger", "trigger", "resolve"]
    assert {one["dedup_key"] for one in events} == {"abc"}
    assert {one["routing_key"] for one in events} == {"the-key"}
    taken_care_of = body("pagerduty", notification(state="updated", acknowledged_by="anna"))
    assert taken_care_of["event_action"] == "acknowledge"


@pytest.mark.parametrize(("ours", "theirs"), [("page", "critical"), ("ticket", "warning")])
def test_severities_are_pagerdutys(ours: str, theirs: str) -> None:
    found = body("pagerduty", notification(severity=ours))
    assert found["payload"]["severity"] == theirs


def test_an_event_keeps_to_the_lengths_that_pagerduty_takes() -> None:
    found = body("pagerduty", notification(summary="x" * 5000, shared="host:" + "x" * 500))
    assert len(found["payload"]["summary"]) == 1024
    assert len(found["payload"]["source"]) == 255
