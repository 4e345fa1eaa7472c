"""`python -m tests.bench [FIGURE …]`: measure, and print the machine and the table."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping

from tests.bench import machine
from tests.bench.report import Findings, Row, table, verdicts

FIGURES = {
    1: "start_up",
    2: "propagation",
    3: "rollback",
    4: "memory",
    5: "reloads",
    6: "downloads",
    7: "crowd",
    8: "unchanged",
}
LARGE = {8}
"""Measured only when asked for by number."""


def main(arguments: list[str]) -> None:
    """Measure the figures named in `arguments` (default: all but the large ones)."""
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("figures", nargs="*", type=int, metavar="FIGURE", help=f"of {list(FIGURES)}")
    parser.add_argument("--rounds", type=int, default=5, help="of figure 6 (default: 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of figures 6, 8: less data")
    options = parser.parse_args(arguments)
    wanted = options.figures or sorted(FIGURES.keys() - LARGE)
    if unknown := set(wanted) - set(FIGURES):
        parser.error(f"no figure {unknown}; there are {list(FIGURES)}")
    _forget_environment()
    for name, text in machine.description():
        print(f"{name:16} {text}", flush=True)
    rows: list[Row] = []
    for figure in sorted(set(wanted)):
        print(f"\nfigure {figure}: measuring; others use {machine.busy():.0%} of the processors", flush=True)
        how = {6: {"rounds": options.rounds, "scale": options.scale}, 8: {"scale": options.scale}}
        findings = _measured(figure, how.get(figure, {}))
        rows += findings.rows
        print("\n".join((table(findings.rows), *findings.notes)), flush=True)
    print("\n" + "\n".join(verdicts(rows)))


def _measured(figure: int, how: Mapping[str, float]) -> Findings:
    module = importlib.import_module(f"tests.bench.{FIGURES[figure]}")
    findings: Findings = module.measure(**how)
    return findings


def _forget_environment() -> None:
    """The Consul, the S3 and the Hydra of whoever measures are not what is measured."""
    for name in list(os.environ):
        if name.startswith(("CONSUL_", "AWS_", "HYDRA_")) and name != "HYDRA_CACHE":
            del os.environ[name]


if __name__ == "__main__":
    main(sys.argv[1:])
