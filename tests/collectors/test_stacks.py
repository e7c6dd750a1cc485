"""Attaching: what is said where it cannot be done."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from collectors import stacks
from collectors.stacks import AttachRefused, NotServing, SamplerUnavailable, attach, native_version


def try_attach(pid: int = 1) -> object:
    return attach(pid, {}, poll_hz=100, stack_hz=0, realtime=False)


def test_without_the_extension_the_text_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "latencyprism_native", None)
    assert native_version() is None
    with pytest.raises(SamplerUnavailable, match="make native") as caught:
        try_attach()
    assert stacks.HOW_TO_GET_IT in str(caught.value)


class SamplerError(Exception):
    pass


class ProcessGone(SamplerError):
    pass


class PermissionRefused(SamplerError):
    pass


class AnchorMissing(SamplerError):
    pass


def pretend(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Sampler:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def start(self) -> None:
            raise error

    module = ModuleType("latencyprism_native")
    for name, value in (
        ("Sampler", Sampler),
        ("SamplerError", SamplerError),
        ("ProcessGone", ProcessGone),
        ("AnchorMissing", AnchorMissing),
        ("PermissionRefused", PermissionRefused),
    ):
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "latencyprism_native", module)


def test_a_refusal_keeps_the_samplers_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, SamplerError("give it SYS_PTRACE"))
    with pytest.raises(AttachRefused, match="give it SYS_PTRACE"):
        try_attach()


def test_a_process_that_ended_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ProcessGone("gone"))
    with pytest.raises(ProcessLookupError, match="process 1 ended"):
        try_attach()


def test_a_kernel_that_refuses_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, PermissionRefused("not permitted"))
    with pytest.raises(AttachRefused, match="process 1"):
        try_attach()


def test_an_engine_that_still_starts_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, AnchorMissing("no thread runs it"))
    with pytest.raises(NotServing, match="no thread runs it"):
        try_attach()


def test_a_description_that_an_older_sampler_does_not_take_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, ValueError("unknown field `call`"))
    with pytest.raises(AttachRefused, match=r"unknown field `call`.*make native"):
        try_attach()


def test_slow_backtraces_are_switched_off_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    monkeypatch.setitem(sys.modules, "latencyprism_native", None)
    with pytest.raises(SamplerUnavailable):
        try_attach()
    assert "RUST_BACKTRACE" not in os.environ
