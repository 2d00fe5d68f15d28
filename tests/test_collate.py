"""Samples as tensors: order of pictures, positions, weights, padding, the empty pass."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")

from medgpt.errors import UserError  # noqa: E402
from train.collate import Collator  # noqa: E402
from train.tiling import Tiling  # noqa: E402
from train.tokenizer import IMAGE_CONTEXT, harmony  # noqa: E402

CONTEXT = harmony().special[IMAGE_CONTEXT]


@dataclass
class Sample:
    record: dict[str, Any]
    images: list[bytes]


@dataclass
class Pack:
    items: list[Sample]
    truncate_to: list[int] | None = None


def picture(width: int, height: int, value: int) -> bytes:
    """A picture of one grey value, so that each tile says whose it is."""
    stream = io.BytesIO()
    Image.new("L", (width, height), value).save(stream, "PNG")
    return stream.getvalue()


def sample(
    name: str, question: str, answer: str, sizes: list[tuple[int, int, int]] | None = None, source: str = "a"
) -> Sample:
    """A sample whose pictures come last to first."""
    sizes = sizes or []
    shown: list[dict[str, Any]] = [{"type": "image", "text": None, "index": i} for i in reversed(range(len(sizes)))]
    record = {
        "id": name,
        "source": source,
        "images": [{"file": f"{i}.png"} for i in range(len(sizes))] or None,
        "messages": [
            {"role": "user", "reasoning": None, "content": [*shown, {"type": "text", "text": question, "index": None}]},
            {"role": "assistant", "reasoning": None, "content": [{"type": "text", "text": answer, "index": None}]},
        ],
    }
    return Sample(record, [picture(*size) for size in sizes])


def collator(**options: Any) -> Collator:
    return Collator(harmony(), Tiling(), {"a": 0, "b": 1}, **options)


def test_a_pack_is_its_samples_one_behind_the_other() -> None:
    samples = [
        sample("a/1", "What?", "An effusion on the left.", [(336, 336, 10), (700, 336, 20)]),
        sample("b/2", "Text only?", "Yes.", source="b"),
        sample("a/3", "And this?", "No.", [(336, 336, 30)]),
    ]
    together = collator()(Pack(samples))
    alone = [collator()([one]) for one in samples]
    assert together.input_ids.tolist() == [[i for one in alone for i in one.input_ids[0].tolist()]]
    assert together.position_ids.tolist() == [[i for one in alone for i in range(one.tokens)]]
    assert together.document_ids.tolist() == [[n for n, one in enumerate(alone) for _ in range(one.tokens)]]
    assert together.labels.tolist() == [[i for one in alone for i in one.labels[0].tolist()]]
    assert together.weights.tolist() == [w for one in alone for w in one.weights.tolist()]
    assert (
        together.sources.tolist() == [0] * alone[0].supervised + [1] * alone[1].supervised + [0] * alone[2].supervised
    )
    assert together.samples == ["a/1", "b/2", "a/3"]
    assert together.documents == 3
    assert together.tokens == sum(one.tokens for one in alone)
    # The tiles lie in the order of the image tokens, which is not that of the files: 3 of 20 (2 + thumbnail), 10, 30.
    assert [int(tile[0, 0, 0]) for tile in together.pixels] == [20, 20, 20, 10, 30]
    assert together.tiles == 5
    assert int((together.input_ids == CONTEXT).sum()) == 5 * 144
    # A text-only sample alone brings one blank tile, which no token stands for.
    assert (alone[1].tiles, len(alone[1].pixels), int(alone[1].pixels.sum())) == (0, 1, 0)


def test_what_is_kept_predicts_the_next_token() -> None:
    micro = collator()([sample("a/1", "Q", "A", [(336, 336, 0)]), sample("a/2", "Q2", "B")])
    decoded = [harmony().decode(micro.targets[i : i + 1].tolist()) for i in range(micro.supervised)]
    assert "".join(decoded) == ("<|channel|>final<|message|>A<|return|><|channel|>final<|message|>B<|return|>")
    # Each place is the one before that token.
    assert torch.equal(micro.input_ids[0, micro.keep + 1], micro.targets)
    assert torch.equal(micro.document_ids[0, micro.keep + 1], micro.document_ids[0, micro.keep])


@pytest.mark.parametrize(("weighting", "rule"), [("square", math.sqrt), ("token", float), ("sample", lambda n: 1.0)])
def test_what_a_document_weighs(weighting: Any, rule: Any) -> None:
    samples = [sample("a/1", "Q", "A long answer with many words in it."), sample("a/2", "Q", "B")]
    counts = [collator()([one]).supervised for one in samples]
    micro = collator(weighting=weighting)(samples)
    assert counts[0] > counts[1]
    assert micro.weight == pytest.approx(sum(map(rule, counts)), rel=1e-6)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.sampled_from([1, 7, 128]))
def test_padding_is_a_document_of_its_own_that_weighs_nothing(answers: list[str], multiple: int) -> None:
    samples = [sample(f"a/{i}", "Q", answer) for i, answer in enumerate(answers)]
    plain, padded = collator()(samples), collator(multiple=multiple)(samples)
    rows = padded.input_ids.shape[1]
    assert rows % multiple == 0
    assert rows - padded.tokens < multiple
    assert plain.tokens == padded.tokens == plain.input_ids.shape[1]
    for name in ("keep", "targets", "weights", "sources"):
        assert torch.equal(getattr(plain, name), getattr(padded, name))
    tail = padded.position_ids[0, padded.tokens :]
    assert tail.tolist() == list(range(len(tail)))
    assert set(padded.document_ids[0, padded.tokens :].tolist()) <= {len(samples)}


def test_the_pass_over_nothing_weighs_nothing() -> None:
    micro = collator(multiple=16)(None)
    assert (micro.tokens, micro.tiles, micro.supervised, micro.weight, micro.samples) == (0, 0, 0, 0.0, [])
    assert micro.input_ids.shape == (1, 16)
    assert micro.pixels.shape == (1, 336, 336, 3)
    assert collator()(None).input_ids.shape == (1, 1)


def test_a_plan_that_truncates() -> None:
    whole = collator()([sample("a/1", "Q", "one two three four five six")])
    cut = collator()(Pack([sample("a/1", "Q", "one two three four five six")], [whole.tokens - 3]))
    assert cut.tokens == whole.tokens - 3
    assert torch.equal(cut.input_ids[0], whole.input_ids[0, :-3])
    assert torch.equal(cut.targets, whole.targets[:-3])


def test_flops_are_told_what_is_in_the_pack() -> None:
    told: list[Any] = []

    def flops(documents: Any, tiles: int, supervised: int) -> float:
        told.append((list(documents), tiles, supervised))
        return 7.0

    samples = [sample("a/1", "Q", "A", [(336, 336, 0)]), sample("a/2", "Q2", "B")]
    micro = collator(flops=flops, multiple=1024)(samples)
    assert told == [([collator()([one]).tokens for one in samples], 1, micro.supervised)]
    assert micro.flops == 7.0
    assert collator(flops=flops)(None).flops == 0


def test_refusals_name_the_sample() -> None:
    with pytest.raises(UserError, match="a/1: source other is not of this run"):
        collator()([sample("a/1", "Q", "A", source="other")])
    short = sample("a/2", "Q", "A", [(336, 336, 0)])
    short.images = []
    with pytest.raises(UserError, match="a/2: 0 pictures for 1"):
        collator()([short])
    broken = sample("a/3", "Q", "A", [(336, 336, 0)])
    broken.images = [broken.images[0][:40]]
    with pytest.raises(UserError, match="a/3, picture 0: cannot be decoded"):
        collator()([broken])


def test_moving_keeps_everything() -> None:
    micro = collator()([sample("a/1", "Q", "A")])
    moved = micro.to("cpu")
    assert moved.samples == micro.samples
    assert np.array_equal(moved.input_ids.numpy(), micro.input_ids.numpy())
    assert moved.to("meta").pixels.device.type == "meta"
