"""Samples, or a pack of them, as the tensors of one forward pass.

Documents lie one behind the other in a single row; positions restart with each, and `train.model` builds the masks that
keep them apart from that. Logits are needed only where something is learnt: `keep` are those places.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch

from medgpt.errors import UserError
from shards.reader import StoredSample
from shards.stream import Pack, StreamedSample
from train.template import IGNORED, Document, render
from train.tiling import Pixels, Tiling
from train.tokenizer import Tokenizer

Weighting = Literal["square", "token", "sample"]


@dataclass(frozen=True)
class Micro:
    """One forward pass of one rank. T tokens, S of them learnt, P tiles (one blank tile where there are none)."""

    input_ids: torch.Tensor
    """int64 (1, T)."""
    position_ids: torch.Tensor
    """int64 (1, T), from 0 in each document."""
    document_ids: torch.Tensor
    """int64 (1, T): number of the document, padding as one of its own."""
    pixels: torch.Tensor
    """uint8 (P, side, side, 3), not normalised, in the order of the image tokens."""
    keep: torch.Tensor
    """int64 (S): places whose output predicts something that is learnt."""
    targets: torch.Tensor
    """int64 (S): what is to be predicted there."""
    weights: torch.Tensor
    """float32 (S): weight of each prediction in the loss."""
    sources: torch.Tensor
    """int64 (S): number of the source it comes from."""
    samples: list[str]
    """Ids of the samples."""
    tokens: int
    """Without padding."""
    tiles: int
    """Without the blank one."""
    flops: float
    """Of the model, forward and backward, without what is computed twice."""

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum(dtype=torch.float64))

    @property
    def supervised(self) -> int:
        """Tokens that are learnt."""
        return len(self.keep)

    @property
    def documents(self) -> int:
        """Samples."""
        return len(self.samples)

    @property
    def labels(self) -> torch.Tensor:
        """int64 (1, T) for losses that shift by themselves: what is learnt at each token, else -100."""
        labels = torch.full_like(self.input_ids, IGNORED)
        labels[0, self.keep + 1] = self.targets
        return labels

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


class Collator:
    """Makes a `Micro` of samples.

    `sources` numbers the sources by their `record["source"]`. `weighting`: a document of n learnt tokens weighs sqrt(n)
    (`square`, InternVL), n (`token`) or 1 (`sample`). `flops(lengths of documents, tiles, learnt tokens)` counts work.
    The row is padded to a multiple of `multiple` tokens: flex attention works in blocks of 128, and every new length is
    a new shape to compile for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tiling: Tiling,
        sources: Mapping[str, int],
        *,
        weighting: Weighting = "square",
        flops: Callable[[Sequence[int], int, int], float] | None = None,
        multiple: int = 1,
    ) -> None:
        self.tokenizer, self.tiling, self.sources = tokenizer, tiling, dict(sources)
        self.weighting, self.flops, self.multiple = weighting, flops, multiple

    def __call__(self, pack: Pack | Sequence[StoredSample | StreamedSample] | None) -> Micro:
        """Lay out a pack or a list of samples; None is a pass over nothing that weighs nothing.

        Raises: `UserError` (a source without a number, or more or fewer pictures than the record says; a sample that
        cannot be rendered; a picture that cannot be decoded).
        """
        items = [] if pack is None else pack if isinstance(pack, Sequence) else pack.items
        samples, cuts = list(items), getattr(pack, "truncate_to", None)
        documents: list[Document] = []
        pixels: list[Pixels] = []
        numbers: list[int] = []
        for place, sample in enumerate(samples):
            record = sample.record
            if record["source"] not in self.sources:
                raise UserError(f"{record['id']}: source {record['source']} is not of this run's mixture")
            if len(sample.images) != len(record["images"] or ()):
                raise UserError(
                    f"{record['id']}: {len(sample.images)} pictures for {len(record['images'] or ())} in its record; "
                    "verify the build (shards.verify)"
                )
            tiles = self.tiling.cut_all(sample.images, record["id"])
            cut = None if cuts is None else int(cuts[place])
            document = render(record, [len(tile) for tile in tiles], self.tokenizer, cut)
            documents.append(document)
            pixels += [tiles[i] for i in document.pictures]
            numbers.append(self.sources[record["source"]])
        lengths = [len(document.ids) for document in documents]
        total = sum(lengths)
        padding = -total % self.multiple or (0 if total else self.multiple)
        pad = np.full(padding, self.tokenizer.special["<|endoftext|>"], np.int64)
        ids = np.concatenate([*(document.ids for document in documents), pad])
        parts = [*lengths, padding] if padding else lengths
        positions = np.concatenate([np.arange(length, dtype=np.int64) for length in parts])
        labels = np.concatenate([*(d.labels for d in documents), np.full(padding, IGNORED, np.int64)])
        which = np.repeat(np.arange(len(parts)), parts)
        learnt = np.flatnonzero(labels != IGNORED)
        counts = np.array([document.supervised for document in documents], np.float64)
        power = {"square": -0.5, "token": 0.0, "sample": -1.0}[self.weighting]
        weights = np.maximum(counts, 1) ** power
        blank = np.zeros((1, self.tiling.size, self.tiling.size, 3), np.uint8)
        tiles_total = sum(len(tile) for tile in pixels)
        return Micro(
            input_ids=torch.from_numpy(ids)[None],
            position_ids=torch.from_numpy(positions)[None],
            document_ids=torch.from_numpy(which)[None],
            pixels=torch.from_numpy(np.concatenate(pixels) if pixels else blank),
            keep=torch.from_numpy(learnt - 1),
            targets=torch.from_numpy(labels[learnt]),
            weights=torch.from_numpy(weights[which[learnt]].astype(np.float32)),
            sources=torch.from_numpy(np.array(numbers, np.int64)[which[learnt]]),
            samples=[sample.record["id"] for sample in samples],
            tokens=total,
            tiles=tiles_total,
            flops=0.0 if self.flops is None or not total else self.flops(lengths, tiles_total, len(learnt)),
        )
