"""Presets, read by Hydra; every command shares the keys of study.yaml."""
