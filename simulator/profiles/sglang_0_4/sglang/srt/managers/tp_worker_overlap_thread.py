"""The worker with a thread of its own."""

from __future__ import annotations

import queue
import threading
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.srt.managers.schedule_batch import ScheduleBatch


class ModelWorkerBatch:
    """What the forward thread needs of a batch, so that the scheduler may change that."""

    def __init__(self, batch: ScheduleBatch, bid: int) -> None:
        assert batch.forward_mode is not None
        self.bid = bid
        self.forward_mode = batch.forward_mode
        self.seq_lens = [request.num_computed_tokens for request in batch.reqs]
        self.seq_lens_sum = batch.seq_lens_sum
        extend = batch.forward_mode.is_extend()
        self.extend_num_tokens = batch.extend_num_tokens if extend else None


class TpModelWorkerClient:
    """Pass batches to a thread and results back."""

    def __init__(self, host: Host) -> None:
        self.forward_stream = host.stream()
        self.input_queue: queue.Queue[Any] = queue.Queue()
        self.output_queue: queue.Queue[Any] = queue.Queue()
        self.future_token_ids_ct = 0
        self.forward_thread = threading.Thread(target=self.forward_thread_func, daemon=True)
        self.forward_thread.start()

    def forward_thread_func(self) -> None:
        """Run in the thread."""
        self.forward_thread_func_()

    def forward_thread_func_(self) -> None:
        """Launch one batch after another."""
        batch_pt = 0
        batch_lists = [None] * 2
        while True:
            model_worker_batch, future_token_ids_ct = self.input_queue.get()
            if not model_worker_batch:
                break
            batch_lists[batch_pt % 2] = model_worker_batch
            batch_pt += 1
            self.launch_done = threading.Event()
            copy_done = self.forward_stream.launch(model_worker_batch.extend_num_tokens or 0)
            bs = len(model_worker_batch.seq_lens)
            assert future_token_ids_ct >= 0
            self.launch_done.set()
            # Without CUDA graphs the launch itself takes the time; so it shows in this stack.
            copy_done.synchronize()
            self.output_queue.put((copy_done, bs))

    def forward_batch_generation(self, model_worker_batch: ModelWorkerBatch) -> None:
        """Queue a batch."""
        self.input_queue.put((model_worker_batch, self.future_token_ids_ct))
        self.future_token_ids_ct += len(model_worker_batch.seq_lens)

    def resolve_batch_result(self, bid: int) -> int:
        """Wait for the results of the oldest batch."""
        copy_done, bs = self.output_queue.get()
        copy_done.synchronize()
        self.launch_done.wait()
        assert bid
        return int(bs)
