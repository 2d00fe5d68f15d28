"""Fetch a hub dataset at its pinned revision into a raw tree; resumable, and never anything credentialed."""

import logging
import re
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from builders.engine.source import NotThisSource, Source


def download(source: Source, raw: Path, revision: str, quiet: bool = False) -> None:
    """Fetch the files a builder reads; files already whole are not fetched again.

    The endpoint is `HF_ENDPOINT` where set (a mirror inside a hospital), gated sets need `HF_TOKEN` or a login. Any
    failure is a `NotThisSource` with one line that says what to do. `quiet` shows no progress bars.
    """
    if source.access == "credentialed":
        print(f"{source.name}: how to obtain it\n{source.obtain.strip()}", file=sys.stderr)
        raise NotThisSource("credentialed, so it is not fetched for you")
    if not revision:
        raise NotThisSource(f"--download needs --revision SHA (see {source.homepage}); none is pinned here")
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise NotThisSource(f"--revision {revision}: give the commit's 40 digits; a branch or tag may move")
    try:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi, errors, get_cached_repo_tree, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise NotThisSource(
            "--download needs huggingface_hub 2.4 or newer: python -m pip install 'huggingface_hub>=2.4'"
        ) from None

    if quiet:
        disable_progress_bars()
    # Retries are its own matter; a failure is told below, in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for hub_id in (source.hub_id, *source.hub_moved):
        where = f"{hub_id} at {revision}"
        listing = partial(get_cached_repo_tree, hub_id, repo_type="dataset", revision=revision, local_dir=raw)
        try:
            try:
                listing()
            except errors.CachedRepoTreeNotFoundError:
                # `snapshot_download` would take the folder as it is where the hub cannot be reached or refuses.
                HfApi().dataset_info(hub_id, revision=revision)
            snapshot_download(
                hub_id, repo_type="dataset", revision=revision, local_dir=raw, allow_patterns=list(source.hub_files)
            )
            files = [file for file in listing() if any(fnmatch(file.path, pattern) for pattern in source.hub_files)]
            break
        except errors.GatedRepoError:
            raise NotThisSource(f"{where}: gated; accept its terms at {source.homepage} and set HF_TOKEN") from None
        except errors.RevisionNotFoundError:
            raise NotThisSource(
                f"{where}: the publisher has no such revision (any more); fetch by hand, use --raw"
            ) from None
        except errors.RepositoryNotFoundError:
            continue  # repositories move, and a mirror may know one name alone
        except (errors.CachedRepoTreeNotFoundError, HTTPError, OSError) as error:
            raise NotThisSource(
                f"{where}: download stopped ({_first_line(error)}); the same command resumes it"
            ) from None
    else:
        nor = f"; nor is {' or '.join(source.hub_moved)}" if source.hub_moved else ""
        raise NotThisSource(
            f"{source.hub_id} at {revision}: not found, or not for this account; {source.homepage}{nor}"
        )
    if not files:
        raise NotThisSource(f"{where}: has none of {', '.join(source.hub_files)}; another revision?")
    for file in files:
        # A file of another revision stays where its successor cannot be had.
        path = raw / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise NotThisSource(f"{path}: not the file of {revision}, which could not be fetched; run again")


def _first_line(error: BaseException) -> str:
    """What went wrong, in the words of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
