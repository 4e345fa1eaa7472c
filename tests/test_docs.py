"""Every command explains itself: help, examples that parse, exit codes; and the README knows them all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from handlers.core.source import EXPERIMENTAL
from hydra_cli.main import COMMANDS, cli
from hydra_cli.options import EXIT_CODES, Command, Group

DEFAULT_ROOT = "/var/lib/hydra"
ROOT = Path(__file__).resolve().parent.parent


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """All commands with their whole names, groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        whole = (*path, name)
        yield " ".join(whole), found
        if isinstance(found, click.Group):
            yield from commands(found, whole)


ALL = dict(commands())


def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ALL)
def test_command_has_help_examples_and_exit_codes(name: str) -> None:
    found = ALL[name]

    assert found.help
    assert isinstance(found, (Command, Group))
    assert found.examples.strip()
    assert all(option.help for option in found.params if isinstance(option, click.Option))
    if isinstance(found, Command):
        assert {0, 2, 130} <= set(found.codes) <= set(EXIT_CODES)


@pytest.mark.parametrize("name", ["", *ALL])
def test_examples_parse(name: str) -> None:
    """Names, options and values of the examples are ones that the commands take."""
    found = ALL[name] if name else cli
    assert isinstance(found, (Command, Group))

    for line in found.examples.strip().splitlines():
        parse(line)


def parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)  # a variable for this command
    if "|" in words:
        words = words[: words.index("|")]
    if words[0] == ".":
        return  # the shell reads a file
    assert words[0] == "hydra", line
    words = [str(ROOT) if word == DEFAULT_ROOT else word for word in words]  # a folder that is there
    command: click.Command = cli
    words, context = words[1:], click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
    with command.make_context(command.name, words, resilient_parsing=False):
        pass


@pytest.mark.parametrize("name", COMMANDS)
def test_short_help_in_the_list_is_the_commands_own(name: str) -> None:
    """The list of commands is printed without importing them, so it could tell something else."""
    own = (ALL[name].help or "").split("\n\n")[0].replace("\n", " ").strip()

    assert own.rstrip(".").startswith(COMMANDS[name][2].rstrip(".").split(":")[0].split(",")[0])


def test_help_of_every_command_prints_and_names_its_exit_codes() -> None:
    for name, found in ALL.items():
        text = found.get_help(click.Context(found, info_name=name))
        assert "Examples:\n" in text
        for code in getattr(found, "codes", ()):
            assert re.search(rf"^ +{code}  ", text, re.MULTILINE), (name, code)


def test_readme_knows_every_command() -> None:
    """As `hydra publish …`, or several at once as in `hydra node list|show`."""
    lines = [line.replace("\\|", "|") for line in readme().splitlines() if "hydra " in line]

    assert [
        name for name, found in ALL.items() if isinstance(found, Command) and not named(name, lines)
    ] == []


def named(name: str, lines: list[str]) -> bool:
    group, _, last = name.rpartition(" ")
    start = f"hydra {group} " if group else "hydra "
    return any(re.search(rf"{start}([a-z-]+\|)*{last}(?![a-z-])", line) for line in lines)


@pytest.mark.parametrize("scheme", EXPERIMENTAL)
def test_what_no_real_server_has_served_is_called_experimental(scheme: str) -> None:
    assert re.search(rf"^\| `{scheme}://[^`]*` .*\*\*experimental\*\*", readme(), re.MULTILINE)
    for name in ("publish", "channel import"):
        assert re.search(rf"{scheme}://[^.]* experimental", " ".join((ALL[name].help or "").split()))


def test_readme_knows_every_exit_code() -> None:
    text = readme()

    rows = set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
    assert {str(code) for code in EXIT_CODES} <= rows
