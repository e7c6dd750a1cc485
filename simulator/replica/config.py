"""A replica is described by one frozen record, read from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """Everything the three processes of a replica need to know.

    `work_ratio` scales the arithmetic of the model: 1.0 makes a decode batch of
    eight requests cost about 13 ms on the machine it was sized on.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "replica"
    max_model_len_tokens: int = 4096
    max_batched_tokens: int = 512
    max_requests_in_batch: int = 32
    block_size_tokens: int = 16
    kv_blocks: int = 4096
    work_ratio: float = 1.0
    truth: Path | None = None
    until_stdin_closes: bool = False

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--max-model-len", self.max_model_len_tokens, 2),
            ("--max-num-batched-tokens", self.max_batched_tokens, 1),
            ("--max-num-seqs", self.max_requests_in_batch, 1),
            ("--block-size", self.block_size_tokens, 1),
            ("--num-blocks", self.kv_blocks, 1),
            ("--port", self.port, 0),
        ):
            if value < least:
                raise ValueError(f"{option} is {value}: give {least} or more")
        if self.port > 65_535:
            raise ValueError(f"--port is {self.port}: give 0 (any free port) to 65535")
        if not 0.01 <= self.work_ratio <= 100.0:
            raise ValueError(f"--work-ratio is {self.work_ratio}: give 0.01 to 100")
        # One request must always fit, or the scheduler could find nothing to run.
        if self.kv_blocks * self.block_size_tokens < self.max_model_len_tokens:
            raise ValueError(
                f"--num-blocks {self.kv_blocks} holds {self.kv_blocks * self.block_size_tokens} "
                f"tokens, less than --max-model-len {self.max_model_len_tokens}: "
                "give more blocks or a shorter model length"
            )


def parse_arguments(arguments: Sequence[str] | None = None) -> ReplicaConfig:
    """Read the command line of `python -m simulator.replica`."""
    default = ReplicaConfig()
    parser = argparse.ArgumentParser(
        prog="python -m simulator.replica",
        description="Serve synthetic text from processes that look like vLLM 0.32 from outside.",
    )
    parser.add_argument("--host", default=default.host, help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=default.port, help="0 picks a free port (%(default)s)"
    )
    parser.add_argument("--model", default=default.model_name, help="served model name")
    parser.add_argument("--max-model-len", type=int, default=default.max_model_len_tokens)
    parser.add_argument("--max-num-batched-tokens", type=int, default=default.max_batched_tokens)
    parser.add_argument("--max-num-seqs", type=int, default=default.max_requests_in_batch)
    parser.add_argument("--block-size", type=int, default=default.block_size_tokens)
    parser.add_argument("--num-blocks", type=int, default=default.kv_blocks)
    parser.add_argument(
        "--work-ratio",
        type=float,
        default=default.work_ratio,
        help="scales the arithmetic per batch (%(default)s)",
    )
    parser.add_argument(
        "--truth", type=Path, default=None, help="append one CSV line per iteration to this file"
    )
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop when standard input ends (for a program that starts the replica)",
    )
    given = parser.parse_args(arguments)
    try:
        return ReplicaConfig(
            host=given.host,
            port=given.port,
            model_name=given.model,
            max_model_len_tokens=given.max_model_len,
            max_batched_tokens=given.max_num_batched_tokens,
            max_requests_in_batch=given.max_num_seqs,
            block_size_tokens=given.block_size,
            kv_blocks=given.num_blocks,
            work_ratio=given.work_ratio,
            truth=given.truth,
            until_stdin_closes=given.until_stdin_closes,
        )
    except ValueError as err:
        parser.error(str(err))
