"""The words of a command line, alike in all commands."""

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

Frame = Literal["first", "middle", "last"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
"""Which one of a picture's frames is taken."""
_URL = r"([a-z][a-z0-9+.-]+):/+(.*)"


def command_parser(module: str, description: str, example: str, urls: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parser of `python -m MODULE`; its help ends with `example` as it is written.

    A path that is a URL is refused, as a path it would be a folder `s3:` below the present one; but for the arguments
    `urls`, which `url_of` tells from paths.
    """
    parser = _Parser(
        f"python -m {module}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.urls = urls
    return parser


def url_of(path: Path | str) -> str | None:
    """The URL that stands on a command line where a path may be; None for a path of this machine.

    A `Path` folds the slashes of `s3://bucket`. `file://` is a path: see `local_path`.
    """
    found = re.fullmatch(_URL, str(path), re.DOTALL)
    return None if found is None or found[1] == "file" else f"{found[1]}://{found[2]}".rstrip("/")


def local_path(path: Path) -> Path:
    """A path without `file://`."""
    return Path("/" + str(path)[5:].lstrip("/")) if str(path).startswith("file:/") else path


class _Parser(argparse.ArgumentParser):
    urls: Collection[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if name in self.urls and isinstance(value, Path):
                setattr(found, name, local_path(value))
                continue
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and (url := re.match(_URL, str(path))):
                    self.error(f"{url[1]}://...: this command works on files of this machine or of a shared disk")
        return found, rest
