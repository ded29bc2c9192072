"""Signals of a trajectory; the spanning-tree kernel that topology and controllers share."""
