"""The demo: the main job on three nodes under live traffic, measured."""
