"""Typed settings: `schema` declares every key with its range, `settings` reads them, presets/ are files of them."""
