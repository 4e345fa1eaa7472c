"""`hydra`: the commands, and the one place where errors become exit codes.

A command's module is imported when it is run, so that `hydra --help` and shell completion are quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import click

from handlers.core.errors import EXIT_INTERRUPTED, HydraError
from hydra_cli.context import Context
from hydra_cli.options import Group, Lazy, group

COMMANDS = {
    "init": ("hydra_cli.init", "init", "Prepare a Consul for Hydra, or add environments to it."),
    "doctor": (
        "hydra_cli.doctor",
        "doctor",
        "Check Consul, permissions, S3, space and clock from this machine.",
    ),
    "acl": ("hydra_cli.acl", "acl", "Print the ACL policies of Hydra's roles."),
    "publish": ("hydra_cli.publish", "publish", "Announce the newest complete data on S3 as a release."),
    "push": ("hydra_cli.push", "push", "Upload a dataset to S3 with digests of all its bytes."),
    "get": (
        "hydra_cli.get",
        "get",
        "Download one release of a channel into a folder.",
    ),
    "channel": ("hydra_cli.channel", "channel", "List, show and change channels."),
    "diff": ("hydra_cli.diff", "diff", "Show which datasets and files are added, removed and changed."),
    "history": ("hydra_cli.history", "history", "Show who changed what, newest first."),
    "rollback": (
        "hydra_cli.reject",
        "rollback",
        "Reject what a channel targets now, so that services go back.",
    ),
    "reject": (
        "hydra_cli.reject",
        "reject",
        "Call a release bad: nobody moves to it, who runs it goes back.",
    ),
    "accept": ("hydra_cli.reject", "accept", "Take back a rejection."),
    "pin": ("hydra_cli.pin", "pin", "Hold a channel, or one service's use of it, at a version."),
    "unpin": ("hydra_cli.pin", "unpin", "Take a pin away: the head counts again."),
    "subscribe": (
        "hydra_cli.subscribe",
        "subscribe",
        "Let a service read channels, or change how it is reloaded.",
    ),
    "unsubscribe": ("hydra_cli.subscribe", "unsubscribe", "End a service's subscription."),
    "register": (
        "hydra_cli.register",
        "register",
        "Register an instance of a service on a node by hand.",
    ),
    "deregister": ("hydra_cli.register", "deregister", "Take a registered instance away."),
    "promote": ("hydra_cli.promote", "promote", "Announce the release that is staged."),
    "status": ("hydra_cli.status", "status", "Show what is wrong, then channels, services and nodes."),
    "why": ("hydra_cli.why", "why", "Say in one sentence what an instance waits for."),
    "view": ("hydra_cli.view", "view", "Show what each instance of a service uses, and where its view is."),
    "rollout": ("hydra_cli.rollout", "rollout", "Watch and control how instances of a service are moved."),
    "recover": (
        "hydra_cli.recover",
        "recover",
        "End the hold after Consul's KV was restored from an older state, wiped, or exchanged.",
    ),
    "node": ("hydra_cli.node", "node", "List, show, cordon and forget nodes; run Hydra on one."),
    "verify": (
        "hydra_cli.verify",
        "verify",
        "Read what lies on this node again and compare it with its releases.",
    ),
    "dev": ("hydra_cli.dev.main", "dev", "Run a real local cluster, and the demo."),
}
EXAMPLES = """
hydra dev up --detach
hydra publish template.py --env dev -n search --release places --wait --timeout 5m
hydra status
hydra rollback dev/search/places --reason "ranking is off"
"""


class Hydra(Group):
    """The top group. What a command raises becomes one message and an exit code here, and nowhere else."""

    lazy: ClassVar[Lazy] = COMMANDS

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and leave the process; without `standalone_mode` errors are the caller's."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        context = extra.pop("obj", None) or Context()
        sys.exit(
            self._code(
                context,
                lambda: super(Hydra, self).main(args, prog_name, complete_var, False, obj=context, **extra),
            )
        )

    def _code(self, context: Context, run: Any) -> int:
        try:
            result = run()
        except click.UsageError as e:
            hint = f" (see `{e.ctx.command_path} --help`)" if e.ctx else ""
            return fail(context, f"{e.format_message()}{hint}", "Usage", e.exit_code)
        except click.ClickException as e:
            return fail(context, e.format_message(), type(e).__name__, e.exit_code)
        except HydraError as e:
            return fail(context, str(e), type(e).__name__, e.exit_code)
        except (click.Abort, KeyboardInterrupt):
            return fail(context, "interrupted", "Interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            # whoever read our output has seen enough; Python must not complain about it on its way out
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as e:  # a mistake of ours: in one line, in full when asked
            if _follows_an_interrupt(e):
                return fail(context, "interrupted", "Interrupted", EXIT_INTERRUPTED)
            if context.environ.get("HYDRA_DEBUG"):
                raise
            return fail(
                context, f"{type(e).__name__}: {e} (a defect; HYDRA_DEBUG=1 shows where)", "Defect", 1
            )
        return result if isinstance(result, int) else 0


def _follows_an_interrupt(error: BaseException) -> bool:
    """Whether it came up on the way out after Ctrl-C: locks of `threading`, for one, do not expect that."""
    before = error.__context__
    return before is not None and (isinstance(before, KeyboardInterrupt) or _follows_an_interrupt(before))


def fail(context: Context, text: str, kind: str, code: int) -> int:
    """Say why on stderr; the exit code."""
    context.screen.error(text, kind, code)
    return code


def declare(function: Any) -> Hydra:
    """The top group with the options of all commands."""
    made = group("hydra", examples=EXAMPLES)(function)
    top = Hydra("hydra", callback=made.callback, params=made.params, help=made.help)
    top.examples = EXAMPLES
    return top


@declare
@click.version_option(package_name="hydra-datasets", message="hydra %(version)s")
def cli() -> None:
    """Versioned datasets on every node, swapped under running services one replica at a time.

    Consul and S3 are found as their own tools find them (CONSUL_HTTP_ADDR, AWS_ENDPOINT_URL, …), or by
    environment in ~/.config/hydra/config.toml. Data goes to stdout, everything else to stderr.
    """


def main() -> NoReturn:
    """The entry point of the program `hydra`."""
    try:
        cli.main(prog_name="hydra")
    except SystemExit as e:
        if e.code == EXIT_INTERRUPTED:
            # threads that wait for Consul or S3 would be waited for, up to their time-outs
            sys.stdout.flush()
            os._exit(EXIT_INTERRUPTED)
        raise
    raise AssertionError("unreachable: click always leaves the process")


if __name__ == "__main__":  # `python -I -m hydra_cli.main`: the same, without looking at PATH
    main()
