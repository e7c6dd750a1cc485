"""Payloads: what a kind of receiver reads; one file each, the file's name is the kind."""

from streams.delivery.payloads.base import Context, Payload, available, load

__all__ = ["Context", "Payload", "available", "load"]
