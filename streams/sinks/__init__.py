"""Where results go, one destination per file."""

from streams.sinks.base import Rejected, Sink, SinkUnavailable

__all__ = ["Rejected", "Sink", "SinkUnavailable"]
