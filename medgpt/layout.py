"""Names and depths of a tree of builds, for the commands that read it on a disk and for those that fetch it."""

BUILD_FILE = "build.json"
MAX_DEPTH = 4
"""Levels of folders below a root in which builds are looked for."""
