"""An engine that says its iterations: its log as vLLM 0.32 wrote it, and a folder like /proc."""

from __future__ import annotations

from pathlib import Path

from collectors.discovery import EngineProcess, Process

SERVER, CORE = 25038, 25195

# Written by vLLM 0.32 (CPU build) with --enable-logging-iteration-details.
STARTED = b"INFO:     Application startup complete.\n"
PREFILL = (
    b"(APIServer pid=25038) INFO 11-20 14:12:26 [loggers.py:199] Engine 000: Iteration(0): "
    b"1 context requests, 128 context tokens, 0 generation requests, 0 generation tokens, "
    b"iteration elapsed time: 91.17 ms, CPU KV cache usage: 0.0%\n"
)
MIXED = (
    b"(APIServer pid=25038) INFO 11-20 14:12:27 [loggers.py:199] Engine 000: Iteration(1): "
    b"7 context requests, 1952 context tokens, 1 generation requests, 1 generation tokens, "
    b"iteration elapsed time: 998.25 ms, CPU KV cache usage: 0.7%\n"
)
DECODE = (
    b"(APIServer pid=25038) INFO 11-20 14:12:27 [loggers.py:199] Engine 000: Iteration(2): "
    b"0 context requests, 0 context tokens, 8 generation requests, 8 generation tokens, "
    b"iteration elapsed time: 20.80 ms, CPU KV cache usage: 0.9%\n"
)
# As the change that brought the line shows it (vllm-project/vllm#31193).
BY_THE_CORE = (
    b"(EngineCore_DP0 pid=25195) INFO 12-22 21:44:40 [core.py:349] Iteration(515): "
    b"0 context requests, 0 context tokens, 20 generation requests, 20 generation tokens, "
    b"iteration elapsed time: 10.99 ms\n"
)


def decode(index: int, elapsed_ms: float = 10.0, **changes: bytes) -> bytes:
    """Give the line of a decode iteration, with pieces of it replaced."""
    line = DECODE.replace(b"Iteration(2)", b"Iteration(%d)" % index)
    line = line.replace(b"20.80 ms", b"%.2f ms" % elapsed_ms)
    for old, new in changes.items():
        assert old.encode() in line
        line = line.replace(old.encode(), new)
    return line


class FakeEngine:
    """Processes that print into a file, and a folder that shows them as /proc does."""

    def __init__(self, folder: Path, name: str = "8000") -> None:
        self.proc = folder / "proc"
        self.log = folder / "engine.log"
        self.log.write_bytes(STARTED)
        for pid in (SERVER, CORE):
            (self.proc / str(pid) / "fd").mkdir(parents=True)
            (self.proc / str(pid) / "status").write_text(f"Name:\tx\nNSpid:\t{pid}\n")
            self.print_into(self.log, pid)
        self.engine = EngineProcess(
            framework="vllm",
            name=name,
            core=Process(pid=CORE, parent_pid=SERVER, start_ticks=1, arguments=("VLLM",)),
            api_server=Process(pid=SERVER, parent_pid=1, start_ticks=1, arguments=("vllm",)),
            port=8000,
        )

    def print_into(self, path: Path, pid: int) -> None:
        for number in ("1", "2"):
            link = self.proc / str(pid) / "fd" / number
            link.unlink(missing_ok=True)
            link.symlink_to(path)

    def write(self, *lines: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(b"".join(lines))
