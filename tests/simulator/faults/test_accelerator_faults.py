"""Faults of accelerators: the commands for each vendor's tool, and the code of the workers.

No accelerator is at hand: scripts answer as the tools do, and a stand-in takes PyTorch's place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import pytest

from simulator.faults import Injector, Machine, Target, load
from simulator.faults.accelerators.tenant import Tenant, keep_busy
from simulator.injection.run import InjectionError, injected
from simulator.injection.steps import Run, StepError, Work
from tests.collectors.xpu.captured import sample

SETTINGS = ("accelerator_clock_lock", "accelerator_power_cap")
TENANTS = (
    "accelerator_bandwidth",
    "accelerator_gemm",
    "accelerator_memory_fragmentation",
    "fabric_copies",
    "pcie_squeeze",
)
# A GPU of 700 W that its operator has set to 650 W.
NVIDIA = {
    "clocks.max.graphics": "1980",
    "--query-supported-clocks": "1980\n1965\n795\n780\n300\n285",
    "clocks_event_reasons.applications": "Not Active",
    "power.limit": "650.00, 700.00, 200.00",
}


def watts(number: float) -> dict[str, Any]:
    return {"value": number, "unit": "W"}


def amd_metric(level: str = "AUTO") -> str:
    clock = {
        "gfx_0": {
            "clk": {"value": 132, "unit": "MHz"},
            "min_clk": {"value": 500, "unit": "MHz"},
            "max_clk": {"value": 2100, "unit": "MHz"},
            "clk_locked": "N/A",
        },
        "gfx_1": {"clk": "N/A", "min_clk": "N/A", "max_clk": "N/A"},
    }
    return json.dumps([{"gpu": 1, "clock": clock, "perf_level": f"AMDSMI_DEV_PERF_LEVEL_{level}"}])


ROCM_6 = {"max_power": watts(750), "min_power": watts(0), "socket_power": watts(700)}
ROCM_7 = {
    "ppt0": {
        "max_power_limit": watts(750),
        "min_power_limit": watts(0),
        "socket_power_limit": watts(700),
    },
    "ppt1": dict.fromkeys(("max_power_limit", "min_power_limit", "socket_power_limit"), "N/A"),
}
AMD_7 = {
    "metric": amd_metric(),
    "static": json.dumps({"gpu_data": [{"gpu": 1, "limit": ROCM_7}]}),
}
AMD_6 = AMD_7 | {"static": json.dumps([{"gpu": 1, "limit": ROCM_6}])}
ROCM = {
    "--showclkfrq": "\n".join(
        (
            "============= Supported clock frequencies =============",
            "GPU[1]\t\t: ",
            "GPU[1]\t\t: Supported mclk frequencies on GPU1",
            "GPU[1]\t\t: 0: 900Mhz *",
            "GPU[1]\t\t: 1: 1300Mhz",
            "GPU[1]\t\t: ",
            "GPU[1]\t\t: Supported sclk frequencies on GPU1",
            "GPU[1]\t\t: S: 30Mhz",
            "GPU[1]\t\t: 0: 500Mhz",
            "GPU[1]\t\t: 1: 142Mhz *",
            "GPU[1]\t\t: 2: 2100Mhz",
            "GPU[1]\t\t: ",
            "GPU[1]\t\t: Supported socclk frequencies on GPU1",
            "GPU[1]\t\t: 0: 2889Mhz",
            "============= Show Performance Level =============",
            "GPU[1]\t\t: Performance Level: auto",
        )
    ),
    "--showmaxpower": "GPU[1]\t\t: Max Graphics Package Power (W): 290.0",
}
ALL = {"nvidia-smi": NVIDIA, "amd-smi": AMD_7, "rocm-smi": ROCM}


class Tools:
    """A folder of scripts that answer queries, and log what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()

    def add(self, name: str, answers: dict[str, str], *, fails: Sequence[str] = ()) -> None:
        """Write one that answers where its arguments contain a text, and fails on others."""
        cases = [f"*{shell(text)}*) echo no such luck >&2; exit 9;;" for text in fails]
        for number, (text, answer) in enumerate(answers.items()):
            (self.folder / f"{name}.{number}").write_text(f"{answer}\n")
            cases.append(f"*{shell(text)}*) cat '{self.folder}/{name}.{number}';;")
        script = self.folder / name
        script.write_text(
            f"#!/bin/sh\necho {name} \"$*\" >> '{self.log}'\n"
            'case "$*" in\n' + "\n".join(cases) + "\nesac\n"
        )
        script.chmod(0o755)

    def machine(self, modules: Sequence[str] = ("torch",)) -> Machine:
        return Machine(uid=0, which=self.which, has_module=lambda name: name in modules)

    def which(self, name: str) -> str | None:
        path = self.folder / name
        return str(path) if path.exists() and name in ALL else None

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


