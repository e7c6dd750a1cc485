from __future__ import annotations

from dataclasses import replace

import pytest

from models.attribution import UNKNOWN, Attribution, attribute
from models.causes import CAUSES, PHASES, RESOURCES, Facts, Pauses
from models.causes.confidence import STEPS, TABLE, confidence_of
from models.causes.rules import RULES
from schemas import causes as names
from tests.models.made_facts import BEFORE, MS, PHASES_NS, QUIET, during, paused, slower

# The facts while each cause is at work, and what the alert says of it. A new cause brings one.
AT_WORK: dict[str, tuple[Facts, str]] = {
    "host_cpu_contention": (
        during(others_cpu_ratio=0.85, others_user_ratio=0.8),
        "CPUs: 10 % before, 85 % now",
    ),
    "host_cpu_steal": (during(cpu_steal_ratio=0.4), "0 % before, 40 % now"),
    "host_cpu_frequency": (during(cpu_frequency_hz=1.5e9), "3 GHz before, 1.5 GHz now"),
    "cpu_quota": (during(engine_throttled_ratio=0.5), "0 % of the time before, 50 % now"),
    "run_queue_delay": (during(engine_run_queue_share=0.6), "2 % of the time"),
    "interrupt_load": (during(cpu_irq_ratio=0.3), "interrupts take the host's CPUs: 0.2 %"),
    "memory_bandwidth": (during(engine_numa_local_ratio=0.3), "100% of it was near before, 30%"),
    "memory_pressure": (during(memory_pressure_ratio=0.5), "0% of the time before, 50% now"),
    "disk_pressure": (during(io_pressure_ratio=0.9), "5 % of the time before, 90 % now"),
    "network_delay": (during(network_link_ratio=0.95), "link is full: 5 % before, 95 % now"),
    "accelerator_clock": (during(xpu_core_clock_ratio=0.4), "100% of its highest clock before, 40"),
    "accelerator_contention": (during(xpu_others=4.0), "accelerator: 0 before, 4 now"),
    "accelerator_memory": (during(xpu_others_memory_ratio=0.08), "0 % of it before, 8 % now"),
    "pcie_contention": (during(xpu_pcie_ratio=0.4), "0.1 % of what it can carry before, 40 %"),
    "fabric_contention": (during(xpu_fabric_ratio=0.5), "3 % of what they can carry before, 50 %"),
    "slow_rank": (during(worker_spread_ratio=0.4), "2% less time than the slowest before, 40%"),
    "compilation": (paused(200, is_new=lambda _: True), "8 of 8 pauses, 200 ms each, come with"),
    "kv_exhaustion": (paused(0, count=0, preempting=30), "preempted in 30 of 200 batches"),
    "frontend_slower": (during(server_cores=0.98), "computes more: 0.2 CPUs before, 0.98 now"),
    "load": (
        replace(slower(schedule=4.0), during=BEFORE | {"waiting_requests": 100.0}),
        "requests queue up: 2 before, 100 now",
    ),
    "engine_pause": (paused(40), "8 of 200 batches were held up, by 40 ms each"),
}
RESOURCE_NAMES = sorted({cause.name for cause in RESOURCES})


def test_every_cause_of_the_table_is_tested_here_and_has_a_published_name() -> None:
    assert {cause.name for cause in CAUSES} == AT_WORK.keys()
    assert {*AT_WORK, *(one.name for one in PHASES)} <= names.CAUSES.keys()


@pytest.mark.parametrize("name", AT_WORK)
def test_each_cause_is_named_from_what_shows_it(name: str) -> None:
    facts, sentence = AT_WORK[name]
    found = attribute(facts)
    assert (found.cause, found.others) == (name, ())
    assert sentence in found.sentence
    assert found.next_step in {cause.next_step for cause in CAUSES if cause.name == name}
    assert found.confidence >= 0.5


