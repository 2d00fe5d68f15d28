"""Which samples are trained on together as one sequence: two-dimensional packing, and the plan that records it.

A pack holds samples whose tokens sum to at most `length` and whose image tiles to at most `tiles_limit`. Padding to
the longest of 16 fills a third of what is computed; packs are full but for some thousandths, and each holds long and
short samples, so that a step has of every kind, as the mixture has. All lengths are known
beforehand (`sample_length`), so an epoch is packed offline, as a whole, and the plan is a small file beside the shards:
numbers of samples, no second copy of them.

`pack` is a pure function of the multiset of (tokens, tiles, key): neither the order of its input nor a number of
workers is anywhere in it. `balanced_order` is that in which packs are trained on, `PackPlan` the file.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from medgpt.atomic import AtomicFile
from medgpt.errors import UserError
from shards.columns import Int32, Int64, UInt64

if TYPE_CHECKING:
    import pyarrow as pa

    from shards.order import EpochOrder

Number = TypeVar("Number", int, npt.NDArray[Any])
"""Of one sample, or [n] of n."""

FORMAT = 3
"""Of the file, and the version of the rules by which packs are made and ordered."""

# --- How long a sample is. The numbers are those of the Harmony template; a test of `train.template` holds them against
# --- the rendering of real samples, so they cannot drift apart unseen.

TILE_TOKENS = 144
"""Tokens of one 336-pixel tile: 24 x 24 patches, pixel shuffle 0.5."""

IMAGE_TOKENS = 2
"""Before and after an image's tiles: begin and end of the image."""

MESSAGE_TOKENS = 4
"""`<|start|>` role `<|message|>` ... `<|end|>`, of a user's or a system's message."""

REPLY_TOKENS = 6
"""`<|start|>assistant<|channel|>final<|message|>` ... `<|end|>` or `<|return|>`; as many once more for reasoning, which
stands before it in the analysis channel, as a message of its own."""

DOCUMENT_TOKENS = 49
"""What every document begins with: the fixed system message of the template, 45 tokens of text and 4 around it."""

TEMPLATE = [TILE_TOKENS, IMAGE_TOKENS, MESSAGE_TOKENS, REPLY_TOKENS, DOCUMENT_TOKENS]
"""All that `sample_length` depends on."""

TILE_COST = 3_950_000
"""Work of a tile; the unit is a squared token, half of it attended. A tile takes 388 GFLOP forward (CLIP 382, projector
6), the unit 12 layers x 4 x 4096 / 2 = 98,304 FLOP (the 20B model; its other 12 layers see 128 tokens only)."""

TOKEN_COST = 61_900
"""The same of a token whatever its neighbours: 6.08 GFLOP of weights and short-range attention."""

STRATUM = 48
"""Packs of nearly equal work that follow each other, unless a plan says otherwise: a multiple of the usual numbers of
ranks. Training asks for as many as a step has, which its ranks divide: then no two steps in a row are of a kind."""

SPARE = 200
"""Packs that mix lengths may be more than those that do not by one in so many."""

ALIKE = 100
"""Packs whose work differs by less than the mean's hundredth count as equal, so that chance alone orders them."""

CHUNK = 4096
"""Packs in one record batch of a plan, whose digest is checked when the first of them is read."""


class OverLong(UserError):
    """Samples fit into no pack, and the policy does not say what becomes of them; `positions`: in the order."""

    def __init__(self, positions: Int64, message: str) -> None:
        super().__init__(message)
        self.positions = positions


def sample_length(
    text_tokens: Number, tiles: Any = 0, *, images: Any = 0, messages: Any = 1, replies: Any = 1, reasoned: Any = 0
) -> Number:
    """Tokens of a sample as the model sees it, or of n samples.

    `text_tokens` and `tiles` are the manifest's (each piece of text counted alone), `images` the number of pictures
    shown, `messages` those of users and systems, `replies` those of the assistant, `reasoned` the replies with
    reasoning.
    """
    if isinstance(text_tokens, np.ndarray):
        text_tokens = text_tokens.astype(np.int64)
    template = DOCUMENT_TOKENS + MESSAGE_TOKENS * messages + REPLY_TOKENS * (replies + reasoned)
    total: Number = text_tokens + template + TILE_TOKENS * tiles + IMAGE_TOKENS * images
    return total