def shell(text: str) -> str:
    return f"'{text}'"


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def plan(name: str, intensity: float, tools: Tools, *devices: int) -> list[Run]:
    steps = load(name).plan(intensity, Target(devices=devices), tools.machine())
    runs = [step for step in steps if isinstance(step, Run)]
    assert len(runs) == len(steps)
    return runs


def commands(run: Run) -> tuple[str, str]:
    assert Path(run.argv[0]).is_absolute()
    assert run.argv[0] == run.undo_argv[0]
    return " ".join(run.argv[1:]), " ".join(run.undo_argv[1:])


# Clocks.


def test_an_nvidia_clock_is_locked_up_to_the_nearest_that_there_is(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA)
    [run] = plan("accelerator_clock_lock", 0.4, tools, 3)
    assert commands(run) == ("-i 3 -eow -lgc 285,795", "-i 3 -rgc")
    [run] = plan("accelerator_clock_lock", 0.05, tools, 3)
    assert commands(run)[0] == "-i 3 -eow -lgc 285,285"


def test_an_nvidia_gpu_without_a_list_of_clocks_takes_the_share_itself(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA, fails=["--query-supported-clocks"])
    [run] = plan("accelerator_clock_lock", 0.4, tools, 0)
    assert commands(run)[0] == "-i 0 -eow -lgc 792,792"


