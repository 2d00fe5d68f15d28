"""Measurements, side by side with a peer or a stated limit; nothing here is asserted in the tests."""
