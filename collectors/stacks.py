"""The native sampler as the rest of the agent sees it, and what to do without it."""

import json
import os
from typing import Any, Protocol

from collectors.permissions import explain_refusal

HOW_TO_GET_IT = (
    "build it with 'make native' (needs Rust from https://rustup.rs) or install the "
    "latencyprism-native wheel into this environment"
)
WHAT_IS_LOST = (
    "single batches, their workload and phases: engines are watched by interval means of their "
    "/metrics only"
)


class SamplerUnavailable(RuntimeError):
    """The native sampler is not installed."""


class AttachRefused(RuntimeError):
    """The sampler is there and cannot read this process; the text says what to do."""


class NotServing(AttachRefused):
    """The process can be read and does not run the engine's loop: mostly, it still starts."""


class Sampler(Protocol):
    """The part of ``latencyprism_native.Sampler`` that the agent uses."""

    def poll(self, timeout_seconds: float) -> bytes:
        """Give packed events, or nothing after the timeout."""
        ...

    def set_rates(self, poll_hz: int, stack_hz: int) -> None:
        """Change how often the engine is read."""
        ...

    def stats(self) -> dict[str, int]:
        """Give the sampler's own counts."""
        ...

    def last_error(self) -> str | None:
        """Say what went wrong last."""
        ...

    def stop(self) -> None:
        """Stop reading; may be called twice."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the reading goes on."""
        ...


def native_version() -> str | None:
    """Give the version of the native sampler, or None where it is not installed."""
    try:
        import latencyprism_native
    except ImportError:
        return None
    return latencyprism_native.__version__


def attach(
    pid: int, spec: dict[str, Any], *, poll_hz: int, stack_hz: int, realtime: bool
) -> Sampler:
    """Attach to a process and start reading it.

    Raises:
        SamplerUnavailable: The extension is not installed.

        AttachRefused: It is, and this process cannot be read now.

        NotServing: It is, and this process does not run the engine's loop yet.

        ProcessLookupError: The process ended.
    """
    # py-spy resolves a backtrace for each failed read when this is set: 1-2 s each.
    os.environ.pop("RUST_BACKTRACE", None)
    try:
        import latencyprism_native as native
    except ImportError as err:
        raise SamplerUnavailable(f"the native sampler is not installed: {HOW_TO_GET_IT}") from err
    try:
        sampler = native.Sampler(
            pid, json.dumps(spec), poll_hz=poll_hz, stack_hz=stack_hz, realtime=realtime
        )
        sampler.start()
    except native.ProcessGone as err:
        raise ProcessLookupError(f"process {pid} ended") from err
    except native.PermissionRefused as err:
        raise AttachRefused(explain_refusal(pid)) from err
    except native.AnchorMissing as err:
        raise NotServing(str(err)) from err
    except native.SamplerError as err:
        raise AttachRefused(str(err)) from err
    except ValueError as err:
        raise AttachRefused(
            "the native sampler that is installed does not take this engine's description "
            f"({err}): rebuild it with 'make native'"
        ) from err
    return sampler