@pytest.mark.parametrize("column", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_a_lock_that_is_seen_to_hold_is_an_obstacle(tools: Tools, column: str) -> None:
    held = {f"{column}.applications": "Active"}
    older = ["clocks_event_reasons"] if column == "clocks_throttle_reasons" else []
    tools.add("nvidia-smi", NVIDIA | held, fails=older)
    fault = load("accelerator_clock_lock")
    [text] = fault.obstacles(Target(), tools.machine())
    assert "'nvidia-smi -i 0 -rgc'" in text
    with pytest.raises(StepError, match="could not be restored"):
        fault.plan(0.4, Target(), tools.machine())


@pytest.mark.parametrize("level", ["MANUAL", "DETERMINISM", "LOW"])
def test_a_performance_level_of_the_operator_is_an_obstacle(tools: Tools, level: str) -> None:
    target = Target(devices=(1,))
    fault = load("accelerator_clock_lock")
    tools.add("rocm-smi", {"--showclkfrq": ROCM["--showclkfrq"].replace("auto", level.lower())})
    [text] = fault.obstacles(target, tools.machine())
    assert "'rocm-smi -d 1 --setperflevel auto'" in text
    tools.add("amd-smi", AMD_7 | {"metric": amd_metric(level)})
    [text] = fault.obstacles(target, tools.machine())
    assert "'amd-smi set -g 1 --perf-level AUTO'" in text


def test_an_amd_clock_is_held_with_the_newer_tool_where_both_are_there(tools: Tools) -> None:
    tools.add("rocm-smi", ROCM)
    [run] = plan("accelerator_clock_lock", 0.4, tools, 1)
    change = "-d 1 --loglevel error"
    assert commands(run) == (f"{change} --setperfdeterminism 840", f"{change} --setperflevel auto")
    tools.add("amd-smi", AMD_7)
    [run] = plan("accelerator_clock_lock", 0.4, tools, 1)
    assert commands(run) == ("set -g 1 --perf-determinism 840", "set -g 1 --perf-level AUTO")


@pytest.mark.parametrize("name", ["rocm-smi", "amd-smi"])
def test_an_amd_clock_is_never_below_the_range(tools: Tools, name: str) -> None:
    tools.add(name, ALL[name])
    [run] = plan("accelerator_clock_lock", 0.05, tools, 1)
    assert run.argv[-1] == "500"


def test_a_captured_answer_of_an_amd_gpu_is_understood(tools: Tools) -> None:
    tools.add("amd-smi", {"metric": sample("amd_amd-smi-metric_rx6600_list.json")})
    [run] = plan("accelerator_clock_lock", 0.4, tools, 0)
    assert run.argv[-1] == "1100"


# Power.


def test_undoing_an_nvidia_cap_sets_the_limit_that_was_not_the_default(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA)
    [run] = plan("accelerator_power_cap", 0.45, tools, 2)
    assert commands(run) == ("-i 2 -eow -pl 315", "-i 2 -pl 650.00")


def test_a_cap_is_not_below_what_the_device_takes(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA | {"power.limit": "650.00, 700.00, 200.50"})
    [run] = plan("accelerator_power_cap", 0.05, tools, 0)
    assert commands(run)[0] == "-i 0 -eow -pl 201"


def test_a_cap_never_raises_the_limit(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA)
    with pytest.raises(StepError, match=r"650\.00 W in force.*lower intensity"):
        plan("accelerator_power_cap", 0.95, tools, 0)


@pytest.mark.parametrize(("static", "sensor"), [(AMD_6, ""), (AMD_7, "ppt0 ")])
def test_undoing_an_amd_cap_sets_the_limit_that_was(
    tools: Tools, static: dict[str, str], sensor: str
) -> None:
    tools.add("amd-smi", static)
    [run] = plan("accelerator_power_cap", 0.6, tools, 1)
    command = f"set -g 1 --power-cap {sensor}"
    assert commands(run) == (f"{command}450", f"{command}700")


def test_undoing_a_cap_with_the_older_tool_answers_its_question(tools: Tools) -> None:
    tools.add("rocm-smi", ROCM)
    [run] = plan("accelerator_power_cap", 0.5, tools, 1)
    change = "-d 1 --loglevel error --setpoweroverdrive"
    assert commands(run) == (f"{change} 145", f"{change} 290 --autorespond y")


@pytest.mark.parametrize("name", ALL)
def test_a_limit_that_changed_since_the_plan_is_not_overwritten(tools: Tools, name: str) -> None:
    tools.add(name, ALL[name])
    [run] = plan("accelerator_power_cap", 0.5, tools, 1)
    assert run.prepare() == run
    tools.add(name, {key: text.replace("7", "6") for key, text in ALL[name].items()})
    if name == "rocm-smi":
        tools.add(name, {"--showmaxpower": ROCM["--showmaxpower"].replace("290", "200")})
    with pytest.raises(StepError, match="run it again"):
        run.prepare()


# Both settings.


@pytest.mark.parametrize("fault", SETTINGS)
@pytest.mark.parametrize("name", ALL)
def test_planning_only_asks(tools: Tools, fault: str, name: str) -> None:
    tools.add(name, ALL[name])
    runs = plan(fault, 0.5, tools, 1)
    assert tools.calls()
    for call in tools.calls():
        assert not {"-lgc", "-rgc", "-pl", "set"} & set(call.split())
        assert "--set" not in call
    [run] = runs
    assert run.claims() == plan(fault, 0.5, tools, 1)[0].claims() != ()


@pytest.mark.parametrize("fault", SETTINGS)
def test_each_device_gets_its_own_step(tools: Tools, fault: str) -> None:
    tools.add("nvidia-smi", NVIDIA)
    assert [run.argv[2] for run in plan(fault, 0.5, tools, 0, 5)] == ["0", "5"]


@pytest.mark.parametrize("fault", SETTINGS)
@pytest.mark.parametrize("name", ALL)
def test_a_refused_query_is_an_obstacle_that_says_what_to_do(
    tools: Tools, fault: str, name: str
) -> None:
    tools.add(name, {}, fails=[" "])
    [text] = load(fault).obstacles(Target(devices=(1,)), tools.machine())
    assert "no such luck" in text
    assert "check the driver" in text


@pytest.mark.parametrize("fault", SETTINGS)
@pytest.mark.parametrize("answer", ["", "[N/A], [N/A], [N/A]", "[]", "{}", '[{"gpu": 1}]', "\x00"])
@pytest.mark.parametrize("name", ALL)
def test_a_device_that_tells_nothing_is_an_obstacle(
    tools: Tools, fault: str, answer: str, name: str
) -> None:
    tools.add(name, {" ": answer})
    [text] = load(fault).obstacles(Target(devices=(1,)), tools.machine())
    assert "choose another --device" in text


@pytest.mark.parametrize("fault", SETTINGS)
def test_without_a_tool_the_plan_says_so(tools: Tools, fault: str) -> None:
    [text] = load(fault).obstacles(Target(), tools.machine())
    assert "nvidia-smi or amd-smi or rocm-smi" in text
    with pytest.raises(StepError, match="run it on a machine with such an accelerator"):
        load(fault).plan(0.5, Target(), tools.machine())


@pytest.mark.process
def test_the_limit_comes_back_when_the_keeper_is_killed(tools: Tools, tmp_path: Path) -> None:
    tools.add("nvidia-smi", NVIDIA)

    def kill_the_keeper() -> None:
        folder = tmp_path / "journals"
        with injected("accelerator_power_cap", machine=tools.machine(), folder=folder) as running:
            assert "-pl 315" in tools.calls()[-1]
            os.kill(running.keeper_pid, signal.SIGKILL)

    with pytest.raises(InjectionError):
        kill_the_keeper()
    assert "-pl 650.00" in tools.calls()[-1]


# Processes on the device.


class FakeEvent:
    def __init__(self, *, blocking: bool) -> None:
        assert blocking
        self.recorded = False

    def record(self, stream: FakeStream) -> None:
        assert isinstance(stream, FakeStream)
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


class FakeStream:
    def __init__(self, device: int) -> None:
        self.device = device


class FakeTensor:
    def __init__(self, shape: tuple[int, ...], device: str) -> None:
        self.shape = shape
        self.device = device

    def __len__(self) -> int:
        return self.shape[0]

    def copy_(self, other: FakeTensor, *, non_blocking: bool) -> FakeTensor:
        assert non_blocking
        assert self.shape == other.shape
        FakeTorch.copies.append((other.device, self.device))
        return self


class FakeCuda:
    Event = FakeEvent
    Stream = FakeStream
    free = 4 * 2**30
    peers = True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))

    def mem_get_info(self, device: int) -> tuple[int, int]:
        assert device < self.device_count()
        return FakeTorch.cuda.free, 80 * 2**30

    def current_stream(self, device: int) -> FakeStream:
        return FakeStream(device)

    def stream(self, stream: FakeStream) -> AbstractContextManager[FakeStream]:
        return nullcontext(stream)

    def can_device_access_peer(self, source: int, target: int) -> bool:
        assert source != target
        return self.peers


