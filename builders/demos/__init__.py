"""Synthetic raw trees in their publishers' layouts; loaded by --demo and by tests alone.

A module has `write(raw)`, which writes its source's tree, and may have `PLANTED`: what is twice in the tree on purpose,
or also in that of another source, by level, for the audits and the proof to find.
"""
