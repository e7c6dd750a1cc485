"""What is said of an incident by the evidence of its alerts."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from latencyprism.explained.incident import command_of, lines_of
from latencyprism.explained.judgement import judgement_of
from latencyprism.told import Told
from models.causes import CAUSES as KNOWN
from models.causes.rules import RULES
from schemas.causes import CAUSES
from schemas.records import Alert, Evidence, Workload
from streams.wording import evidence_sql
from tests.schemas.samples import full, minimal

ENGINE = "judged:1"


def alert_of(evidence: Evidence, **changes: Any) -> Alert:
    """Give the only alert of an incident that is open."""
    alert: Alert = replace(
        minimal(Alert),
        revision=0,
        state="firing",
        cause="host_cpu_contention",
        confidence=0.95,
        end_ns=None,
        evidence=evidence,
    )
    return replace(alert, **changes)


def evidence_of(**changes: Any) -> Evidence:
    evidence: Evidence = replace(minimal(Evidence), **changes)
    return evidence


def lines_with(told: Told, text: str) -> list[str]:
    return [line for line in lines_of(told) if text in line]


def test_an_alert_with_all_fields_and_one_with_the_least_are_told() -> None:
    for make in (full, minimal):
        for state in ("firing", "updated", "resolved"):
            alert = replace(make(Alert), state=state)
            assert len(list(lines_of(Told(alerts=(alert,))))) > 8


def judged(**changes: Any) -> Told:
    evidence = evidence_of(
        counters_before={"others_cpu_ratio": 0.1},
        counters_during={"others_cpu_ratio": 0.8},
        **changes,
    )
    return Told(alerts=(alert_of(evidence, other_causes=("cpu_quota",)),))


def test_what_else_was_considered_is_told_with_why_not() -> None:
    rule = next(one for one in RULES if "host_cpu_contention" in one.by)
    gates = {one.name: one.gate for one in KNOWN}
    below, quiet = [
        name for name in gates if name not in ("host_cpu_contention", "cpu_quota", rule.away)
    ][:2]
    told = judged(
        pressures={
            "host_cpu_contention": 0.8,
            "cpu_quota": 0.5,
            rule.away: 0.9,
            below: gates[below] / 2,
            quiet: 0.0,
            "of_a_later_version": 0.2,
        }
    )
    why_not = {one.cause: one.why_not for one in judgement_of(told).rivals}
    assert "possible, too" in why_not["cpu_quota"]
    assert why_not[rule.away] == f"explained away by host_cpu_contention: {rule.why}"
    assert why_not[below] == "below its gate"
    assert why_not["of_a_later_version"] == "this version knows no gate for it"
    lines = "\n".join(lines_of(told))
    # What did not move at all is named without ado.
    assert f"{quiet}: as before" in lines
    assert "not        cpu_quota" in lines


def test_which_missing_counter_would_have_decided_is_told() -> None:
    told = judged(missing_counters={"memory_bandwidth": "memory_bandwidth_ratio"})
    assert lines_with(
        told, "undecided  memory_bandwidth: memory_bandwidth_ratio is not measured there"
    )


def test_inflation_counts_the_work_also_where_an_older_version_did_not_tell_it() -> None:
    phases: dict[str, Any] = {
        "phases_before_ns": {"forward": 10_000_000, "expected": 10_000_000},
        "phases_during_ns": {"forward": 30_000_000, "expected": 20_000_000},
    }
    for inflations, ratio in (({}, 1.5), ({"forward": 1.4}, 1.4)):
        judgement = judgement_of(judged(**phases, inflations=inflations))
        assert [(one.name, one.inflation) for one in judgement.phases] == [("forward", ratio)]
    del phases["phases_before_ns"]["expected"]
    assert lines_with(judged(**phases), "3.00 times, its work not counted")


def test_throttling_and_peers_are_told() -> None:
    told = judged(throttle_reasons=("hw_thermal",), peers={"peer:1": 1.2, "peer:2": 1.4})
    assert lines_with(told, "the driver slows the accelerator: hw_thermal")
    assert lines_with(told, "peers      it takes 1.40 times peer:2, 1.20 times peer:1")


def test_counters_that_came_in_with_the_end_only_are_shown() -> None:
    blind = alert_of(evidence_of(), cause="forward_slower", next_step="wait for the update")
    late = evidence_of(
        counters_before={"others_cpu_ratio": 0.1}, counters_during={"others_cpu_ratio": 0.8}
    )
    end = replace(blind, revision=1, state="resolved", evidence=late, next_step="look at the host")
    judgement = judgement_of(Told(alerts=(blind, end)))
    assert judgement.cause == "forward_slower"
    assert judgement.next_step == "look at the host"
    assert [one.name for one in judgement.counters] == ["others_cpu_ratio"]
    assert lines_with(Told(alerts=(blind,)), "no counters of the host or its accelerators were in")


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.3, 0.62, 0.7, 0.9, 1.0])
def test_a_confidence_has_words(confidence: float) -> None:
    judgement = judgement_of(Told(alerts=(alert_of(evidence_of(), confidence=confidence),)))
    order = ["hardly a hint", "a guess", "more likely than not", "likely", "nearly sure"]
    expected = order[sum(confidence >= least for least in (0.3, 0.5, 0.7, 0.9))]
    assert judgement.confidence_in_words == expected


def test_every_cause_is_said_in_words() -> None:
    for cause, meaning in CAUSES.items():
        told = Told(alerts=(alert_of(evidence_of(), cause=cause),))
        assert next(iter(lines_of(told))).endswith(f"{meaning} (nearly sure, 0.95)")


def test_what_is_long_is_wrapped_in_a_terminal_but_for_the_query() -> None:
    told = judged(sql=evidence_sql(ENGINE, 1, 2))
    lines = list(lines_of(told, width=70))
    assert max(len(line) for line in lines if "latencyprism sql" not in line) < 110
    assert sum("latencyprism sql" in line for line in lines) == 1
    assert len(lines) > len(list(lines_of(told)))


@pytest.mark.parametrize("engine_id", ["a'b\"c:1", "$HOME:1", "`id`:1", "back\\slash:1", "bang!:1"])
def test_no_name_of_an_engine_is_run_by_the_shell(engine_id: str) -> None:
    sql = evidence_sql(engine_id, 1, 2)
    command = command_of(alert_of(evidence_of(sql=sql)), "my settings.toml")
    assert shlex.split(command) == ["latencyprism", "sql", "--config", "my settings.toml", sql]
    if set(engine_id) & set("$`!\\"):
        assert f'"{sql}"' not in command


def test_the_workload_of_the_batch_is_that_of_the_last_word() -> None:
    load = Workload(requests=7, kv_tokens=84_000)
    told = Told(alerts=(alert_of(evidence_of(workload=load)),))
    assert lines_with(told, "workload   7 requests, 84k tokens of context")
