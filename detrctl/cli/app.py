"""`detrctl`: the commands by name, and the one place where errors become lines and exit codes.

0: done; 1: done in part, or our bug (with a traceback); 2: something for the user to put right; 130: interrupted.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from detrctl import __version__
from detrctl.cli import render
from detrctl.cli.mistakes import ClickError, is_help, mistake
from detrctl.errors import DetrctlError

COMMANDS = (
    ("train", "detrctl.cli.train:train", "Train a recipe on a dataset."),
    ("eval", "detrctl.cli.eval:evaluate", "COCO scores of a checkpoint or a result file."),
    ("predict", "detrctl.cli.predict:predict", "Find objects in images; draw and save them."),
    ("compare", "detrctl.cli.compare:compare", "Put runs side by side: scores, speed, curves."),
    ("weights", "detrctl.cli.weights:weights", "Tell, convert, list and fetch files of weights."),
    ("inspect-data", "detrctl.cli.inspect_data:inspect_data", "See what a dataset holds, as a model sees it."),
    ("recipes", "detrctl.cli.recipes:recipes", "List, show, explain and compare recipes."),
    ("visualize-queries", "detrctl.cli.visualize_queries:visualize_queries", "See what each object query does."),
    ("inspect-matching", "detrctl.cli.inspect_matching:inspect_matching", "See which query meets which object."),
)
"""Name, home and one line of help. Each module is light to import: what is heavy is imported inside the command."""

USER_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left: the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
BROKEN_PIPE = 128 + 13
"""What a shell reports for a program that died of SIGPIPE, as `detrctl ... | head` expects."""


def _version(wanted: bool) -> None:
    if wanted:
        render.say(f"detrctl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Train, evaluate, use and inspect the DETR family of object detectors."""


class Command(TyperCommand):
    """A command whose usage has `SOURCE...` and `NAME`, where some versions of Typer write `{SOURCE...}...`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "").replace("......", "...") for piece in pieces]


class Commands(TyperGroup):
    """The commands of `COMMANDS`, each imported when it is asked for: a help need not build all the others' options."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, _, _ in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Of a name that there is not, the base class says which one of those loaded is like it, so that all are loaded.
        known = cmd_name in self.list_commands(ctx)
        for name, home, line in COMMANDS:
            if name not in self.commands and (name == cmd_name or not known):
                self.commands[name] = _command(name, home, line)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, _, line in COMMANDS])


def _command(name: str, home: str, line: str) -> Any:
    module, _, attribute = home.partition(":")
    command = getattr(import_module(module), attribute)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, callback=_root)  # the callback makes it a group
    if isinstance(command, typer.Typer):
        for sub in command.registered_commands:
            sub.cls = Command
        alone.add_typer(command, name=name, short_help=line)
    else:
        alone.command(name, cls=Command, short_help=line)(command)
    return get_group(alone).commands[name]


app = typer.Typer(
    name="detrctl",
    cls=Commands,
    callback=_root,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command_words() -> list[list[str]]:
    """The words of every command and subcommand, such as ["recipes", "list"]; of the program itself none."""
    group: Any = get_command(app)
    words: list[list[str]] = [[]]
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        words += [[name], *([name, sub] for sub in getattr(command, "commands", ()))]
    return words


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code. Our own bugs go up as exceptions."""
    try:
        try:
            code = app(args=arguments, prog_name="detrctl", standalone_mode=False)
        finally:
            sys.stdout.flush()
    except ClickError as error:
        if is_help(error):
            error.show()
        else:
            words = sys.argv[1:] if arguments is None else arguments
            render.error(mistake(error, words, [name for name, _, _ in COMMANDS]))
        return int(error.exit_code)
    except SystemExit as stop:
        return _broken_pipe() if isinstance(stop.__context__, BrokenPipeError) else _code(stop)
    except DetrctlError as error:
        render.error(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as error:
        reason = _what_a_user_can_mend(error)
        if reason is None:
            raise
        render.error(": ".join(filter(None, [_name(error.filename), reason])))
        return 2
    return code if isinstance(code, int) else 0


def _what_a_user_can_mend(error: OSError) -> str | None:
    """In words; None for our bugs. A missing file that we did not look for is one, other trouble with files is not."""
    if error.errno in USER_ERRNOS:
        return USER_ERRNOS[error.errno]
    if error.filename is None or error.errno == errno.ENOENT or not error.strerror:
        return None
    return error.strerror[0].lower() + error.strerror[1:]


def _code(stop: SystemExit) -> int:
    return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1


def _name(filename: object) -> str:
    return os.fsdecode(filename) if isinstance(filename, (str, bytes)) else ""


def _broken_pipe() -> int:
    """Nobody reads on: keep the interpreter from complaining when it flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def main() -> None:
    """The entry point of the `detrctl` command."""
    sys.exit(run())
