"""Tar headers against the standard library's, shard sizes and atomicity."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medgpt.atomic import AtomicFile, write_atomic
from medgpt.digest import merkle_root
from shards.writer import TarShardWriter, tar_header


@given(name=st.from_regex(r"[A-Za-z0-9_\-/.]{1,150}", fullmatch=True), size=st.integers(0, 8**11 + 5))
def test_header_is_that_of_tarfile(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    try:
        expected = member.tobuf(format=tarfile.USTAR_FORMAT)
    except ValueError:
        with pytest.raises(ValueError, match=r"too long|overflow"):
            tar_header(name, size)
        return
    assert tar_header(name, size) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.lists(st.integers(0, 3000), max_size=4), min_size=1, max_size=30),
    shard_bytes=st.sampled_from([1, 5_000, 20_000, 1 << 30]),
)
def test_shards_hold_every_sample_in_order(tmp_path: Path, sizes: list[list[int]], shard_bytes: int) -> None:
    writer = TarShardWriter(tmp_path, "s", shard_bytes)
    expected: list[tuple[str, bytes]] = []
    places = []
    for number, of_sample in enumerate(sizes):
        images = [(f"{i}.jpg", bytes([number % 251]) * size) for i, size in enumerate(of_sample)]
        places.append((writer.add(f"s/{number}", b"{}", images), images))
        expected += [(f"s/{number}.json", b"{}"), *((f"s/{number}.{ext}", data) for ext, data in images)]
    shards = writer.close()
    found: list[tuple[str, bytes]] = []
    for shard in shards:
        data = (tmp_path / shard.name).read_bytes()
        assert len(data) == shard.size
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    assert found == expected
    assert sum(shard.samples for shard in shards) == len(sizes)
    for place, images in places:
        data = (tmp_path / place.shard).read_bytes()
        assert [data[start : start + size] for start, size in place.images] == [image for _, image in images]
    if shard_bytes == 1:
        assert len(shards) == len(sizes)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), AtomicFile(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write_atomic(path, b"old")
    with AtomicFile(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_merkle_root_follows_rfc_6962(leaves: list[bytes]) -> None:
    """Against the RFC's recursive definition, split at the largest power of two below the length."""
    import hashlib

    def tree(entries: list[bytes]) -> bytes:
        if not entries:
            return hashlib.sha256(b"").digest()
        if len(entries) == 1:
            return hashlib.sha256(b"\x00" + entries[0]).digest()
        split = 1
        while split * 2 < len(entries):
            split *= 2
        return hashlib.sha256(b"\x01" + tree(entries[:split]) + tree(entries[split:])).digest()

    assert merkle_root(leaves) == tree(leaves)
