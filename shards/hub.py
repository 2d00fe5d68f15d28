"""Our shards and exports on the hub: `datasets` features of shards, and `push` of an export.

`load_dataset("webdataset", ...)` infers its columns from a tar's first five samples and drops, without a word, what
later ones have more: a second picture, a PNG among JPEGs. Pass `features=features(BUILD)`. Needs the extra `hub`.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.catalog import load_builds
from medgpt.errors import UserError, one_line
from medgpt.schema import SAMPLE


def features(*builds: str | Path) -> Any:
    """`datasets.Features` of the shards of builds: their folders, or any folder above them.

    Of tars: the JSON of a sample, and a column for each place and format in which a sample of theirs has a picture
    (`0.jpg`, `0.png`, `1.jpg`, ...), None where a sample has none. Of Arrow shards: the columns of a sample.

    Raises: `UserError`, also where some have tars and some Arrow shards, which `datasets` loads by two calls.
    """
    from datasets import Features, Image, Value

    found = [build for folder in builds for build in load_builds(Path(folder))]
    kinds = {Path(shard["file"]).suffix for one in found for unit in one.record["units"] for shard in unit["shards"]}
    if len(kinds) > 1:
        raise UserError(f"{', '.join(map(str, builds))}: some have tars and some Arrow shards; load them by two calls")
    sample = Features.from_arrow_schema(SAMPLE)
    if kinds == {".arrow"}:
        return sample
    members: set[tuple[int, str]] = set()
    for one in found:
        for _, part in one.parts("images"):
            table = pq.read_table(part, columns=["index", "format"]).group_by(["index", "format"]).aggregate([])
            members |= set(zip(table["index"].to_pylist(), table["format"].to_pylist(), strict=True))
    pictures = {f"{index}.{extension}": Image() for index, extension in sorted(members)}
    return Features({"json": dict(sample), **pictures, "__key__": Value("string"), "__url__": Value("string")})


def push(folder: Path, repository: str, besides: str, *, quiet: bool = False) -> str:
    """Upload an export as one commit of a dataset repository, which is made, private, where it is not there; its URL.

    Files in `besides` stay. Endpoint and account are those of `huggingface_hub` (HF_ENDPOINT, HF_TOKEN or a login);
    what is there already is not sent again. Raises: `UserError`.
    """
    try:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise UserError(
            "--push needs huggingface_hub 2.4 or newer: python -m pip install 'huggingface_hub>=2.4'"
        ) from None
    if quiet:
        disable_progress_bars()
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, repo_type="dataset", folder_path=folder, ignore_patterns=[f"{besides}/*"],
            commit_message="Certified training samples",
        )  # fmt: skip
    except (errors.HFValidationError, errors.HfUriError, HTTPError, OSError) as error:
        raise UserError(f"--push {repository}: {one_line(error)}; the export itself is whole, run again") from error
    return str(commit.commit_url)
