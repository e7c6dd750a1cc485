"""The iteration-time model: T = max(host, device) + communication + queue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.fleet.batching import Batching
from simulator.fleet.draws import keys_of
from simulator.fleet.duration import PHASES, Duration, Durations, Strain, poisson
from simulator.fleet.effect import Effect
from simulator.fleet.parameters import Parameters, padded_sizes
from simulator.fleet.setting import Cost, Noise, Setting, Tokens, Traffic, Work

QUIET = Noise(sigma=0.0, drift_sigma=0.0, mixed_sigma=0.0, rank_sigma=0.0, engine_sigma=0.0)


OVER_NS = 500_000_000


def engine(
    *,
    host_ms: float = 2.0,
    device_ms: float = 20.0,
    overlap: bool = True,
    noise: Noise = QUIET,
    ranks: int = 1,
    link_ms: float = 0.0,
) -> Setting:
    return Setting(
        framework="test",
        version="1",
        model="none",
        cost=Cost(
            decode_ms=((1, device_ms), (64, device_ms)),
            schedule=Work(fixed_us=host_ms * 1e3),
            link_ms=link_ms,
        ),
        traffic=Traffic(
            concurrency=4, prompt_tokens=Tokens(median=64), output_tokens=Tokens(median=500)
        ),
        noise=noise,
        ranks=ranks,
        overlap=overlap,
        max_requests=8,
    )


def durations(settings: list[Setting], *effects: Effect, batches: int = 2) -> Duration:
    """Time a batch of each engine: as a rule the second, the first with nothing but decode."""
    keys = keys_of(1, [str(row) for row in range(len(settings))])
    parameters = Parameters(settings)
    # Device time of the CPU's engines is the host's; these have none either way.
    parameters.on_cpu[:] = False
    batching = Batching(parameters, keys)
    rows = np.arange(len(settings))
    batching.pass_time(rows, np.zeros(len(rows)))
    batch = [batching.schedule(rows) for _ in range(batches)][-1]
    strains = [
        Strain(number=number, effect=effect, hit=rows, until_ns=OVER_NS)
        for number, effect in enumerate(effects)
    ]
    return Durations(parameters, keys).of(batch, rows * 0, rows * 0, strains)


def milliseconds(setting: Setting, *effects: Effect) -> float:
    return float(durations([setting], *effects).total_ms[0])


def test_with_overlap_the_longer_path_counts() -> None:
    assert milliseconds(engine(host_ms=2, device_ms=20)) == pytest.approx(20)
    assert milliseconds(engine(host_ms=20, device_ms=2)) == pytest.approx(20)


def test_without_overlap_the_paths_add_up() -> None:
    assert milliseconds(engine(host_ms=2, device_ms=20, overlap=False)) == pytest.approx(22)


@pytest.mark.parametrize("noise", [QUIET, Noise()], ids=["quiet", "noisy"])
def test_a_slower_device_doubles_the_batches_of_a_device_bound_engine(noise: Noise) -> None:
    setting = engine(noise=noise)
    slower = milliseconds(setting, Effect(device_ratio=2.0))
    assert slower == pytest.approx(2 * milliseconds(setting))


def test_a_slower_device_leaves_a_host_bound_engine_alone() -> None:
    setting = engine(host_ms=20, device_ms=5)
    assert milliseconds(setting, Effect(device_ratio=2.0)) == milliseconds(setting)


def test_without_overlap_a_slower_device_adds_its_own_time() -> None:
    setting = engine(host_ms=20, device_ms=5, overlap=False)
    assert milliseconds(setting, Effect(device_ratio=2.0)) == pytest.approx(30)


def test_a_slower_host_shows_once_its_path_is_the_longer_one() -> None:
    setting = engine(host_ms=8, device_ms=20)
    assert milliseconds(setting, Effect(host_ratio=2.0)) == pytest.approx(20)
    assert milliseconds(setting, Effect(host_ratio=4.0)) == pytest.approx(32)


def test_the_device_of_an_engine_without_one_is_the_host() -> None:
    setting = replace(engine(overlap=False), device=None)
    parameters = Parameters([setting])
    assert parameters.on_cpu.tolist() == [True]


def test_communication_grows_with_the_ranks_and_with_their_link() -> None:
    one, two, four = (engine(ranks=ranks, link_ms=3.0) for ranks in (1, 2, 4))
    assert milliseconds(one) == pytest.approx(20)
    assert milliseconds(two) == pytest.approx(23)
    assert milliseconds(four) == pytest.approx(24.5)
    assert milliseconds(two, Effect(link_ratio=3.0)) == pytest.approx(29)


def test_one_slow_rank_makes_all_wait() -> None:
    found = durations([engine(ranks=4)], Effect(device_ratio=1.5, one_rank=True))
    assert found.total_ms[0] == pytest.approx(30)
    assert found.rank_ms[0].tolist() == pytest.approx([20, 20, 20, 30])
    waited = found.phases_ms[0, PHASES.index("communication_wait")]
    assert waited == pytest.approx(10)


def test_added_time_shows_in_its_phase() -> None:
    found = durations([engine()], Effect(added_ms=7.0, phase="sample"))
    assert found.total_ms[0] == pytest.approx(27)
    assert found.phases_ms[0, PHASES.index("sample")] == pytest.approx(7)


def test_phases_add_up_to_the_iteration() -> None:
    settings = [engine(noise=Noise()), engine(ranks=4, link_ms=2.0, noise=Noise(), overlap=False)]
    found = durations(settings, Effect(host_ratio=3.0), Effect(added_ms=1.0))
    assert found.phases_ms.sum(axis=1).tolist() == pytest.approx(found.total_ms.tolist())


def test_what_it_would_have_taken_is_under_the_same_noise() -> None:
    settings = [engine(noise=Noise(outlier_share=0.5))] * 20
    effects = Effect(device_ratio=1.7), Effect(added_ms=4.0)
    both = durations(settings, *effects)
    assert both.without_ms[0].tolist() == durations(settings, effects[1]).total_ms.tolist()
    only_first = durations(settings, effects[0]).total_ms
    assert both.without_ms[1].tolist() == pytest.approx(only_first.tolist())


def test_a_stopped_process_goes_on_when_the_fault_is_over() -> None:
    found = durations([engine()], Effect(stops=True))
    assert found.total_ms[0] == pytest.approx(OVER_NS / 1e6 + 20)
    assert found.without_ms[0].tolist() == pytest.approx([20])


def test_a_batch_with_prefill_costs_by_all_its_tokens_where_that_is_given() -> None:
    plain = engine(host_ms=0.0)
    cost = replace(plain.cost, mixed_tokens_ms=((1, 30.0), (201, 70.0)), mixed_request_ms=0.5)
    settings = [plain, replace(plain, cost=cost)]
    # The first batch: four prompts of 64 tokens, which lies beyond the last knot.
    first = durations(settings, batches=1).total_ms
    assert first.tolist() == pytest.approx([20, 30 + 255 / 5])
    # And the second, with nothing but decode.
    assert durations(settings).total_ms.tolist() == pytest.approx([20, 20])


def test_pauses_come_as_often_as_they_should() -> None:
    # 20 ms of work each.
    found = durations([engine()] * 4000, Effect(pauses_per_second=10.0, pause_ms=50.0))
    pauses = (found.total_ms - 20.0) / 50.0
    assert pauses.mean() == pytest.approx(0.2, rel=0.1)
    assert sorted({round(float(one), 6) for one in pauses})[:2] == [0.0, 1.0]


def test_many_pauses_have_the_right_mean() -> None:
    drawn = (np.arange(20_000) + 0.5) / 20_000
    assert poisson(np.full(20_000, 3.0), drawn).mean() == pytest.approx(3.0, rel=0.01)


def test_batches_are_padded_as_graphs_are_captured() -> None:
    sizes = np.array([1, 2, 3, 4, 5, 8, 9, 63, 64, 65])
    assert padded_sizes(sizes, np.full(10, 8)).tolist() == [1, 2, 4, 4, 8, 8, 16, 64, 64, 72]
    assert padded_sizes(sizes, np.zeros(10, np.int64)).tolist() == sizes.tolist()
