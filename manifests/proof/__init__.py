"""Levels of overlap, policy, certificate, report and the second derivation."""
