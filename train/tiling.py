"""Pictures as the tiles that the vision encoder sees: InternVL's dynamic tiling with CLIP's normalisation.

A picture is resized to the grid of tiles that `medgpt.tiles` chose (its aspect ratio is not kept), cut row by row,
and followed by a thumbnail of the whole where there is more than one tile. Counts are thus those of the manifest, by
construction. Tiles stay bytes until they are on the device: a quarter of the memory and of the transfer.

Source: `dynamic_preprocess` and `build_transform` in OpenGVLab/InternVL at commit 2410d1d
(`internvl_chat_gpt_oss/internvl/train/dataset.py`); bicubic like theirs. Theirs re-encodes training pictures as JPEG of
random quality; ours does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgpt.containers import DamagedImage
from medgpt.errors import UserError
from medgpt.pictures import open_picture
from medgpt.tiles import TILE_PIXELS, tile_grid

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP; in open_clip's `OPENAI_DATASET_MEAN` and `OPENAI_DATASET_STD`."""


@dataclass(frozen=True)
class Tiling:
    """How pictures become tiles.

    `size` is a tile's side: 24 patches of the encoder, 336 for patches of 14 pixels. `max_enlargement` caps the area
    and departs from the recipe (None): tiles of 336 pixels cover at most that multiple of the picture's pixels. The
    recipe looks at the aspect ratio only, so a picture of 640 x 480 becomes 12 tiles and a thumbnail; with 1.0 it is
    one tile. Counts are then at most the manifest's.
    """

    size: int = TILE_PIXELS
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    max_enlargement: float | None = None

    def grid(self, width: int, height: int, n_images: int = 1) -> tuple[int, int]:
        """(columns, rows) for a picture of width x height pixels, one of `n_images` of a sample."""
        if self.max_enlargement is None:
            return tile_grid(width, height, n_images)
        # Asking for the grid of a share of n images is asking for one of at most 12 // n tiles.
        most = max(1, math.floor(self.max_enlargement * width * height / TILE_PIXELS**2))
        return tile_grid(width, height, max(n_images, -(-12 // most) if most < 12 else 1))

    def cut(self, data: bytes, name: str, n_images: int = 1) -> Pixels:
        """Tiles of a picture as stored, uint8 of shape (tiles, size, size, 3), the thumbnail last.

        Raises: `UserError` (the bytes are no picture that can be decoded; `name` says which).
        """
        try:
            picture = open_picture(data)
        except DamagedImage as error:
            raise UserError(f"{name}: cannot be decoded ({error}); verify the build (shards.verify)") from error
        columns, rows = self.grid(picture.width, picture.height, n_images)
        side = self.size
        # A grey picture is resized grey and copied to three channels: the same pixels for a third of the work.
        whole = np.asarray(picture.resize((side * columns, side * rows), Image.Resampling.BICUBIC))
        if whole.ndim == 2:
            whole = whole[:, :, None]
        cells = whole.reshape(rows, side, columns, side, -1).swapaxes(1, 2).reshape(rows * columns, side, side, -1)
        many = rows * columns > 1
        tiles: Pixels = np.empty((rows * columns + many, side, side, 3), np.uint8)
        tiles[: rows * columns] = cells
        if many:
            thumbnail = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
            tiles[-1] = thumbnail[:, :, None] if thumbnail.ndim == 2 else thumbnail
        return tiles

    def cut_all(self, images: Sequence[bytes], name: str) -> list[Pixels]:
        """Tiles of every picture of a sample, who share its 12 tiles."""
        return [self.cut(data, f"{name}, picture {i}", len(images)) for i, data in enumerate(images)]

    def normalise(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """uint8 tiles (n, size, size, 3) as the encoder's input (n, 3, size, size)."""
        import torch

        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((scaled - mean) / std).to(dtype).contiguous()

    def processor(self) -> Any:
        """The stock image processor with the same grid and normalisation, for the exported model.

        It resizes with torch instead of Pillow (pixels differ by rounding) and gives every picture of a sample up to 12
        tiles; pass `max_patches=12 // n` for several.
        """
        from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

        return GotOcr2ImageProcessor(
            size={"height": self.size, "width": self.size},
            crop_to_patches=True,
            min_patches=1,
            max_patches=12,
            image_mean=list(self.mean),
            image_std=list(self.std),
            do_convert_rgb=True,
        )