@pytest.mark.parametrize("name", RESOURCE_NAMES)
def test_a_counter_that_was_not_known_before_accuses_nobody_and_is_told_as_missing(
    name: str,
) -> None:
    facts, _ = AT_WORK[name]
    # It has an accelerator, and ranks that wait for each other.
    found = attribute(replace(facts, before={"xpu_temperature_celsius": 50.0}))
    assert found.cause == UNKNOWN
    shown = {cause.name: cause.shows for cause in RESOURCES}
    assert found.missing[name] == shown[name]


@pytest.mark.parametrize("name", RESOURCE_NAMES)
def test_a_resource_that_got_better_is_no_cause(name: str) -> None:
    facts, _ = AT_WORK[name]
    found = attribute(replace(facts, before=facts.during, during=BEFORE))
    assert (found.cause, found.pressures.get(name, 0.0)) == (UNKNOWN, 0.0)


@pytest.mark.parametrize(
    "facts",
    [
        QUIET,
        during(others_cpu_ratio=0.15, memory_pressure_ratio=0.02, cpu_frequency_hz=2.9e9),
        during(engine_run_queue_share=0.1, io_pressure_ratio=0.12, xpu_core_clock_ratio=0.82),
        # Work that grew takes longer, and that is all.
        replace(
            QUIET,
            phases_during_ns={name: 2 * ns for name, ns in PHASES_NS.items()},
            expected_ratio=2.0,
        ),
        # An engine with more to do uses more of its own links.
        replace(during(xpu_fabric_ratio=0.11), expected_ratio=4.0),
        # Two long batches are no pattern.
        paused(40, count=2),
        # A queue that is short, or costs nothing.
        during(waiting_requests=8.0),
        during(waiting_requests=200.0),
        # The engine's share of the fabric and the clock of an idle device follow what it does.
        during(xpu_core_clock_ratio=0.2, xpu_utilization_ratio=0.1),
    ],
)
def test_noise_and_load_are_no_cause(facts: Facts) -> None:
    found = attribute(facts)
    assert (found.cause, found.confidence) == (UNKNOWN, 0.0)
    assert "capture" in found.next_step


def test_without_accelerators_none_of_their_counters_is_missing() -> None:
    host = {name: value for name, value in BEFORE.items() if not name.startswith("xpu_")}
    del host["engine_throttled_ratio"], host["worker_spread_ratio"]
    phases = {"forward": 10 * MS}
    alone = Facts(before=host, during=host, phases_before_ns=phases, phases_during_ns=phases)
    assert attribute(alone).missing == {"cpu_quota": "engine_throttled_ratio"}
    several = {"forward": 10 * MS, "communication_wait": 2 * MS}
    ranks = replace(alone, phases_before_ns=several, phases_during_ns=several)
    assert attribute(ranks).missing["slow_rank"] == "worker_spread_ratio"


def test_where_a_counter_names_the_cause_nothing_is_missing() -> None:
    facts, _ = AT_WORK["host_cpu_contention"]
    before = {"others_cpu_ratio": 0.1}
    assert attribute(replace(facts, before=before)).missing == {}


