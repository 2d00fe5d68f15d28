"""How many 336-pixel tiles the vision encoder sees of an image: InternVL's dynamic tiling rule.

Source of the rule and its constants: `dynamic_preprocess` in OpenGVLab/InternVL at commit 2410d1d
(`internvl_chat_gpt_oss/internvl/train/dataset.py`) and section 3.2 of the recipe (up to 12 patches plus a thumbnail).
"""

from functools import cache, lru_cache

TILE_PIXELS = 336
MAX_TILES = 12


@cache
def _grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with at most `max_tiles` cells, smallest first."""
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


@lru_cache(maxsize=65536)
def tile_grid(width: int, height: int, n_images: int = 1) -> tuple[int, int]:
    """(columns, rows) of the grid an image of width x height pixels is resized to.

    The grid whose aspect ratio is closest wins; on a tie the larger one, if the image has more than half its pixels.
    With several images in a sample each gets an equal share of the 12 tiles, at least one.
    """
    aspect, area = width / height, width * height
    best, best_difference = (1, 1), float("inf")
    for columns, rows in _grids(max(1, MAX_TILES // n_images)):
        difference = abs(aspect - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and area > 0.5 * TILE_PIXELS**2 * columns * rows:
            best = (columns, rows)
    return best


def tile_count(width: int, height: int, n_images: int = 1) -> int:
    """Tiles of one image, the thumbnail included (it is added whenever there is more than one tile)."""
    columns, rows = tile_grid(width, height, n_images)
    tiles = columns * rows
    return tiles + 1 if tiles > 1 else 1
