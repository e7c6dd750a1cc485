"""A model that computes nothing of value at a cost like a real one's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Sized so that eight decode requests of 200 tokens cost about 13 ms on one core of a 2024
# server: about 8 ms of weights, 0.07 ms per token, 1.4 us per KV token.
LAYERS = 20
HIDDEN_SIZE = 512
WEIGHT_ROW_FLOATS = 1_024
WEIGHT_ROWS_PER_LAYER = 2_560
WEIGHT_POOL_ROWS = 16_384
KV_ROW_FLOATS = 512
KV_POOL_ROWS = 32_768
VOCABULARY_SIZE = 2_048
# Below four rows the matrix product takes another path, whose cost is not on the line.
LEAST_MATMUL_ROWS = 4


class RowPool:
    """A large array that is read round and round, so that no cache ever holds what comes next."""

    def __init__(self, generator: np.random.Generator, *, rows: int, row_floats: int) -> None:
        self._rows = generator.random((rows, row_floats), dtype=np.float32)
        self._vector = generator.random(row_floats, dtype=np.float32)
        self._products = np.empty(rows, dtype=np.float32)
        self._cursor = 0

    def read(self, rows: int) -> None:
        """Multiply the next rows with a vector: as many reads from memory as arithmetic."""
        size = len(self._rows)
        while rows > 0:
            count = min(rows, size - self._cursor)
            part = slice(self._cursor, self._cursor + count)
            np.dot(self._rows[part], self._vector, out=self._products[part])
            self._cursor = (self._cursor + count) % size
            rows -= count


class SyntheticForCausalLM:
    """Real float32 arithmetic whose cost is a line in padded tokens and in KV tokens.

    At a `clock_ratio` below 1 the same batch takes 1/ratio times as much arithmetic,
    as if the accelerator's clock had dropped. It does not sleep, so it stays
    sensitive to whoever else wants the processor.
    """

    def __init__(self, *, max_tokens: int, max_requests: int, work_ratio: float = 1.0) -> None:
        generator = np.random.default_rng(0)
        self.clock_ratio = 1.0
        self._work_ratio = work_ratio
        self._layer_weights = [
            generator.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE), dtype=np.float32)
            for _ in range(LAYERS)
        ]
        self._hidden = generator.standard_normal(
            (max(max_tokens, LEAST_MATMUL_ROWS), HIDDEN_SIZE), dtype=np.float32
        )
        self._hidden_out: Floats = np.empty_like(self._hidden)
        self._weight_pool = RowPool(generator, rows=WEIGHT_POOL_ROWS, row_floats=WEIGHT_ROW_FLOATS)
        self._kv_pool = RowPool(generator, rows=KV_POOL_ROWS, row_floats=KV_ROW_FLOATS)
        self._head = generator.standard_normal((HIDDEN_SIZE, VOCABULARY_SIZE), dtype=np.float32)
        sampled_rows = max(max_requests, LEAST_MATMUL_ROWS)
        self._logits: Floats = np.empty((sampled_rows, VOCABULARY_SIZE), dtype=np.float32)
        self._sampled = np.empty(sampled_rows, dtype=np.int64)

    def forward(self, *, num_tokens: int, kv_tokens: int) -> None:
        """Compute one batch of padded tokens over this much KV."""
        layers = LAYERS * self._work_ratio / self.clock_ratio
        whole_layers = int(layers)
        for index in range(whole_layers):
            self._layer(index % LAYERS, num_tokens, kv_tokens, 1.0)
        if layers > whole_layers:
            self._layer(whole_layers % LAYERS, num_tokens, kv_tokens, layers - whole_layers)

    def _layer(self, index: int, num_tokens: int, kv_tokens: int, share: float) -> None:
        self._weight_pool.read(round(WEIGHT_ROWS_PER_LAYER * share))
        rows = max(LEAST_MATMUL_ROWS, round(num_tokens * share))
        np.matmul(self._hidden[:rows], self._layer_weights[index], out=self._hidden_out[:rows])
        self._kv_pool.read(round(kv_tokens * share))

    def sample(self, num_requests: int) -> npt.NDArray[np.int64]:
        """Choose the most likely token of each request."""
        rows = max(LEAST_MATMUL_ROWS, num_requests)
        logits = self._logits[:rows]
        np.matmul(self._hidden_out[:rows], self._head, out=logits)
        return np.argmax(logits, axis=1, out=self._sampled[:rows])[:num_requests]