@dataclass(frozen=True)
class PackingResult:
    """Samples in packs: those of pack i are `members[starts[i]:starts[i + 1]]`, numbers into what was given."""

    members: Int64
    starts: Int64
    tokens: Int32
    """Of each pack."""
    tiles: Int32
    """Of each pack."""
    length: int
    tiles_limit: int
    lower_bound: int
    """No packing whatsoever has fewer packs."""
    digest: str
    """SHA-256 of the keys, pack by pack: equal for every order of the same samples."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def token_fill(self) -> float:
        """Share of the packs' tokens that are used, 0 to 1."""
        return _share(int(self.tokens.sum(dtype=np.int64)), len(self) * self.length)

    @property
    def tile_fill(self) -> float:
        """Share of the packs' tiles that are used, 0 to 1."""
        return _share(int(self.tiles.sum(dtype=np.int64)), len(self) * self.tiles_limit)

    @property
    def fill(self) -> float:
        """Share of whichever runs out first: a corpus of pictures fills the tiles, not the tokens."""
        return max(self.token_fill, self.tile_fill)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def pack(tokens: Int32, tiles: Int32, keys: UInt64 | Int64, length: int, tiles_limit: int) -> PackingResult:
    """Pack samples of `tokens[i]` tokens and `tiles[i]` tiles into as few packs as can be found.

    The large samples are dealt out, one a pack and round, to as many packs as the lower bound allows, those heavy in
    tokens to packs with more room for tokens. Best fit does the rest: largest first, each into the pack where the least
    is left. Samples of one size are placed together, and packs are found by their free room with bit sets, so the work
    grows with distinct sizes rather than with samples. Best fit alone would fill pack after pack with samples of one
    length, which is to say of one source or question; it is taken where it saves more than one pack in `SPARE`.

    `keys` are different for each sample and belong to it: they decide between samples of one size.

    Raises: `UserError` for a sample that fits into no pack.
    """
    tokens, tiles = np.asarray(tokens, np.int32), np.asarray(tiles, np.int32)
    if length < 1 or tiles_limit < 1 or length * tiles_limit * (length + 1) * (tiles_limit + 1) >= 1 << 63:
        raise UserError(f"packs of {length} tokens and {tiles_limit} tiles: both from 1, and not astronomical")
    if not len(tokens) == len(tiles) == len(keys):
        raise UserError(
            f"{len(tokens)} token counts, {len(tiles)} tile counts and {len(keys)} keys: not as many of each"
        )
    wrong = (tokens < 1) | (tokens > length) | (tiles < 0) | (tiles > tiles_limit)
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(
            f"{int(wrong.sum())} samples fit into no pack of {length} tokens and {tiles_limit} tiles, the first has "
            f"{tokens[first]} and {tiles[first]}; raise the limits or take them out"
        )
    # Largest first, equal sizes in the order of their keys. Epochs have millions of samples: nothing is held for long.
    by_key = np.argsort(keys).astype(_places(len(keys)))
    code = np.maximum(tokens * np.int64(tiles_limit), tiles * np.int64(length))
    code *= length + 1
    code += tokens
    code *= tiles_limit + 1
    code += tiles
    code = code[by_key]
    np.negative(code, out=code)
    order = by_key[np.argsort(code, kind="stable")]
    del code
    sizes = _Sizes(tokens[order], tiles[order], length, tiles_limit)
    bound = lower_bound(tokens, tiles, length, tiles_limit)
    pack_of, count = _repack(sizes, *_fewest(sizes, bound), bound)
    # Within a pack: by key.
    numbers = np.empty_like(pack_of)
    numbers[order] = pack_of
    del sizes, order, pack_of
    members = by_key[np.argsort(numbers[by_key], kind="stable")].astype(np.int64)
    filled = np.bincount(numbers, minlength=count)
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(filled, out=starts[1:])
    digest = hashlib.sha256(starts.astype("<i8").tobytes())
    digest.update(np.asarray(keys)[members].astype("<u8").tobytes())
    packed_tokens, packed_tiles = (_sums(values, members, starts).astype(np.int32) for values in (tokens, tiles))
    return PackingResult(members, starts, packed_tokens, packed_tiles, length, tiles_limit, bound, digest.hexdigest())


