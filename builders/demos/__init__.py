"""Synthetic raw trees in their publishers' layouts; loaded by --demo and by tests alone."""
