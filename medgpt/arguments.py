"""The words of a command line, alike in all commands."""

import argparse
import re
from pathlib import Path
from typing import Any, Literal, get_args

Frame = Literal["first", "middle", "last"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
"""Which one of a picture's frames is taken."""


def command_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser of `python -m MODULE`; its help ends with `example` as it is written.

    A path that is a URL is refused: as a path it would be a folder `s3:` below the present one.
    """
    return _Parser(
        f"python -m {module}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        for value in vars(found).values():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and (url := re.match(r"([a-z][a-z0-9+.-]+):/", str(path))):
                    self.error(f"{url[1]}://...: this command works on files of this machine or of a shared disk")
        return found, rest
