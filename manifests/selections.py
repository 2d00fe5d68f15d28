"""What filters decided about a build, for whoever reads it: which samples are to be left out.

    DATA/filtered/<build>/recipe.json          what the builder filters by; written before anything is scored
    DATA/filtered/<build>/selection.parquet    one row a sample: sample_id, kept, reason, ...
    DATA/filtered/<build>/waterfall.json       counts, recipe, and the digest of the selection; written last

`filters.decide` and the builders write these; filters never change a shard. `dropped_samples` is how streaming and
training read them: it checks what can be checked, and a build that was to be filtered and was not is an error.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manifests.catalog import LoadedBuild
from medgpt.errors import UserError
from medgpt.limited import read_file

if TYPE_CHECKING:
    import pyarrow as pa

FILTERED = "filtered"
BUILT = "built"
REQUEST_FILE, SELECTION_FILE, WATERFALL_FILE, GALLERY_FILE = (
    "recipe.json", "selection.parquet", "waterfall.json", "gallery.html",
)  # fmt: skip


class SelectionFileError(UserError):
    """One line: why a build's selection cannot be relied on, and what to do."""


class Dropped(NamedTuple):
    """The samples of a build that a recipe takes out."""

    sample_ids: "pa.StringArray"
    """Sorted, each once."""
    sha256: str
    """Digest of `selection.parquet`, hex: it covers the build's root, the recipe's digest and every verdict."""


def data_folder(built: Path) -> Path:
    """DATA of a folder of builds: above it where it is called `built`, as by default, else the folder itself."""
    built = built.absolute()
    return built.parent if built.name == BUILT else built


def selection_folder(data: Path, build: str, role: str = "train") -> Path:
    """Where the selection of a build's samples of one role lies."""
    return data / FILTERED / (build if role == "train" else f"{build}@{role}")


def selection_files(data: Path, build: LoadedBuild, role: str = "train") -> list[Path]:
    """All that a selection of a build may have, below `data` and beside the build, whether it is there or not."""
    places = sorted({data, data_folder(build.folder.parent)})
    files = REQUEST_FILE, SELECTION_FILE, WATERFALL_FILE
    return [selection_folder(place, build.record["build"], role) / file for place in places for file in files]


def dropped_samples(data: Path, build: LoadedBuild, role: str = "train") -> Dropped | None:
    """The samples of one role that the filters took out of a build; None where it was not filtered.

    data: the folder given to `filters.decide`, or any folder of builds: the place beside the build is looked at, too.
    Checked: the digest of the selection, that it was made for this very root, for every sample of the role once.
    Raises: `SelectionFileError`.
    """
    name = build.record["build"]
    places = {file.parent.resolve() for file in selection_files(data, build, role) if file.exists()}
    if not places:
        if role == "train" and build.record.get("filter_wanted"):
            raise _unfinished(build.folder)
        return None
    if len(places) > 1:
        first, second = sorted(map(str, places))
        raise SelectionFileError(f"{name}: two selections, {first} and {second}; delete the one that is not meant")
    [folder] = places
    return _read(folder, build, role)


def _read(folder: Path, build: LoadedBuild, role: str) -> Dropped:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from medgpt.digest import file_sha256

    path = folder / WATERFALL_FILE
    try:
        waterfall: dict[str, Any] = json.loads(read_file(path))
        path = folder / SELECTION_FILE
        digest = file_sha256(path).hex()
        if digest != waterfall["selection_sha256"]:
            raise SelectionFileError(f"{path}: not the file that {WATERFALL_FILE} names; run filters.decide again")
        table = pq.read_table(path, columns=["sample_id", "kept"])
        meta = pq.read_metadata(path).metadata or {}
        root, read, dropped = waterfall["root"], waterfall["read"], waterfall["dropped"]
        recipe, made_for = waterfall["recipe"]["sha256"], waterfall["role"]
    except FileNotFoundError as error:
        if path.name == WATERFALL_FILE:
            raise _unfinished(folder) from None
        raise SelectionFileError(f"{path}: {error.strerror}; run filters.decide again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SelectionFileError(f"{path}: cannot be read ({error}); run filters.decide again") from error
    except (KeyError, TypeError, pa.ArrowInvalid) as error:
        raise SelectionFileError(f"{path}: no selection ({type(error).__name__}); run filters.decide again") from error
    if root != build.record["root"] or meta.get(b"root") != root.encode():
        raise SelectionFileError(
            f"{folder}: made for another build (root {root[:16]}, where {build.folder} is "
            f"{build.record['root'][:16]}); run filters.run and filters.decide again"
        )
    kept_rows = sum(unit["kept"] for unit in build.record["units"] if unit["role"] == role)
    ids = table.filter(pc.invert(table["kept"]))["sample_id"].combine_chunks()
    counts = (table.num_rows, read, len(ids), pc.count_distinct(table["sample_id"]).as_py())
    stated = (made_for, meta.get(b"recipe_sha256"), *counts)
    if stated != (role, recipe.encode(), kept_rows, kept_rows, dropped, kept_rows):
        raise SelectionFileError(
            f"{folder}: does not say once of each of {kept_rows} {role} samples of {build.folder} whether it stays; "
            "run filters.decide again"
        )
    return Dropped(ids.take(pc.sort_indices(ids)), digest)


def _unfinished(folder: Path) -> SelectionFileError:
    return SelectionFileError(
        f"{folder}: filtering was begun and not finished; run the builder again, or it with --filters none"
    )