def _places(samples: int) -> Any:
    """The type of places of so many samples, and of numbers of packs, of which there are no more."""
    return np.int32 if samples < 1 << 31 else np.int64


def _sums(values: Int32 | Int64, members: Int64, starts: Int64) -> Int64:
    """Of each pack."""
    return np.add.reduceat(values[members], starts[:-1], dtype=np.int64) if len(members) else np.zeros(0, np.int64)


def lower_bound(tokens: Int32 | Int64, tiles: Int32 | Int64, length: int, tiles_limit: int) -> int:
    """A number of packs that no packing can be below, from either limit alone.

    The larger of volume and, for every k, Martello and Toth's bound L2: samples above half a pack each need one, and
    what samples of at least k cannot share with them needs more (Knapsack Problems, 1990, section 8.3).
    """
    return max(_bound(tokens, length), _bound(tiles, tiles_limit))


def _bound(sizes: Int32 | Int64, capacity: int) -> int:
    counts = np.bincount(sizes, minlength=capacity + 1).astype(np.int64)
    mass = np.cumsum(counts * np.arange(capacity + 1))  # of sizes <= i
    number = np.cumsum(counts)
    k = np.arange(capacity // 2 + 1)
    above = number[-1] - number[capacity - k]  # more than capacity - k: alone
    half_number = number[capacity - k] - number[capacity // 2]
    half_mass = mass[capacity - k] - mass[capacity // 2]
    small_mass = mass[capacity // 2] - np.where(k > 0, mass[k - 1], 0)  # from k to half a pack
    spare = half_number * capacity - half_mass
    return int((above + half_number + np.maximum(0, -((spare - small_mass) // capacity))).max(initial=0))


class _Sizes(NamedTuple):
    """Samples, largest first; what follows speaks of them by their places in this order."""

    tokens: Int32
    tiles: Int32
    length: int
    limit: int


def _fewest(sizes: _Sizes, bound: int) -> tuple[Int64, int]:
    """Pack of each sample and their number: dealt out as far as can be, or else what saves more than `SPARE` packs."""
    pack_of, count = _best_fit(sizes, *_deal_out(sizes, bound, 1))
    for tenths in (3, None):
        if count <= bound + max(1, bound // SPARE):
            break
        begun = _no_packs(len(sizes.tokens)) if tenths is None else _deal_out(sizes, bound, tenths)
        again, fewer = _best_fit(sizes, *begun)
        if fewer + max(1, fewer // SPARE) < count:
            pack_of, count = again, fewer
    return pack_of, count


def _repack(sizes: _Sizes, pack_of: Int64, count: int, bound: int) -> tuple[Int64, int]:
    """Undo the packs that waste most of the scarcer limit, with as many others, and pack their samples again.

    What an attempt wastes is a share of the packs it makes, so a few hundred packs again waste a few at most. This is
    repeated, with more of the others when nothing is saved, until one above the bound, or until half as many samples
    as there are have been packed again.
    """
    tokens, tiles, length, limit = sizes
    by_tokens = int(tokens.sum()) * limit >= int(tiles.sum()) * length
    used, whole = (tokens, length) if by_tokens else (tiles, limit)
    share, effort = 2, 0
    while count > bound + 1:
        waste = whole - np.bincount(pack_of, weights=used, minlength=count).astype(np.int64)
        wasting = int((waste * count > waste.sum()).sum())
        undone = np.zeros(count, bool)
        undone[np.argsort(-waste, kind="stable")[: share * wasting]] = True
        some = undone[pack_of]
        effort += int(some.sum())
        if 2 * effort > len(tokens):
            break
        part = _Sizes(tokens[some], tiles[some], length, limit)
        again, fewer = _fewest(part, lower_bound(part.tokens, part.tiles, length, limit))
        saved = int(undone.sum()) - fewer
        if saved > 0:
            renumbered = np.cumsum(~undone) - 1
            pack_of = np.where(some, 0, renumbered[pack_of])
            pack_of[some] = again + count - int(undone.sum())
            count -= saved
        else:
            share *= 4
    return pack_of, count


def _no_packs(samples: int) -> tuple[Int64, Int64, Int64]:
    nothing = np.zeros(0, np.int64)
    return np.full(samples, -1, _places(samples)), nothing, nothing


def _deal_out(sizes: _Sizes, count: int, tenths: int) -> tuple[Int64, Int64, Int64]:
    """Deal the largest samples out to `count` packs until a tenth (three tenths) of the scarcer limit is left.

    A round gives at most one sample to each pack of the half (or more) that has most left of it: the samples sorted by
    how much more of the tokens than of the tiles they need, the packs by how much more of the tokens they have left. So
    both limits run out together, in every pack.

    Returns: pack of each sample (-1: not dealt), free tokens and free tiles of each pack.
    """
    tokens, tiles, length, limit = sizes
    pack_of = np.full(len(tokens), -1, _places(len(tokens)))
    room, tile_room = np.full(count, length, np.int64), np.full(count, limit, np.int64)
    by_tokens = int(tokens.sum()) * limit >= int(tiles.sum()) * length
    start = 0
    while start < len(tokens):
        left, whole = (room, length) if by_tokens else (tile_room, limit)
        if 10 * int(left.sum()) < tenths * whole * count:
            break
        packs = np.flatnonzero(left >= np.partition(left, count // 2)[count // 2])
        some = np.arange(start, min(start + len(packs), len(tokens)))
        start += len(packs)
        some = some[np.argsort(tokens[some] * np.int64(limit) - tiles[some] * np.int64(length), kind="stable")]
        packs = packs[np.argsort((room * limit - tile_room * length)[packs], kind="stable")][: len(some)]
        fits = (tokens[some] <= room[packs]) & (tiles[some] <= tile_room[packs])
        some, packs = some[fits], packs[fits]
        room[packs] -= tokens[some]
        tile_room[packs] -= tiles[some]
        pack_of[some] = packs
    return pack_of, room, tile_room


def _best_fit(sizes: _Sizes, pack_of: Int64, room: Int64, tile_room: Int64) -> tuple[Int64, int]:
    """Place the samples that have no pack yet, into those begun (with their rooms) and into new ones.

    Samples above half a pack first, then samples with tiles, most tiles first, then text. Returns the pack of each
    sample and the number of packs, none of them empty.
    """
    rest = np.flatnonzero(pack_of < 0).astype(pack_of.dtype)
    tokens, tiles = sizes.tokens[rest], sizes.tiles[rest]
    # Samples of one size lie together; a run of them is placed at once.
    change = (tokens[1:] != tokens[:-1]) | (tiles[1:] != tiles[:-1])
    first = np.concatenate(([0], np.flatnonzero(change) + 1)).astype(np.int64)[: len(rest)]
    counts = np.diff(first, append=len(rest))
    run_tokens, run_tiles = tokens[first].astype(np.int64), tiles[first].astype(np.int64)
    del tokens, tiles, change
    large = 2 * run_tokens > sizes.length
    order = np.lexsort((-run_tokens, -np.where(large, 0, run_tiles), np.where(large, 0, np.where(run_tiles > 0, 1, 2))))
    run_tokens, run_tiles, counts, first = run_tokens[order], run_tiles[order], counts[order], first[order]
    texts = int(((run_tiles > 0) | (2 * run_tokens > sizes.length)).sum())

    packs, numbers = array("q"), array("q")  # in turn: this pack takes as many of the run in hand
    least = int(run_tokens[:texts].min(initial=sizes.length))
    runs = list(zip(run_tokens.tolist(), run_tiles.tolist(), counts.tolist(), strict=True))
    begun = list(zip(room.tolist(), tile_room.tolist(), range(len(room)), strict=True))
    free = _place(runs[:texts], begun, (sizes.length, sizes.limit), least, packs, numbers)
    # Text takes no tiles, so packs are told apart by their free tokens alone.
    begun = [(left, 0, number) for left, number in sorted(free, reverse=True)]
    opened = len(_place(runs[texts:], begun, (sizes.length, 0), 1, packs, numbers))

    # Runs were placed in their new order: back to samples.
    begins = np.cumsum(counts) - counts
    places = np.repeat((first - begins).astype(rest.dtype), counts)
    places += np.arange(len(rest), dtype=rest.dtype)
    result = pack_of.copy()
    placed = np.frombuffer(packs, np.int64).astype(rest.dtype)
    result[rest[places]] = np.repeat(placed, np.frombuffer(numbers, np.int64))
    used = np.zeros(opened, bool)
    used[result] = True
    return (np.cumsum(used, dtype=rest.dtype) - 1)[result], int(used.sum())


_WORD = 7
"""Bits of a token count that say where in a word of the bit set it is: 256 words of 128 bits for 32,768."""


def _place(
    runs: Sequence[tuple[int, int, int]],
    begun: Sequence[tuple[int, int, int]],
    capacity: tuple[int, int],
    least: int,
    packs: array[int],
    numbers: array[int],
) -> list[tuple[int, int]]:
    """Best fit in tiles, then in tokens; `begun` are (free tokens, free tiles, number) of the packs there are.

    Bit r % 128 of `words[u][r // 128]` says that there is a pack with r free tokens and u free tiles, bit w of
    `summaries[u]` that word w is not empty, bit u of `levels` that level u is not: short integers are several times
    faster than one of 32,768 bits. A pack with fewer free tokens than `least` is of no use here.

    Returns: (free tokens, number) of every pack, new ones too.
    """
    length, limit = capacity
    mask = (1 << _WORD) - 1
    words = [[0] * ((length >> _WORD) + 1) for _ in range(limit + 1)]
    summaries, levels, opened = [0] * (limit + 1), 0, len(begun)
    done: list[tuple[int, int]] = []
    waiting: dict[tuple[int, int], list[int]] = {}
    for left, level, number in begun:
        waiting.setdefault((left, level), []).append(number)
        words[level][left >> _WORD] |= 1 << (left & mask)
        summaries[level] |= 1 << (left >> _WORD)
        levels |= 1 << level
    for tokens, tiles, count in runs:
        word, bit = tokens >> _WORD, tokens & mask
        while count:
            level, candidates, found = tiles - 1, levels >> tiles, -1
            while candidates:
                step = (candidates & -candidates).bit_length()
                level += step
                candidates >>= step
                if bits := words[level][word] >> bit:
                    at, left = word, tokens + (bits & -bits).bit_length() - 1
                elif later := summaries[level] >> (word + 1):
                    at = word + (later & -later).bit_length()
                    bits = words[level][at]
                    left = (at << _WORD) + (bits & -bits).bit_length() - 1
                else:
                    continue
                stack = waiting[left, level]
                found, tiles_left = stack.pop(), level
                if not stack:
                    words[level][at] ^= 1 << (left & mask)
                    if not words[level][at]:
                        summaries[level] ^= 1 << at
                        if not summaries[level]:
                            levels ^= 1 << level
                break
            if found < 0:
                found, left, tiles_left = opened, length, limit
                opened += 1
            # Best fit would choose this pack again and again.
            taken = min(count, left // tokens, tiles_left // tiles if tiles else count)
            packs.append(found)
            numbers.append(taken)
            count -= taken
            left -= taken * tokens
            tiles_left -= taken * tiles
            if left < least:
                done.append((left, found))
                continue
            same = waiting.setdefault((left, tiles_left), [])
            if not same:
                words[tiles_left][left >> _WORD] |= 1 << (left & mask)
                summaries[tiles_left] |= 1 << (left >> _WORD)
                levels |= 1 << tiles_left
            same.append(found)
    return done + [(left, number) for (left, _), stack in waiting.items() for number in stack]


def pack_costs(tokens: Int32, tiles: Int32, members: Int64, starts: Int64) -> tuple[Int64, Int64]:
    """Work of each pack in units of a squared token.

    Returns: all of it (squared document lengths, tiles and tokens with their weights), and without the tokens, which
    are as many in every full pack.
    """
    uneven = _sums(tokens.astype(np.int64) ** 2 + TILE_COST * tiles.astype(np.int64), members, starts)
    return uneven + TOKEN_COST * _sums(tokens, members, starts), uneven


def balanced_order(costs: Int64, uneven: Int64, key: bytes, together: int = STRATUM) -> Int64:
    """Order of packs in which those that ranks work on at the same time cost nearly the same.

    Packs are sorted by cost (those `ALIKE` as the key has it: what a step holds beside is left to chance) and cut into
    strata of `together`, whose order the key shuffles. Rank r of W takes every
    W-th pack, so the W packs of a step come from one stratum (or, where W does not divide `together`, now and then from
    two): steps are balanced, for every W, and the order is one, so training is elastic. A few packs of one long
    document each may have as much of `uneven` as a hundred others. So that ranks are balanced over the epoch, too,
    packs find their places within their strata from the most expensive stratum down: the largest goes where the ranks
    of 2 to 16 that would take it have least so far. What does not fill a stratum, the cheapest packs, comes last.
    """
    last = len(costs) % together
    # A random number for each pack from a hash: the same for every version and platform of numpy.
    noise = _noise(key, len(costs))
    alike = max(1, int(costs.sum()) // (ALIKE * max(1, len(costs))))
    by_cost = np.lexsort((noise, costs // alike))
    strata = by_cost[last:].reshape(-1, together)
    blocks = np.argsort(np.argsort(noise[: len(strata)], kind="stable"), kind="stable")
    result = np.concatenate((np.zeros(strata.size, np.int64), by_cost[:last]))
    sums = np.zeros((len(_RANKS), max(_RANKS)), np.int64)
    rows, worlds = np.arange(len(_RANKS))[:, None], np.array(_RANKS)[:, None]
    for number in range(len(strata) - 1, -1, -1):
        places = blocks[number] * together + np.arange(together)
        ranks = places % worlds
        # Of 16 ranks each has an eighth of what each of 2 has: shares are compared, not sums.
        filled = (sums[rows, ranks] * worlds).sum(axis=0)
        places = np.argsort(filled, kind="stable")
        packs = strata[number][np.argsort(-uneven[strata[number]], kind="stable")]
        result[blocks[number] * together + places] = packs
        np.add.at(sums, (rows, ranks[:, places]), uneven[packs])
    return result


_RANKS = range(2, 17)
"""Numbers of ranks whose sums are balanced."""


def _noise(key: bytes, count: int) -> UInt64:
    """The splitmix64 generator (Steele, Lea, Flood 2014), started from the key; each of the numbers occurs once."""
    start = np.uint64(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
    state = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class PlanTerms:
    """All that a plan was made from, and the rules; two plans with the same terms are the same, byte for byte."""

    certified: str
    """Digest of the certified samples."""
    mixture: str
    """Digest of the mixture."""
    seed: int
    epoch: int
    sources: tuple[str, ...]
    """Builds; a sample's source is a number into these."""
    length: int
    tiles_limit: int
    over_long: str
    """What becomes of samples that fit into no pack: `report` (no plan is made), `truncate` or `drop`."""
    together: int = STRATUM
    """Packs of nearly equal work that follow each other."""

    @classmethod
    def of(
        cls, order: EpochOrder, length: int, tiles_limit: int, over_long: str, together: int | None = None
    ) -> PlanTerms:
        """The terms of a plan for an epoch's order; `together` is `STRATUM` unless given. Raises: `UserError`."""
        if together is not None and together < 1:
            raise UserError(f"{together} packs together: at least 1")
        return cls(
            order.certified.digest, order.mixture_digest, order.seed, order.epoch, tuple(order.sources),
            length, tiles_limit, over_long, together or STRATUM,
        )  # fmt: skip

    @property
    def recipe(self) -> str:
        """Digest of the packing rules alone: equal for all epochs and mixtures packed in the same way."""
        return _digest(
            [FORMAT, TEMPLATE, TILE_COST, TOKEN_COST, self.together, self.length, self.tiles_limit, self.over_long]
        )

    @property
    def digest(self) -> str:
        """Digest of the terms."""
        return _digest([self.recipe, self.certified, self.mixture, self.seed, self.epoch, list(self.sources)])


def plan_path(data: Path, terms: PlanTerms) -> Path:
    """Where the plan with these terms lies by default: below `DATA/.streams`, which may be deleted."""
    return data / ".streams" / "plans" / f"{terms.digest[:16]}.arrow"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Draws:
    """The samples of an epoch, in its order."""

    source: npt.NDArray[np.int16]
    index: Int64
    tokens: Int32
    tiles: Int32

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: npt.NDArray[Any]) -> Draws:
        """Some of them, by positions or flags."""
        return Draws(self.source[which], self.index[which], self.tokens[which], self.tiles[which])


@dataclass(frozen=True)
class PackedEpoch:
    """A packed epoch, not yet written."""

    draws: Draws
    """What was packed, truncated samples with the tokens that are left of them."""
    result: PackingResult
    over_long: Draws
    """Samples that fit into no pack as they are."""
    cut: npt.NDArray[np.bool_] | None
    """Which of `draws` are truncated; None if none is."""


def write_plan(path: Path, terms: PlanTerms, epoch: PackedEpoch) -> str:
    """Write the plan of an epoch, packs in the order of `balanced_order`; returns its digest. Raises: `OSError`."""
    import pyarrow as pa

    result, cut, tokens = epoch.result, epoch.cut, epoch.draws.tokens
    source, index = epoch.draws.source, epoch.draws.index
    costs, uneven = pack_costs(tokens, epoch.draws.tiles, result.members, result.starts)
    order = balanced_order(costs, uneven, bytes.fromhex(terms.digest), terms.together)
    wide = len(index) > 0 and int(index.max()) > np.iinfo(np.int32).max
    schema = _schema(wide)

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, len(order), CHUNK):
            packs = order[first : first + CHUNK]
            sizes = result.starts[packs + 1] - result.starts[packs]
            offsets = np.concatenate(([0], np.cumsum(sizes)))
            places = np.arange(offsets[-1]) + np.repeat(result.starts[packs] - offsets[:-1], sizes)
            members = result.members[places]
            if cut is None:
                truncate_to = pa.nulls(len(packs), schema.field("truncate_to").type)
            else:
                some = np.maximum.reduceat(cut[members], offsets[:-1])
                kept = np.repeat(some, sizes)
                ends = np.concatenate(([0], np.cumsum(np.where(some, sizes, 0))))
                truncate_to = pa.ListArray.from_arrays(
                    pa.array(ends, pa.int32()), pa.array(tokens[members][kept]), mask=pa.array(~some)
                )
            lists = [
                pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[members], kind.type.value_type))
                for values, kind in ((source, schema.field("source")), (index, schema.field("index")))
            ]
            numbers = [pa.array(column[packs]) for column in (result.tokens, result.tiles, costs)]
            yield pa.RecordBatch.from_arrays([*lists, truncate_to, *numbers], schema=schema)

    chunks = [_chunk_digest(batch) for batch in batches()]
    header: dict[str, Any] = {
        "format": FORMAT, **vars(terms), "packs": len(result), "samples": len(result.members),
        "tokens": int(result.tokens.sum(dtype=np.int64)), "tiles": int(result.tiles.sum(dtype=np.int64)),
        "lower_bound": result.lower_bound, "token_fill": round(result.token_fill, 6),
        "tile_fill": round(result.tile_fill, 6),
        "over_long_samples": {"truncated" if terms.over_long == "truncate" else "dropped": len(epoch.over_long)},
        "chunks": chunks,
    }  # fmt: skip
    header["digest"] = _digest(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = schema.with_metadata({"plan": json.dumps(header)})
    with AtomicFile(path) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches():
            writer.write_batch(batch)
    return str(header["digest"])


def _schema(wide: bool) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("source", pa.list_(pa.int16())),
            ("index", pa.list_(pa.int64() if wide else pa.int32())),
            ("truncate_to", pa.list_(pa.int32())),  # null where no sample of the pack is cut
            ("tokens", pa.int32()),
            ("tiles", pa.int32()),
            ("cost", pa.int64()),
        ]
    )


def _chunk_digest(batch: pa.RecordBatch) -> str:
    """Digest of a record batch's values, not of how Arrow lays them out."""
    digest = hashlib.sha256()
    for column in batch.columns:
        if hasattr(column, "offsets"):
            lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
            digest.update(lengths.astype("<i8").tobytes())
            column = column.flatten()
        values = column.to_numpy(zero_copy_only=False)
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()


class PackPlan:
    """A plan, mapped into memory: opening it and any pack of it take the same time whatever its size.

    `header` has the terms, counts and digests. A chunk of packs is checked against its digest when first touched.
    """

    def __init__(self, path: Path, header: dict[str, Any], file: pa.ipc.RecordBatchFileReader) -> None:
        self.path, self.header = path, header
        self.terms = PlanTerms(**{name: header[name] for name in PlanTerms.__dataclass_fields__})
        self._file = file
        self._chunk: tuple[int, dict[str, Any]] | None = None
        self._checked: set[int] = set()

    @classmethod
    def load(cls, path: Path | str) -> PackPlan:
        """Open a plan. Raises: `UserError` if there is none, or it is not whole."""
        import pyarrow as pa

        path = Path(path)
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            header = json.loads(file.schema.metadata[b"plan"])
            digest = header.pop("digest")
            intact = digest == _digest(header) and header["format"] == FORMAT
            intact &= file.schema.remove_metadata() in (_schema(wide=False), _schema(wide=True))
            header["digest"] = digest
            header["sources"] = tuple(header["sources"])
        except FileNotFoundError:
            raise UserError(f"{path}: no such plan; make it with python -m shards.pack") from None
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: not a packing plan ({type(error).__name__}); make it again") from error
        if not intact or file.num_record_batches != len(header["chunks"]):
            raise UserError(f"{path}: altered, or of another version of the plan; make it again")
        return cls(path, header, file)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackPlan.load, (self.path,)

    def __len__(self) -> int:
        return int(self.header["packs"])

    @property
    def recipe(self) -> str:
        """Digest of the packing rules, equal for all epochs."""
        return self.terms.recipe

    @property
    def digest(self) -> str:
        """Digest of the plan."""
        return str(self.header["digest"])

    def pack(self, number: int) -> tuple[npt.NDArray[np.int16], Int64, Int32 | None]:
        """Samples of a pack, in the order in which they stand in the sequence.

        Returns: number of each sample's source in `terms.sources`; number of the sample in its source; tokens to which
        each sample is cut, None where none of the pack is.

        Raises: `IndexError`; `UserError` if the plan was altered.
        """
        columns, row = self._find(number)
        begin, end = columns["offsets"][row : row + 2]
        cuts = columns["truncate_to"]
        truncate_to = None
        if cuts is not None and cuts[row].is_valid:
            truncate_to = cuts[row].values.to_numpy()
        return (columns["source"][begin:end], columns["index"][begin:end].astype(np.int64, copy=False), truncate_to)

    def size(self, number: int) -> tuple[int, int, int]:
        """Tokens, tiles and cost of a pack."""
        columns, row = self._find(number)
        return int(columns["tokens"][row]), int(columns["tiles"][row]), int(columns["cost"][row])

    def check(self, order: EpochOrder) -> None:
        """Raises: `UserError` if the plan was made for other samples, another mixture, seed or epoch."""
        wanted = PlanTerms.of(order, self.terms.length, self.terms.tiles_limit, self.terms.over_long)
        for name, what in (
            ("certified", "certificate"), ("mixture", "mixture"), ("seed", "seed"), ("epoch", "epoch"),
            ("sources", "list of sources"),
        ):  # fmt: skip
            ours, theirs = getattr(self.terms, name), getattr(wanted, name)
            if ours != theirs:
                shown = [str(value)[:16] for value in (ours, theirs)]
                raise UserError(
                    f"{self.path}: the plan is of another {what} ({shown[0]}) than asked for ({shown[1]}); make one "
                    "with python -m shards.pack"
                )

    def _find(self, number: int) -> tuple[dict[str, Any], int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        chunk, row = divmod(number, CHUNK)
        if self._chunk is None or self._chunk[0] != chunk:
            batch = self._read_chunk(chunk)
            source, index, truncate_to, tokens, tiles, cost = batch.columns
            columns = {
                "offsets": source.offsets.to_numpy(), "source": source.values.to_numpy(),
                "index": index.values.to_numpy(), "tokens": tokens.to_numpy(), "tiles": tiles.to_numpy(),
                "cost": cost.to_numpy(), "truncate_to": None if truncate_to.null_count == len(batch) else truncate_to,
            }  # fmt: skip
            self._chunk = chunk, columns
        return self._chunk[1], row

    def _read_chunk(self, chunk: int) -> pa.RecordBatch:
        import pyarrow as pa

        try:
            batch = self._file.get_batch(chunk)
            if chunk not in self._checked:
                batch.validate(full=True)  # else an altered offset would lead out of the file
                if _chunk_digest(batch) != self.header["chunks"][chunk]:
                    raise pa.ArrowInvalid("another digest")
                self._checked.add(chunk)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.path}: altered, packs from {chunk * CHUNK} ({error}); make it again with python -m shards.pack"
            ) from error
        return batch
