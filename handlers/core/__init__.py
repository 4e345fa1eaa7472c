"""Decisions: no I/O, no clock, no logging; only the standard library, and msgspec.

All values are of its `Struct`: a handler makes a hundred classes whenever it starts, and as dataclasses
they took 50 ms of processor more.
"""
