"""Planted mechanisms: models whose mechanism is known, to try attributions on."""