# What is only a consequence of something else.
CONSEQUENCES: list[tuple[Facts, str, tuple[str, ...]]] = [
    # More busy cores clock lower, and make threads wait.
    (
        during(others_cpu_ratio=0.85, others_user_ratio=0.8, cpu_frequency_hz=2.6e9),
        "host_cpu_contention",
        (),
    ),
    (
        during(others_cpu_ratio=0.5, others_user_ratio=0.45, engine_run_queue_share=0.7),
        "host_cpu_contention",
        (),
    ),
    (during(engine_throttled_ratio=0.4, engine_run_queue_share=0.7), "cpu_quota", ()),
    # A loss of clock that more busy cores do not explain.
    (
        during(others_cpu_ratio=0.85, others_user_ratio=0.8, cpu_frequency_hz=1.5e9),
        "host_cpu_contention",
        ("host_cpu_frequency",),
    ),
    # The kernel works for the disk; programs that compute beside it are another matter.
    (during(others_cpu_ratio=0.5, io_pressure_ratio=0.7), "disk_pressure", ()),
    (
        during(others_cpu_ratio=0.7, others_user_ratio=0.65, io_pressure_ratio=0.5),
        "host_cpu_contention",
        ("disk_pressure",),
    ),
    # What is swapped goes over the disk.
    (
        during(
            memory_pressure_ratio=0.2,
            io_pressure_ratio=0.6,
            swap_in_bytes_per_second=4e7,
            major_faults_per_second=9000.0,
        ),
        "memory_pressure",
        ("disk_pressure",),
    ),
    # Who copies is on the device, and needs memory; so does who computes.
    (
        during(xpu_fabric_ratio=0.5, xpu_others=1.0, xpu_others_memory_ratio=0.08),
        "fabric_contention",
        (),
    ),
    (
        during(xpu_pcie_ratio=0.2, xpu_others=1.0, xpu_others_memory_ratio=0.08),
        "pcie_contention",
        (),
    ),
    (
        replace(
            slower(forward=1.6),
            during=BEFORE | {"xpu_others": 1.0, "xpu_others_memory_ratio": 0.05},
        ),
        "accelerator_contention",
        (),
    ),
    # Who only takes memory does not compute.
    (during(xpu_others=1.0, xpu_others_memory_ratio=0.05), "accelerator_memory", ()),
    # One device holds up the others.
    (
        replace(
            during(xpu_core_clock_ratio=0.5, xpu_core_clock_spread_ratio=0.5),
            before=BEFORE | {"xpu_core_clock_spread_ratio": 0.02},
        ),
        "accelerator_clock",
        ("slow_rank",),
    ),
    (
        during(xpu_pcie_ratio=0.2, xpu_others=1.0, xpu_power_ratio=0.8),
        "pcie_contention",
        ("accelerator_contention",),
    ),
]


@pytest.mark.parametrize(("facts", "cause", "others"), CONSEQUENCES)
def test_consequences_are_not_named_and_second_faults_are(
    facts: Facts, cause: str, others: tuple[str, ...]
) -> None:
    found = attribute(facts)
    assert (found.cause, found.others) == (cause, others)


def test_rules_speak_of_causes_that_there_are() -> None:
    known = {cause.name for cause in CAUSES}
    for rule in RULES:
        assert rule.away in known
        assert rule.by <= known - {rule.away}
        assert rule.why


def test_rivals_lower_the_confidence() -> None:
    two = during(others_cpu_ratio=0.85, others_user_ratio=0.8, io_pressure_ratio=0.9)
    alone, _ = AT_WORK["host_cpu_contention"]
    assert attribute(two).margin < attribute(alone).margin
    assert attribute(two).confidence < attribute(alone).confidence


def test_a_resource_whose_phases_did_not_grow_comes_after_one_whose_did() -> None:
    changes = {"others_cpu_ratio": 0.5, "others_user_ratio": 0.45, "xpu_core_clock_ratio": 0.5}
    on_host = attribute(replace(slower(dispatch=9.0), during=BEFORE | changes))
    on_device = attribute(replace(slower(forward=2.0), during=BEFORE | changes))
    assert on_host.cause == "host_cpu_contention"
    assert on_device.cause == "accelerator_clock"


@pytest.mark.parametrize("one", PHASES, ids=lambda one: one.name)
def test_without_a_short_resource_the_phase_that_grew_is_named(one: object) -> None:
    assert isinstance(one, type(PHASES[0]))
    found = attribute(slower(**{one.phases[0]: 3.0}))
    assert (found.cause, found.next_step) == (one.name, one.next_step)
    assert f"the {one.phases[0]} phase takes" in found.sentence
    assert found.inflations[one.phases[0]] == 3.0


def test_the_phase_that_added_most_time_is_named_not_the_one_that_grew_most() -> None:
    assert attribute(slower(forward=1.5, schedule=3.0)).cause == "forward_slower"


def test_a_phase_is_named_with_less_confidence_than_a_resource() -> None:
    facts, _ = AT_WORK["host_cpu_contention"]
    assert attribute(slower(forward=3.0)).confidence < attribute(facts).confidence


