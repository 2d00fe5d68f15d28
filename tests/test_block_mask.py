"""The block mask that is worked out from documents is the one that looking at every pair gives."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.attention.flex_attention import create_block_mask  # noqa: E402

from train.backends import block_mask  # noqa: E402


@given(
    st.lists(st.one_of(st.integers(1, 300), st.sampled_from([127, 128, 129, 256])), min_size=1, max_size=12),
    st.sampled_from([None, 1, 100, 127, 128, 129, 255, 256, 257, 500]),
)
@settings(max_examples=60, deadline=None)
def test_blocks_are_those_of_every_pair(lengths: list[int], window: int | None) -> None:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    total = positions.shape[1]
    mask = block_mask(positions, window)
    plain = create_block_mask(mask.mask_mod, None, None, total, total, device="cpu")
    for made, expected in (
        ((mask.kv_num_blocks, mask.kv_indices), (plain.kv_num_blocks, plain.kv_indices)),
        ((mask.full_kv_num_blocks, mask.full_kv_indices), (plain.full_kv_num_blocks, plain.full_kv_indices)),
        ((mask.q_num_blocks, mask.q_indices), (plain.q_num_blocks, plain.q_indices)),
        ((mask.full_q_num_blocks, mask.full_q_indices), (plain.full_q_num_blocks, plain.full_q_indices)),
    ):
        assert made[0].tolist() == expected[0].tolist()
        for row, count in enumerate(made[0][0, 0].tolist()):
            assert sorted(made[1][0, 0, row, :count].tolist()) == sorted(expected[1][0, 0, row, :count].tolist())


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6), st.sampled_from([None, 5, 128]))
@settings(max_examples=20, deadline=None)
def test_a_token_sees_its_own_document_up_to_itself(lengths: list[int], window: int | None) -> None:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    mask = block_mask(positions, window)
    documents = [number for number, length in enumerate(lengths) for _ in range(length)]
    every = torch.arange(len(documents))
    matrix = mask.mask_mod(0, 0, every[:, None], every[None, :]).tolist()
    for query, seen in enumerate(matrix):
        assert seen == [
            documents[key] == documents[query] and key <= query and (window is None or query - key < window)
            for key in range(len(documents))
        ]
