"""Whose files these are: what comes from credentialed data is its owner's alone, 0600 in folders 0700.

A process that opens a credentialed build or source is private from then on (`keep_private`), whatever the umask was:
every file and folder that it, its workers and the libraries they use make afterwards, temporary files and caches
included, and what other builds give in the same run. This hangs on reading, not on writing: builds are opened in few
places (`manifests.catalog`, `shards.reader`, `shards.certified`, `eval.records`, the builders), so
no new command can forget it. A process that opens nothing credentialed heeds the umask: open data can be shared.
"""

import contextlib
import os
import stat
from pathlib import Path

CREDENTIALED = "credentialed"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

# A spawned worker of a private process finds the umask that it inherits. It can be read only by setting it.
_private = os.umask(_OTHERS)
os.umask(_private)
_private &= _OTHERS


def keep_private(access: str) -> None:
    """Note that data of this access is read: after `credentialed` all that this process makes is its owner's alone."""
    global _private
    if access == CREDENTIALED:
        os.umask(_OTHERS)
        _private = _OTHERS


def is_private() -> bool:
    """Whether what this process makes is its owner's alone: it reads credentialed data, or its user wants it so."""
    return _private == _OTHERS


def make_folder(folder: Path) -> None:
    """Make a folder of our own and those above it; one that is there stays.

    In a private process, a folder that was open to others is closed to them with all that is in it: what an earlier
    run left there may be appended to or used again. Links are not followed, what others own is left alone.

    Raises: `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_private() and _close(folder):
        for path in folder.rglob("*"):
            # Temporary files of another process come and go.
            with contextlib.suppress(FileNotFoundError):
                _close(path)


def _close(path: Path) -> bool:
    """Take the rights of others away; whether there were any to take."""
    mode, owner = (status := path.lstat()).st_mode, status.st_uid
    if stat.S_ISLNK(mode) or owner != os.geteuid() or not mode & _OTHERS:
        return False
    path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    return True
