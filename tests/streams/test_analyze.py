"""One engine from its iterations to its alerts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from models.judge import SETTLING_BATCHES, WARM_BATCHES
from schemas.records import Alert, Batch, HostReading, Iteration, Workload
from streams.alert import CALM_BATCHES, CALM_NS, UPDATE_PERIOD_NS
from streams.analyze import Analysis
from streams.learnt import WARM_INTERVALS
from streams.timeline import GRACE_NS
from streams.wording import evidence_sql
from tests.streams.feed import ENGINE_ID, Feed, Listener

# Normal batches after which an incident is surely over.
RECOVERY = 500


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def listener(feed: Feed) -> Listener:
    """A listener that knows the engine: 600 normal batches were seen."""
    listener = Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(600))
    assert listener.alerts == []
    return listener


def test_every_batch_comes_out_judged_and_in_order(feed: Feed, listener: Listener) -> None:
    assert [batch.sequence for batch in listener.batches] == list(range(1, 601))
    last = listener.batches[-1]
    assert last.verdict == "normal"
    assert (last.low_ns or 0) < (last.expected_ns or 0) < (last.high_ns or 0)
    assert sum(last.terms_ns.values()) == pytest.approx(last.expected_ns, rel=0.2)
    assert last.counters == {"others_cpu_ratio": 0.1}
    assert last.incident_id is None


def test_a_slowdown_is_one_incident_from_firing_to_resolved(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(1000, factor=1.6, others=0.1))
    listener.take(feed.batches(RECOVERY))
    assert listener.states[0] == "firing"
    assert listener.states[-1] == "resolved"
    assert listener.states.count("firing") == listener.states.count("resolved") == 1
    assert len({alert.incident_id for alert in listener.alerts}) == 1
    revisions = [alert.revision for alert in listener.alerts]
    assert revisions == list(range(len(revisions)))


def test_a_long_incident_is_told_a_few_times_and_not_with_every_batch(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(3000, factor=1.6, others=0.85))
    assert len(listener.alerts) <= 4


def test_an_alert_comes_before_the_batch_that_gave_it_away(feed: Feed, listener: Listener) -> None:
    results = listener.take(feed.batches(30, factor=1.6))
    place = next(n for n, one in enumerate(results) if isinstance(one, Alert))
    alert, batch = results[place], results[place + 1]
    assert isinstance(alert, Alert)
    assert isinstance(batch, Batch)
    assert (alert.batch_sequence, alert.batch_end_ns) == (batch.sequence, batch.end_ns)
    assert alert.at_ns == 42
    assert batch.incident_id == alert.incident_id


def test_the_incident_began_with_the_first_slow_batch(feed: Feed, listener: Listener) -> None:
    begin_ns = feed.now_ns
    listener.take(feed.batches(30, factor=1.6))
    assert 0 <= listener.alerts[0].begin_ns - begin_ns < 30_000_000


def test_counters_name_the_cause_in_an_update(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(400, factor=1.6, others=0.85))
    assert listener.alerts[0].cause != "host_cpu_contention"
    updated = next(alert for alert in listener.alerts if alert.state == "updated")
    assert updated.cause == "host_cpu_contention"
    assert "other processes took the host's CPUs: 10 % before, 85 % now" in updated.summary
    assert updated.evidence.counters_before == {"others_cpu_ratio": 0.1}
    assert updated.evidence.counters_during == {"others_cpu_ratio": 0.85}


def test_the_first_counters_of_an_incident_update_it_with_the_next_batch(
    feed: Feed, listener: Listener
) -> None:
    listener.take([feed.reading()])
    listener.take(feed.batches(30, factor=1.6))
    listener.take([feed.reading(others=0.85)])
    assert listener.states == ["firing"]
    listener.take(feed.batches(1, factor=1.6, others=0.85))
    assert listener.states == ["firing", "updated"]
    assert listener.alerts[-1].cause == "host_cpu_contention"


def test_further_updates_keep_a_distance(feed: Feed, listener: Listener) -> None:
    def reading(memory: float, others: float = 0.1) -> HostReading:
        return replace(feed.reading(others=others), memory_pressure_ratio=memory)

    listener.take([reading(0.0)])
    listener.take(feed.batches(30, factor=1.6))
    listener.take([reading(0.0, others=0.85)])
    listener.take(feed.batches(20, factor=1.6, others=0.85))
    told = len(listener.alerts)
    listener.take([reading(0.9, others=0.85)])
    listener.take(feed.batches(1, factor=1.6))
    assert len(listener.alerts) == told
    listener.take(feed.batches(150, factor=1.6))
    assert "memory_pressure" in listener.alerts[told].other_causes
    distance_ns = listener.alerts[told].batch_end_ns - listener.alerts[told - 1].batch_end_ns
    assert distance_ns >= UPDATE_PERIOD_NS


def test_without_a_short_resource_the_phase_is_named(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(400, factor=1.6))
    listener.take(feed.batches(RECOVERY))
    assert listener.alerts[-1].cause == "forward_slower"
    assert listener.alerts[-1].evidence.ratio == pytest.approx(1.6, rel=0.05)


def test_the_resolved_alert_keeps_the_cause_and_says_when_it_ended(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(400, factor=1.6, others=0.85))
    listener.take(feed.batches(RECOVERY))
    resolved = listener.alerts[-1]
    assert (resolved.state, resolved.cause) == ("resolved", "host_cpu_contention")
    assert resolved.end_ns is not None
    assert resolved.begin_ns < resolved.end_ns <= feed.now_ns
    assert all(alert.end_ns is None for alert in listener.alerts[:-1])


def test_an_incident_ends_when_batches_were_calm_for_long_enough(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(400, factor=1.6))
    results = listener.take(feed.batches(RECOVERY))
    resolved = next(n for n, one in enumerate(results) if isinstance(one, Alert))
    before = [one for one in results[: resolved + 2] if isinstance(one, Batch)]
    calm = [batch for batch in before if batch.verdict == "normal"]
    assert len(before) - len(calm) < 25
    calm_ns = calm[-1].end_ns - calm[0].begin_ns
    assert CALM_NS <= calm_ns < CALM_NS + 20_000_000


def test_few_batches_over_a_long_time_do_not_end_an_incident(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(100, factor=1.6))
    while listener.analysis.to_state()["incidents"]["open"]["calm"] == 0:
        listener.take(feed.batch())
    for _ in range(CALM_BATCHES - 2):
        feed.pause(1)
        # Some were not timed, so nobody knows whether the engine had work meanwhile.
        listener.take([replace(feed.batch()[0], missed=3)])
    assert "resolved" not in listener.states
    listener.take(feed.batch())
    assert listener.states[-1] == "resolved"


def test_trouble_that_comes_and_goes_is_one_incident(feed: Feed, listener: Listener) -> None:
    for _ in range(5):
        listener.take(feed.batches(60, factor=1.6))
        listener.take(feed.batches(100))
    assert listener.states.count("firing") == 1
    assert "resolved" not in listener.states


def test_batches_that_nobody_could_judge_do_not_end_an_incident(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(100, factor=1.6))
    blind = [replace(feed.batch(1.6)[0], workload=Workload()) for _ in range(RECOVERY)]
    listener.take(blind)
    assert "resolved" not in listener.states


def test_how_slow_decides_who_is_woken(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(100, factor=1.25))
    listener.take(feed.batches(RECOVERY))
    assert {alert.severity for alert in listener.alerts} == {"ticket"}
    listener.take(feed.batches(100, factor=2))
    assert listener.alerts[-1].severity == "page"


def test_a_second_slowdown_is_an_incident_of_its_own(feed: Feed, listener: Listener) -> None:
    for _ in range(2):
        listener.take(feed.batches(100, factor=1.6))
        listener.take(feed.batches(RECOVERY))
    firing = [alert for alert in listener.alerts if alert.state == "firing"]
    assert len({alert.incident_id for alert in firing}) == len(firing) == 2


def test_a_suspicion_that_was_nothing_tells_nobody(feed: Feed, listener: Listener) -> None:
    for _ in range(4):
        listener.take(feed.batches(1, factor=1.6))
        listener.take(feed.batches(400))
    assert listener.alerts == []
    begin_ns = feed.now_ns
    listener.take(feed.batches(30, factor=1.6))
    assert listener.alerts[0].begin_ns > begin_ns


def test_silence_ends_an_incident(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(100, factor=1.6))
    feed.pause(29)
    listener.take([feed.reading()])
    assert listener.states[-1] != "resolved"
    feed.pause(2)
    listener.take([feed.reading()])
    assert listener.states[-1] == "resolved"


def test_an_engine_that_is_gone_has_no_incident(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(100, factor=1.6))
    listener.take([feed.engine(state="gone")])
    assert listener.states[-1] == "resolved"
    assert f"{ENGINE_ID} ended; until then it was 1." in listener.alerts[-1].summary
    assert listener.take([feed.engine(state="gone")]) == []


def test_news_that_an_earlier_process_is_gone_ends_nothing(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(100, factor=1.6))
    listener.take([feed.engine(state="gone", process_start_ns=-1_000_000_000_000)])
    assert listener.states[-1] != "resolved"


def test_a_restarted_engine_counts_anew_and_is_known_at_once(
    feed: Feed, listener: Listener
) -> None:
    old = feed.batch()[0]
    feed.process_start_ns, feed.sequence = 1_000_000_000_000, 0
    results = listener.take([*feed.batches(SETTLING_BATCHES, factor=3.0), *feed.batches(50)])
    batches = [one for one in results if isinstance(one, Batch)]
    assert [batch.sequence for batch in batches] == list(range(1, SETTLING_BATCHES + 51))
    # Compiling, capturing graphs: slow, and nobody is woken for it.
    assert {batch.verdict for batch in batches[:SETTLING_BATCHES]} == {"unknown"}
    assert {batch.verdict for batch in batches[SETTLING_BATCHES:]} == {"normal"}
    assert listener.states == []
    assert listener.take([old]) == []


def test_an_agent_that_counts_anew_on_the_same_process_is_heard(
    feed: Feed, listener: Listener
) -> None:
    """Where the engine has no counter of its own, a restarted agent begins at 0 again."""
    feed.sequence = 0
    assert len(listener.take(feed.batches(50))) == 50
    assert listener.analysis.repeated == 0
    assert {batch.revision for batch in listener.batches} == {0}


def ahead(feed: Feed, seconds: float) -> list[Iteration]:
    """Give a batch stamped by a clock that is ahead, and set the clock back."""
    feed.pause(seconds)
    batch = feed.batch()
    feed.pause(-seconds)
    return batch


@pytest.mark.parametrize("seconds", [60, 3600])
@pytest.mark.parametrize("then", ["goes on", "restarts", "counts anew"])
def test_one_batch_stamped_in_the_future_silences_nothing(
    feed: Feed, listener: Listener, seconds: float, then: str
) -> None:
    assert len(listener.take(ahead(feed, seconds))) == 1
    if then != "goes on":
        feed.sequence = 0
    if then == "restarts":
        feed.process_start_ns += 1_000_000_000_000
    feed.pause(1)
    got = [one for one in listener.take(feed.batches(40)) if isinstance(one, Batch)]
    assert len(got) == 40
    # Afterwards all is as ever: what comes again is known as such.
    again = list(feed.batches(5))
    listener.take(again)
    assert listener.take([one for one in again if isinstance(one, Iteration)]) == []


def test_what_is_delivered_again_is_ignored(feed: Feed, listener: Listener) -> None:
    again = list(feed.batches(40))
    listener.take(again)
    state = json.dumps(listener.analysis.to_state())
    assert listener.take([one for one in again if isinstance(one, Iteration)]) == []
    assert json.dumps(listener.analysis.to_state()) == state
    assert listener.analysis.repeated == 40


def test_an_open_iteration_delivered_again_is_no_stall(feed: Feed, listener: Listener) -> None:
    stalled = feed.open_iteration(60)
    listener.take(feed.batches(30))
    assert listener.take([stalled]) == []


def test_a_workers_share_is_no_batch_of_its_own(feed: Feed) -> None:
    analysis = Analysis(ENGINE_ID)
    [iteration] = feed.batch()
    share = replace(iteration, role="worker", rank=1)
    assert analysis.add_iteration(share) == []
    assert len([one for one in analysis.add_iteration(iteration) if isinstance(one, Batch)]) == 1


def test_the_same_input_gives_the_same_alerts(feed: Feed) -> None:
    def told() -> list[Alert]:
        feed, listener = Feed(), Listener()
        listener.take(feed.batches(600))
        listener.take(feed.batches(300, factor=1.6, others=0.85))
        listener.take(feed.batches(RECOVERY))
        return listener.alerts

    assert told() == told() != []


@pytest.mark.parametrize("stage", ["warm-up", "normal", "pending", "firing", "calming"])
def test_an_analysis_goes_on_exactly_from_its_state(stage: str) -> None:
    feed, listener = Feed(), Listener()
    listener.take([feed.engine()])
    history = {
        "warm-up": [(100, 1.0)],
        "normal": [(600, 1.0)],
        "pending": [(600, 1.0), (2, 1.3)],
        "firing": [(600, 1.0), (150, 1.6)],
        "calming": [(600, 1.0), (150, 1.6), (20, 1.0)],
    }[stage]
    for count, factor in history:
        listener.take(feed.batches(count, factor=factor))
    open_state = listener.analysis.to_state()["incidents"]["open"]
    assert (open_state or {}).get("state") == {
        "pending": "pending",
        "firing": "firing",
        "calming": "firing",
    }.get(stage)
    state = json.loads(json.dumps(listener.analysis.to_state()))
    other = Listener(Analysis.from_state(ENGINE_ID, state, clock_ns=lambda: 42))
    rest = [
        *feed.batches(300 if stage == "warm-up" else 0),
        *feed.batches(200, factor=1.6, others=0.85),
        *feed.batches(RECOVERY),
        *feed.batches(50, factor=1.6),
        feed.engine(state="gone"),
    ]
    expected = listener.take(rest)
    assert other.take(rest) == expected
    assert "resolved" in [one.state for one in expected if isinstance(one, Alert)]
    assert other.analysis.to_state() == listener.analysis.to_state()


def test_a_worker_that_knows_the_engine_needs_no_new_warm_up(
    feed: Feed, listener: Listener
) -> None:
    state = listener.analysis.to_state()
    other = Listener(Analysis.from_state(ENGINE_ID, state))
    other.take(feed.batches(5))
    assert {batch.verdict for batch in other.batches} == {"normal"}
    assert other.analysis.batches == 605 > WARM_BATCHES


def test_interval_means_are_not_judged_by_what_single_iterations_taught(
    feed: Feed, listener: Listener
) -> None:
    """An agent that lost its counter falls back to means from /metrics: another quantity."""
    means = [replace(feed.batch(1.6)[0], source="metrics", iterations=50) for _ in range(80)]
    results = listener.take(means)
    verdicts = [one.verdict for one in results if isinstance(one, Batch)]
    assert set(verdicts[:WARM_INTERVALS]) == {"unknown"}
    assert "slow" not in verdicts
    results = listener.take(feed.batches(20))
    assert {one.verdict for one in results if isinstance(one, Batch)} == {"normal"}
    assert listener.alerts == []


def test_a_state_of_another_version_is_refused() -> None:
    state = Analysis(ENGINE_ID).to_state() | {"version": 99}
    with pytest.raises(ValueError, match="version 99: this worker reads 1"):
        Analysis.from_state(ENGINE_ID, state)


def test_an_alert_says_which_engine_it_is_about(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(30, factor=1.6))
    alert = listener.alerts[0]
    assert (alert.framework, alert.model, alert.host) == ("vllm", "a-model", "host")


def test_what_an_alert_says_of_the_engine_stays_through_the_incident(
    feed: Feed, listener: Listener
) -> None:
    """Receivers tell incidents apart by these; the inventory may change meanwhile."""
    listener.take(feed.batches(100, factor=1.6))
    listener.take([feed.engine(model="renamed", host="moved", framework="sglang")])
    listener.take(feed.batches(RECOVERY))
    assert listener.states[-1] == "resolved"
    told = {(alert.framework, alert.model, alert.host) for alert in listener.alerts}
    assert told == {("vllm", "a-model", "host")}


def test_a_stall_is_told_at_once_and_once(feed: Feed, listener: Listener) -> None:
    for seconds in (1.0, 3.0, 4.0, 5.0):
        running = feed.open_iteration(seconds)
        listener.take([running])
        feed.now_ns = running.begin_ns
    assert listener.states == ["firing"]
    assert (listener.alerts[0].cause, listener.alerts[0].severity) == ("stall", "page")
    assert "the batch that is running should long be over" in listener.alerts[0].summary


def test_a_stall_does_not_end_by_silence(feed: Feed, listener: Listener) -> None:
    listener.take([feed.open_iteration(10)])
    feed.pause(600)
    listener.take([feed.reading()])
    assert listener.states == ["firing"]


def test_a_stall_ends_when_batches_go_on(feed: Feed, listener: Listener) -> None:
    listener.take([feed.open_iteration(10)])
    listener.take(feed.batches(RECOVERY))
    assert listener.states == ["firing", "resolved"]


def test_a_stall_ends_with_the_process_that_stalled(feed: Feed, listener: Listener) -> None:
    listener.take([feed.open_iteration(10)])
    feed.process_start_ns, feed.sequence = 1_000_000_000_000, 0
    results = listener.take(feed.batches(1))
    assert listener.states == ["firing", "resolved"]
    assert isinstance(results[-1], Batch)


def test_a_slowdown_survives_a_restart_of_the_engine(feed: Feed, listener: Listener) -> None:
    listener.take(feed.batches(100, factor=1.6))
    feed.process_start_ns, feed.sequence = 1_000_000_000_000, 0
    listener.take(feed.batches(100, factor=1.6))
    assert "resolved" not in listener.states
    listener.take(feed.batches(RECOVERY))
    assert listener.states.count("firing") == listener.states.count("resolved") == 1


def test_a_slow_engine_that_comes_to_a_halt_is_told_as_an_update(
    feed: Feed, listener: Listener
) -> None:
    listener.take(feed.batches(100, factor=1.6))
    listener.take([feed.open_iteration(10)])
    assert (listener.states[-1], listener.alerts[-1].cause) == ("updated", "stall")
    feed.pause(600)
    listener.take([feed.reading()])
    assert "resolved" not in listener.states


def test_a_late_rank_amends_the_batch_and_keeps_its_verdict() -> None:
    feed, listener = Feed(ranks=2), Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(400))
    first, late = feed.batch()
    listener.take([first])
    feed.pause(GRACE_NS / 1e9 + 1)
    [judged] = listener.take(feed.batch())[:1]
    [amended] = listener.take([late])
    assert isinstance(judged, Batch)
    assert isinstance(amended, Batch)
    assert (judged.sequence, judged.ranks, judged.revision) == (first.sequence, 1, 0)
    assert amended == replace(judged, ranks=2, revision=1)
    assert amended.verdict == "normal"


def test_ranks_delivered_again_after_a_restart_are_ignored() -> None:
    feed, listener = Feed(ranks=2), Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(300))
    again = [part for _ in range(60) for part in feed.batch()]
    listener.take(again)
    other = Listener(Analysis.from_state(ENGINE_ID, listener.analysis.to_state()))
    assert other.take(again) == []
    assert [batch.ranks for batch in other.batches] == []
    other.take(feed.batches(10))
    assert [(batch.ranks, batch.revision) for batch in other.batches] == [(2, 0)] * 10


def test_the_query_in_the_evidence_quotes_the_engine() -> None:
    sql = evidence_sql("it's \\ a host", 10**18, 10**18 + 5)
    assert "engine_id = 'it\\'s \\\\ a host'" in sql
    assert "BETWEEN 999999990000000000 AND 1000000010000000005" in sql


def test_another_model_under_the_same_name_is_learnt_anew(feed: Feed, listener: Listener) -> None:
    """What it costs says nothing of the model before it; a page that never ends would follow."""
    listener.take(feed.batches(100, factor=1.6))
    listener.take([feed.engine(model="twice-the-size")])
    assert listener.states[-1] == "resolved"
    told = len(listener.states)

    results = listener.take(feed.batches(WARM_BATCHES + 100, factor=2.0))

    assert {one.verdict for one in results[-50:] if isinstance(one, Batch)} == {"normal"}
    assert len(listener.states) == told


def test_a_stepped_clock_makes_no_other_process(feed: Feed, listener: Listener) -> None:
    """The start of a process is told by the clock of the system, which may go back."""
    feed.process_start_ns -= 2_000_000_000

    results = listener.take(feed.batches(20))

    assert {one.verdict for one in results if isinstance(one, Batch)} == {"normal"}
    assert len(results) == 20


def test_a_stall_that_is_over_ends_by_silence(feed: Feed, listener: Listener) -> None:
    listener.take([feed.open_iteration(10)])
    listener.take(feed.batches(1))
    assert listener.states == ["firing"]

    later_ns = listener.batches[-1].end_ns + 60_000_000_000

    assert [alert.state for alert in listener.analysis.tick(later_ns)] == ["resolved"]


def test_a_second_stall_of_an_incident_does_not_end_by_silence(
    feed: Feed, listener: Listener
) -> None:
    listener.take([feed.open_iteration(10)])
    listener.take(feed.batches(1))
    listener.take([feed.open_iteration(10)])

    assert listener.analysis.tick(listener.batches[-1].end_ns + 60_000_000_000) == []
    assert listener.states == ["firing"]
