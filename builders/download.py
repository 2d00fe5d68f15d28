"""Fetch a hub dataset at its pinned revision into a raw tree; resumable, and never anything credentialed."""

from __future__ import annotations

from pathlib import Path

from builders.source import NotThisSource, Source


def download(source: Source, raw: Path, revision: str) -> None:
    """Fetch the files a builder reads; files already whole are not fetched again.

    The endpoint is `HF_ENDPOINT` where set (a mirror inside a hospital), gated sets need `HF_TOKEN` or a login. Any
    failure is a `NotThisSource` with one line that says what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if source.access == "credentialed":
        raise NotThisSource(f"{source.name} is credentialed and is not fetched for you:\n{source.obtain.strip()}")
    if not revision:
        raise NotThisSource(
            f"{source.name}: --download needs --revision SHA (see {source.homepage}); none is pinned here"
        )
    where = f"{source.hub_id} at {revision}"
    try:
        snapshot_download(
            source.hub_id,
            repo_type="dataset",
            revision=revision,
            local_dir=raw,
            allow_patterns=list(source.hub_files),
        )
    except GatedRepoError:
        raise NotThisSource(f"{where}: gated; accept its terms at {source.homepage} and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise NotThisSource(
            f"{where}: the publisher no longer has this revision; fetch by hand and use --raw"
        ) from None
    except RepositoryNotFoundError:
        raise NotThisSource(f"{where}: not found, or not for this account; {source.homepage}") from None
    except (HfHubHTTPError, OSError) as error:
        first = str(error).splitlines()[0]
        raise NotThisSource(f"{where}: download stopped ({first}); the same command resumes it") from None
