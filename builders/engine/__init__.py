"""The one build loop: plan, units, readers, accounting, command line."""