def test_before_the_counters_are_in_a_phase_is_named_with_doubt() -> None:
    later = attribute(slower(forward=3.0))
    early = attribute(replace(slower(forward=3.0), during={}, partial=True))
    assert early.cause == later.cause == "forward_slower"
    assert early.confidence < later.confidence
    assert "not in yet" in early.sentence


def test_counters_of_a_time_that_began_earlier_name_a_cause_with_doubt() -> None:
    facts, _ = AT_WORK["host_cpu_contention"]
    early = attribute(replace(facts, partial=True))
    assert early.cause == "host_cpu_contention"
    assert early.confidence < attribute(facts).confidence


def test_another_phase_that_lost_much_time_is_listed_behind_the_resource() -> None:
    facts = replace(
        slower(forward=1.5, dispatch=5.0),
        during=BEFORE | {"xpu_core_clock_ratio": 0.5},
        pauses=Pauses(batches=50),
    )
    found = attribute(facts)
    assert (found.cause, found.others) == ("accelerator_clock", ("dispatch_slower",))
    # Of few batches, phases are known too badly; what is slow all over is one cause.
    assert attribute(replace(facts, pauses=Pauses(batches=5))).others == ()
    alike = {name: 2 * ns for name, ns in PHASES_NS.items()}
    contended = replace(
        facts, phases_during_ns=alike, during=AT_WORK["host_cpu_contention"][0].during
    )
    assert attribute(contended).others == ()


def test_two_phases_that_lost_much_time_are_both_listed() -> None:
    facts = replace(slower(forward=1.6, dispatch=5.0), pauses=Pauses(batches=50))
    found = attribute(facts)
    assert (found.cause, found.others) == ("forward_slower", ("dispatch_slower",))


@pytest.mark.parametrize(
    ("reason", "said", "step"),
    [
        ("sw_power_cap", "power limit", "raise its power limit"),
        ("hw_thermal", "too hot", "cooling"),
        ("user_clock", "locked", "unlock"),
    ],
)
def test_the_driver_tells_why_a_clock_is_low_and_then_less_is_enough(
    reason: str, said: str, step: str
) -> None:
    slight = during(xpu_core_clock_ratio=0.9)
    assert attribute(slight).cause == UNKNOWN
    found = attribute(replace(slight, throttle_reasons=(reason,)))  # type: ignore[arg-type]
    assert found.cause == "accelerator_clock"
    assert said in found.sentence
    assert step in found.next_step


def test_pauses_as_long_as_a_retransmission_while_handing_over_are_the_networks() -> None:
    found = attribute(paused(205, phase="dispatch"))
    assert found.cause == "network_delay"
    assert attribute(paused(40, phase="dispatch")).cause == "engine_pause"
    assert attribute(paused(205, phase="forward")).cause == "engine_pause"


def test_pauses_on_new_shapes_are_no_compilation_where_most_shapes_are_new() -> None:
    found = attribute(paused(200, changed=180, count=4, is_new=lambda _: True))
    assert found.cause == "engine_pause"


def test_where_most_batches_are_slow_nothing_pauses() -> None:
    facts = replace(paused(40, count=150), phases_during_ns=slower(forward=3.0).phases_during_ns)
    assert attribute(facts).cause == "forward_slower"


def test_who_computes_in_the_cores_process_holds_it_up() -> None:
    found = attribute(replace(slower(forward=1.4), during=BEFORE | {"core_busy_cores": 0.75}))
    assert found.cause == "engine_pause"
    assert "0.45 CPUs more" in found.sentence


def test_who_computes_in_the_cores_process_is_weighed_against_others() -> None:
    busy = {"others_cpu_ratio": 0.25, "others_user_ratio": 0.23, "engine_run_queue_share": 0.2}
    hog = replace(slower(forward=1.4), during=BEFORE | busy | {"core_busy_cores": 0.75})
    found = attribute(hog)
    assert (found.cause, found.others) == ("engine_pause", ("host_cpu_contention",))
    full = {"others_cpu_ratio": 0.95, "others_user_ratio": 0.9}
    found = attribute(replace(hog, during=hog.during | full))
    assert (found.cause, found.others) == ("host_cpu_contention", ("engine_pause",))


