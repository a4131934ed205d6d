"""Keeps the ordinary test suite out of here: this command needs POT and its tests."""

collect_ignore_glob = ["*.py"]