class FakeTorch:
    """The calls of PyTorch that the workers make, with their parameters."""

    uint8 = "uint8"
    float16 = "float16"
    cuda = FakeCuda()
    copies: ClassVar[list[tuple[str, str]]] = []
    living: ClassVar[WeakSet[FakeTensor]] = WeakSet()
    most_bytes = 0
    products = 0
    full = False

    def empty(
        self, size: int, *, dtype: str, device: str = "cpu", pin_memory: bool = False
    ) -> FakeTensor:
        if FakeTorch.full:
            raise RuntimeError("CUDA error: out of memory")
        assert dtype == "uint8"
        made = FakeTensor((size,), "pinned" if pin_memory else device)
        FakeTorch.living.add(made)
        FakeTorch.most_bytes = max(FakeTorch.most_bytes, sum(map(len, FakeTorch.living)))
        return made

    def rand(self, shape: tuple[int, int], *, device: str, dtype: str) -> FakeTensor:
        assert dtype == "float16"
        assert shape[0] >= 1024
        return FakeTensor(shape, device)

    def empty_like(self, other: FakeTensor) -> FakeTensor:
        return FakeTensor(other.shape, other.device)

    def matmul(self, first: FakeTensor, second: FakeTensor, *, out: FakeTensor) -> None:
        assert first.shape == second.shape == out.shape
        FakeTorch.products += 1


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> type[FakeTorch]:
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
    ):
        monkeypatch.setenv(name, "9")
    monkeypatch.setitem(sys.modules, "torch", FakeTorch())
    monkeypatch.setattr(FakeTorch, "cuda", FakeCuda())
    values = {"copies": [], "living": WeakSet(), "most_bytes": 0, "products": 0, "full": False}
    for name, value in values.items():
        monkeypatch.setattr(FakeTorch, name, value)
    return FakeTorch


def turns(number: int) -> Callable[[], bool]:
    left = iter(range(number))
    return lambda: next(left, None) is not None


def work(name: str, *devices: int, share: float = 1.0, rounds: int = 6) -> None:
    """Run a worker as its plan would have it."""
    steps = load(name).plan(share, Target(devices=devices), Machine())
    for step in steps:
        assert isinstance(step, Work)
        load(name).work(step.options, turns(rounds))


