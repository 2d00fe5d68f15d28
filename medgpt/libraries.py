"""What libraries say by the way - warnings, log lines - goes to a file, not between our own lines on the screen."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = "libraries.log"
"""Name of the file in the folder of a run."""


class LibraryLog(logging.Handler):
    """Holds what libraries say until there is a folder to write it to."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._file: Path | None = None
        self._waiting: list[str] = []
        self._warnings: set[str] = set()

    def keep_in(self, file: Path) -> None:
        """Append to this file from its folder's being there on. It is made where something is said."""
        self._file = file
        self._write()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; one of an error is shown, too. A warning is kept once, as Python means to show it."""
        if record.name == "py.warnings":
            text = record.getMessage()
            if text in self._warnings:  # libraries reset Python's own memory of what it has shown
                return
            self._warnings.add(text)
        line = self.format(record)
        self._waiting.append(f"{line}\n")
        if record.levelno >= logging.ERROR:
            print(line, file=sys.stderr, flush=True)
        self._write()

    def rest(self) -> tuple[int, Path] | None:
        """How many messages found no folder, and the new file among the temporary ones that has them."""
        self._write()
        if not self._waiting:
            return None
        count = len(self._waiting)
        number, name = tempfile.mkstemp(suffix=f"-{LIBRARIES}")
        os.close(number)
        self.keep_in(Path(name))
        return count, Path(name)

    def _write(self) -> None:
        if not self._waiting or self._file is None or not self._file.parent.is_dir():
            return
        try:
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(self._waiting))
        except OSError:
            return  # a full disk is told by those who write what matters; the lines wait
        self._waiting.clear()


@contextmanager
def libraries_apart() -> Iterator[LibraryLog]:
    """Send warnings and all loggers of this process to a `LibraryLog` for a while.

    What was said and has no folder of a run at the end is written to a temporary file, and a line on standard error
    names it. Text that compiled code writes there itself passes by.
    """
    log, root, make, died = LibraryLog(), logging.getLogger(), logging.getLogRecordFactory(), threading.excepthook
    taken: list[tuple[logging.Logger, logging.Handler, bool]] = []

    def record(name: str, *arguments: Any, **named: Any) -> logging.LogRecord:
        # Libraries bring handlers for the screen when they are imported, at any time: they are taken away when used.
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            for handler in [each for each in logger.handlers if type(each) is logging.StreamHandler]:
                taken.append((logger, handler, logger.propagate))
                logger.removeHandler(handler)
                logger.propagate = True
            logger = logger.parent
        return make(name, *arguments, **named)

    logging.setLogRecordFactory(record)
    logging.captureWarnings(True)
    # TensorBoard's thread dies of a full disk.
    threading.excepthook = lambda end: root.warning("a thread died", exc_info=end.exc_value)
    root.addHandler(log)
    try:
        yield log
    finally:
        root.removeHandler(log)
        logging.captureWarnings(False)
        threading.excepthook = died
        logging.setLogRecordFactory(make)
        for logger, handler, propagate in reversed(taken):
            logger.addHandler(handler)
            logger.propagate = propagate
        if (rest := log.rest()) is not None:
            print(f"{rest[0]} messages of libraries are in {rest[1]}", file=sys.stderr, flush=True)
