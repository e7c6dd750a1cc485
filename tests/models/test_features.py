from __future__ import annotations

import pytest

from models.features import Features, features_of
from schemas.records import Workload
from tests.models.synthetic import decode, mixed


def features(workload: Workload) -> Features:
    found = features_of(workload)
    assert found is not None
    return found


def test_a_context_that_cannot_be_read_is_left_out() -> None:
    found = features(Workload(requests=3, scheduled_tokens=3))
    assert found == {"decode_tokens": 3, "prefill_tokens": 0, "tokens": 3}


@pytest.mark.parametrize(
    "workload", [Workload(), Workload(requests=3), Workload(requests=0, scheduled_tokens=0)]
)
def test_a_batch_without_tokens_has_no_features(workload: Workload) -> None:
    assert features_of(workload) is None


def test_the_context_is_a_mean_over_the_requests() -> None:
    assert features(decode(8, 400))["context_tokens"] == 400


def test_what_one_request_does_not_decode_is_prefill() -> None:
    blind = Workload(requests=5, scheduled_tokens=104)
    assert features(blind)["prefill_tokens"] == 99
    assert features(mixed(4, 100, 100))["decode_tokens"] == 4


def test_drafts_are_decoded_not_prefilled() -> None:
    found = features(Workload(requests=4, scheduled_tokens=16, speculative_tokens=12))
    assert (found["prefill_tokens"], found["decode_tokens"]) == (0, 16)
    assert found["speculative_tokens"] == 12


def test_adapters_are_a_feature_where_there_are_any() -> None:
    assert features(Workload(requests=2, scheduled_tokens=2, lora_adapters=2))["lora_adapters"] == 2
    assert "lora_adapters" not in features(
        Workload(requests=2, scheduled_tokens=2, lora_adapters=0)
    )
