"""A real cluster on one machine, for `hydra dev`, the demo and the end-to-end tests."""
