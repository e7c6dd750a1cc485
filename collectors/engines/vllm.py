"""vLLM's V1 engine, 0.8 and later: the frames, slots and titles that were seen or checked.

The simulator's replica takes the same titles and frames on purpose, so it is found here too.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from collectors.discovery import (
    EngineProcess,
    Process,
    ProcessTable,
    RankProcess,
    listening_ports,
)
from collectors.engines.base import Framework
from schemas.records import Workload

CORE = "vllm/v1/engine/core.py"
SCHEDULER = "vllm/v1/core/sched/scheduler.py"
MULTIPROC = "vllm/v1/executor/multiproc_executor.py"
UNIPROC = "vllm/v1/executor/uniproc_executor.py"
SHM = "vllm/distributed/device_communicators/shm_broadcast.py"
RUNNER = "vllm/v1/worker/gpu_model_runner.py"
RUNNER_V2 = "vllm/v1/worker/gpu/model_runner.py"

CORE_TITLE = re.compile(r"^VLLM::EngineCore(?:_DP(?P<data_parallel_rank>\d+))?$")
WORKER_TITLE = re.compile(r"^VLLM::Worker")

PHASES = (
    ("schedule", SCHEDULER, "Scheduler.schedule"),
    ("schedule", SCHEDULER, "Scheduler.get_grammar_bitmask"),
    ("dispatch", MULTIPROC, "MultiprocExecutor.execute_model"),
    ("dispatch", MULTIPROC, "MultiprocExecutor.sample_tokens"),
    ("dispatch", MULTIPROC, "MultiprocExecutor.collective_rpc"),
    ("dispatch", SHM, "MessageQueue.enqueue"),
    # From the core, waiting for the worker's answer is the forward pass and the sampling.
    ("forward", MULTIPROC, "FutureWrapper.result"),
    ("forward", MULTIPROC, "MultiprocExecutor.collective_rpc.<locals>.get_response"),
    ("forward", SHM, "MessageQueue.dequeue"),
    ("forward", UNIPROC, "AsyncOutputFuture.result"),
    ("postprocess", SCHEDULER, "Scheduler.update_from_output"),
    ("idle", CORE, "EngineCoreProc._process_input_queue"),
    ("communication_wait", CORE, "DPEngineCoreProc._has_global_unfinished_reqs"),
    # One process for core and worker (tensor parallel size 1 on a GPU): the runner's own frames.
    ("prepare", RUNNER, "GPUModelRunner._update_states"),
    ("prepare", RUNNER, "GPUModelRunner._prepare_inputs"),
    ("prepare", RUNNER, "GPUModelRunner._preprocess"),
    ("prepare", RUNNER_V2, "GPUModelRunner.prepare_inputs"),
    ("forward", RUNNER, "GPUModelRunner._model_forward"),
    ("sample", RUNNER, "GPUModelRunner.sample_tokens"),
    ("sample", RUNNER, "GPUModelRunner._sample"),
    ("sample", RUNNER_V2, "GPUModelRunner.sample_tokens"),
)


class Vllm(Framework):
    """Read vLLM's scheduler counter and the scheduler output of each step."""

    iteration_count_metric: ClassVar[str | None] = "vllm:iteration_tokens_total_count"
    iteration_tokens_metric: ClassVar[str | None] = "vllm:iteration_tokens_total_sum"
    token_latency_metrics: ClassVar[tuple[str, ...]] = (
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    )
    waiting_metric: ClassVar[str | None] = "vllm:num_requests_waiting"
    running_metric: ClassVar[str | None] = "vllm:num_requests_running"

    def claim(self, process: Process, table: ProcessTable) -> EngineProcess | None:
        """Claim a process titled ``VLLM::EngineCore``, with its server and workers."""
        match = CORE_TITLE.match(process.title)
        if match is None:
            return None
        api_server = next(
            (parent for parent in table.ancestors(process) if self.is_api_server(parent)), None
        )
        port = self.port(api_server) if api_server is not None else None
        name = str(port) if port is not None else f"pid{process.pid}"
        if match["data_parallel_rank"] is not None:
            name += f"/dp{match['data_parallel_rank']}"
        return EngineProcess(
            framework=self.name(),
            name=name,
            core=process,
            api_server=api_server,
            ranks=tuple(
                RankProcess(process=child, rank=rank, label=child.title)
                for rank, child in enumerate(
                    (
                        child
                        for child in table.children.get(process.pid, [])
                        if WORKER_TITLE.match(child.title)
                    ),
                    start=1,
                )
            ),
            port=port,
            model=self.model(api_server) if api_server is not None else None,
        )

    def is_api_server(self, process: Process) -> bool:
        """Tell the server that users talk to by its command line."""
        line = " ".join(process.arguments)
        return re.search(r"(^|/| )vllm serve( |$)|vllm\.entrypoints\.", line) is not None

    def port(self, api_server: Process) -> int | None:
        """Give the port of the HTTP server: the one asked for, else one that it listens on."""
        wanted = api_server.option("--port")
        if wanted is not None and wanted.isdigit() and wanted != "0":
            return int(wanted)
        listening = listening_ports(api_server.pid)
        if 8000 in listening or not listening:
            return 8000 if wanted != "0" else None
        return listening[0]

    def model(self, api_server: Process) -> str | None:
        """Give the model's name from the command line."""
        named = api_server.option("--served-model-name") or api_server.option("--model")
        if named is not None:
            return named
        arguments = api_server.words
        if "serve" in arguments:
            position = arguments.index("serve") + 1
            if position < len(arguments) and not arguments[position].startswith("-"):
                return arguments[position]
        return None

    def version(self, engine: EngineProcess) -> str | None:
        """Read it from the metadata beside the libraries that the engine has mapped."""
        root = Path(f"/proc/{engine.core.pid}")
        try:
            maps = (root / "maps").read_text(errors="replace")
            library = re.search(r"(/\S+/(?:site|dist)-packages)/", maps)
            if library is None:
                return None
            # Through the process's own root, which differs from ours in a container.
            site = root / "root" / library[1].lstrip("/")
            names = sorted(path.name for path in site.glob("vllm-*.dist-info"))
        except OSError:
            return None
        return names[0].removeprefix("vllm-").removesuffix(".dist-info") if names else None

    def sampler_spec(self) -> dict[str, Any]:
        """Point at ``scheduler.current_step``, else at the set that each schedule() renews."""
        return {
            "root": [{"file": CORE, "function": "EngineCoreProc.run_busy_loop"}],
            "step": [
                {"file": CORE, "function": "EngineCore.step"},
                {"file": CORE, "function": "EngineCore.step_with_batch_queue"},
            ],
            "counter": [
                {"path": "scheduler.current_step", "kind": "int"},
                {"path": "scheduler.finished_req_ids", "kind": "pointer"},
            ],
            "batch": {
                "local": "scheduler_output",
                # With overlapped scheduling the launched batch waits here.
                "queued": "batch_queue",
                "fields": [
                    {
                        "name": "scheduled_tokens",
                        "path": "total_num_scheduled_tokens",
                        "reduce": "int",
                    },
                    {"name": "requests", "path": "num_scheduled_tokens", "reduce": "len"},
                    {"name": "token_sum", "path": "num_scheduled_tokens", "reduce": "sum"},
                    {
                        "name": "prefill_tokens",
                        "path": "num_scheduled_tokens",
                        "reduce": "sum_above_one",
                    },
                    {
                        "name": "decode_requests",
                        "path": "num_scheduled_tokens",
                        "reduce": "count_one",
                    },
                    {
                        "name": "computed_cached",
                        "path": "scheduled_cached_reqs.num_computed_tokens",
                        "reduce": "sum",
                    },
                    {
                        "name": "computed_new",
                        "path": "scheduled_new_reqs[].num_computed_tokens",
                        "reduce": "sum",
                    },
                ],
            },
            "gauges": [
                {"name": "waiting_requests", "path": "scheduler.waiting", "reduce": "len"},
                {"name": "running_requests", "path": "scheduler.running", "reduce": "len"},
            ],
            "phases": [
                {"phase": phase, "file": file, "function": function}
                for phase, file, function in PHASES
            ],
        }

    def workload(self, fields: dict[str, int]) -> Workload | None:
        """Check that the requests' tokens add up to the step's total, in both ways."""
        total, token_sum = fields.get("scheduled_tokens"), fields.get("token_sum")
        requests = fields.get("requests")
        if total is None or total != token_sum or requests is None or not 0 <= requests <= total:
            return None
        prefill, decode = fields.get("prefill_tokens"), fields.get("decode_requests")
        if prefill is not None and decode is not None and prefill + decode != total:
            return None
        computed = [fields.get("computed_cached"), fields.get("computed_new")]
        known = [number for number in computed if number is not None]
        return Workload(
            requests=requests,
            scheduled_tokens=total,
            prefill_tokens=prefill,
            decode_requests=decode,
            kv_tokens=sum(known) + total if len(known) == len(computed) else None,
            waiting_requests=fields.get("waiting_requests"),
            running_requests=fields.get("running_requests"),
        )