def test_a_server_that_computes_more_is_no_cause_where_batches_are_slow() -> None:
    facts, _ = AT_WORK["frontend_slower"]
    slow = replace(facts, phases_during_ns=slower(forward=1.6).phases_during_ns)
    assert attribute(slow).cause == "forward_slower"


def test_gaps_without_a_short_resource_are_pauses() -> None:
    found = attribute(replace(QUIET, by_gaps=True))
    assert (found.cause, found.basis) == ("engine_pause", "phase")
    assert attribute(replace(AT_WORK["cpu_quota"][0], by_gaps=True)).cause == "cpu_quota"


def on_cpu(facts: Facts) -> Facts:
    def host(counters: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in counters.items() if not name.startswith("xpu_")}

    return replace(facts, before=host(facts.before), during=host(facts.during))


def test_an_engine_that_computes_as_ever_and_is_slow_all_over_waits_for_memory() -> None:
    all_over = slower(**dict.fromkeys(PHASES_NS, 1.4))
    found = attribute(on_cpu(all_over))
    assert (found.cause, found.basis) == ("memory_bandwidth", "phase")
    assert "1.40 times as long" in found.sentence
    # Where one phase is slow, it computes less, or something else is the matter, it is not that.
    assert attribute(on_cpu(slower(forward=1.5))).cause == "forward_slower"
    waits = replace(all_over, during=BEFORE | {"engine_busy_cores": 0.8})
    assert attribute(on_cpu(waits)).cause == "forward_slower"
    # What takes next to nothing around the forward pass tells nothing.
    names = {name: ns for name, ns in PHASES_NS.items() if name != "forward"}
    small = {name: ns * 0.01 for name, ns in names.items()}
    hardly = replace(
        all_over,
        phases_before_ns={**all_over.phases_before_ns, **small},
        phases_during_ns={**all_over.phases_during_ns, **{n: 1.4 * v for n, v in small.items()}},
    )
    assert attribute(on_cpu(hardly)).cause == "forward_slower"
    slowed = replace(all_over, during=BEFORE | {"cpu_frequency_hz": 2e9})
    assert attribute(on_cpu(slowed)).cause == "host_cpu_frequency"
    assert "memory_bandwidth" not in attribute(on_cpu(slowed)).others


def test_swapping_counts_the_faults_of_the_engines_own_processes_where_they_are_known() -> None:
    swaps = {"swap_in_bytes_per_second": 2e7, "major_faults_per_second": 5000.0}
    own = {"engine_major_faults_per_second": 1000.0}
    before = BEFORE | {"engine_major_faults_per_second": 0.0}
    found = attribute(replace(QUIET, before=before, during=before | swaps | own))
    assert found.cause == "memory_pressure"
    assert found.pressures["memory_pressure"] == pytest.approx(0.1)
    assert "the host swaps, 20 MB/s" in found.sentence


def test_processes_that_were_always_on_the_accelerator_are_no_cause() -> None:
    before = BEFORE | {"xpu_others": 2.0}
    for now in (2.0, 0.0):
        facts = replace(QUIET, before=before, during=before | {"xpu_others": now})
        assert attribute(facts).cause == UNKNOWN


def test_confidence_grows_with_the_margin_and_counters_are_surest() -> None:
    for shares in TABLE.values():
        assert len(shares) == len(STEPS)
        assert list(shares) == sorted(shares)
        assert all(0 <= share < 1 for share in shares)
    assert confidence_of("counter", 1.0) > confidence_of("phase", 1.0)
    assert confidence_of("phase", 1.0) > confidence_of("none", 1.0) == 0.0


def test_a_gate_is_never_zero() -> None:
    assert all(cause.gate > 0 for cause in CAUSES)
    assert isinstance(attribute(Facts()), Attribution)