@pytest.mark.parametrize("name", TENANTS)
def test_a_worker_sees_the_devices_that_it_was_given(torch: type[FakeTorch], name: str) -> None:
    work(name, 4, 6)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert os.environ["CUDA_VISIBLE_DEVICES"] in ("6", "4,6")
    assert "HIP_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("name", TENANTS)
def test_there_are_as_many_processes_as_devices_unless_they_work_together(name: str) -> None:
    fault = load(name)
    assert isinstance(fault, Tenant)
    steps = fault.plan(0.5, Target(devices=(1, 0, 1)), Machine())
    options = [step.options["devices"] for step in steps if isinstance(step, Work)]
    assert options == ([[0, 1]] if fault.together > 1 else [[0], [1]])


def test_products_are_made(torch: type[FakeTorch]) -> None:
    work("accelerator_gemm", 0)
    assert torch.products >= 8


def test_copies_stay_on_the_device(torch: type[FakeTorch]) -> None:
    work("accelerator_bandwidth", 0)
    assert set(torch.copies) == {("cuda:0", "cuda:0")}


def test_copies_over_pcie_go_both_ways_through_pinned_memory(torch: type[FakeTorch]) -> None:
    work("pcie_squeeze", 0)
    assert set(torch.copies) == {("pinned", "cuda:0"), ("cuda:0", "pinned")}


def test_copies_over_the_fabric_go_around(torch: type[FakeTorch]) -> None:
    work("fabric_copies", 0, 1)
    assert set(torch.copies) == {("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")}


def test_devices_that_do_not_reach_each_other_are_told(
    torch: type[FakeTorch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCuda, "peers", False)
    with pytest.raises(RuntimeError, match="choose pcie_squeeze"):
        work("fabric_copies", 0, 1)


def test_the_fabric_needs_two_devices(tools: Tools) -> None:
    tools.add("nvidia-smi", NVIDIA)
    for devices, obstacles in (((0,), 1), ((0, 0), 1), ((0, 1), 0)):
        found = load("fabric_copies").obstacles(Target(devices=devices), tools.machine())
        assert len(found) == obstacles


def test_pieces_of_memory_stay_below_the_ceiling(torch: type[FakeTorch]) -> None:
    work("accelerator_memory_fragmentation", 0, share=0.01, rounds=40)
    assert os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    assert 0 < torch.most_bytes <= 0.01 * 4 * 2**30


def test_memory_that_others_need_is_left_to_them(
    torch: type[FakeTorch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCuda, "free", 512 * 2**20)
    work("accelerator_memory_fragmentation", 0)
    assert torch.most_bytes == 0


def test_a_device_that_is_full_does_not_end_the_worker(torch: type[FakeTorch]) -> None:
    torch.full = True
    work("accelerator_memory_fragmentation", 0)


@pytest.mark.parametrize("name", [one for one in TENANTS if "fragmentation" not in one])
def test_a_device_without_memory_is_told(
    torch: type[FakeTorch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(FakeCuda, "free", 2**20)
    with pytest.raises(RuntimeError, match="leave more to us"):
        work(name, 0, 1)


@pytest.mark.parametrize("name", TENANTS)
def test_too_few_devices_are_told(
    torch: type[FakeTorch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(FakeCuda, "is_available", lambda _: False)
    with pytest.raises(RuntimeError, match="install a build of it for this driver"):
        work(name, 0, 1)


def test_the_rest_makes_up_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def burst() -> None:
        now[0] += 0.03

    monkeypatch.setattr("simulator.faults.accelerators.tenant.time.monotonic", lambda: now[0])
    monkeypatch.setattr("simulator.faults.accelerators.tenant.time.sleep", sleep)
    keep_busy(0.25, lambda: now[0] < 1.15, burst)
    assert sum(slept) == pytest.approx(0.75 * now[0], rel=0.02)
    assert max(slept) <= 0.1


# In the simulation.


@pytest.mark.parametrize("name", [*SETTINGS, *TENANTS])
def test_a_harder_fault_costs_more(name: str) -> None:
    fault: Injector = load(name)
    effects = [fault.effect(fault.levels.of(severity)) for severity in ("light", "medium", "heavy")]
    costs = [effect.device_ratio * effect.link_ratio for effect in effects]
    assert 1 < costs[0] < costs[1] < costs[2]
    assert all(effect.device for effect in effects)


def test_the_lowest_clock_costs_what_was_measured() -> None:
    effect = load("accelerator_clock_lock").effect(210 / 1410)
    assert effect.device_ratio == pytest.approx(3.59)
