"""The command line: it turns words into one call of `raydd.api`, and errors into one line and an exit code."""

import atexit
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from raydd.cli.commands import Program
from raydd.io.loading import freeze
from raydd.io.pulse import LOADING, PULSE
from raydd.io.signals import TERMINATED, terminate, terminated
from raydd.plugins import origin_of

INTERRUPTED = 130
SPINS = "5000"
"""How often a waiting thread of OpenMP looks before it sleeps. By its own default it looks for longer than most
operations of small networks take, so that beside other programs a run with a thread a core nearly stands still."""
MOST_CHARACTERS = 4000
GOES_ON = "the same command goes on (distill and tune: with --resume)"
REFUSALS = (ValueError, FileExistsError, NotADirectoryError)  # the latter two: a path that cannot be written
FAILURES = (RuntimeError, FloatingPointError, OSError, MemoryError)

app = typer.Typer(
    name="raydd",
    cls=Program,
    rich_markup_mode=None,
    help="Distill large labelled image sets into a few synthetic images per class, on one machine or a Ray cluster.",
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        versions = {}
        for name in ("raydd", "torch", "ray"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "not installed"
        print(f"raydd {versions['raydd']} (torch {versions['torch']}, ray {versions['ray']})")
        raise typer.Exit()


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, 1 (failed), 2 (bad usage or input), 130 (interrupted) or 143 (SIGTERM)."""
    signal.signal(signal.SIGTERM, terminate)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded
    code = run(arguments)
    freeze()
    if code and any(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> None:
    """End the process with what is registered for its end, but without an end of its threads.

    The interpreter unwinds a thread that still computes, through C++ that allows no exception: the process would abort.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    An error is one line on stderr; with ``--json`` it is also the one document on stdout:
    ``{"error": {"message": ..., "exit_code": ...}}``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if console := sys.modules.get("raydd.io.console"):  # not imported here: rich takes a while
        console.Screen.documents = 0
    try:
        with PULSE.doing(LOADING):
            code = typer.main.get_command(app).main(words, prog_name="raydd", standalone_mode=False)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail(words, f"interrupted; {GOES_ON}", INTERRUPTED)
    except SystemExit:
        if not terminated():
            raise
        return _fail(words, f"ended by SIGTERM; {GOES_ON}", TERMINATED)
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        return _failed(words, error)


def _failed(words: Sequence[str], error: Exception) -> int:
    """The exit code of an error that is printed in one line; any other is raised."""
    if isinstance(error, typer.TyperException):
        return _fail(words, f"{error.format_message().strip()} (see raydd --help)", 2)
    if _while_importing(error):
        line = f"{type(error).__name__}: {error}; `raydd doctor` says what is wrong with the installation"
        return _fail(words, line, 1)
    plugin = origin_of(error)
    prefix = f"{plugin}: " if plugin and not str(error).startswith(plugin) else ""
    if isinstance(error, REFUSALS):
        return _fail(words, f"{prefix}{error}", 2)
    if isinstance(error, FAILURES):
        return _fail(words, f"{prefix}{str(error) or type(error).__name__}", 1)
    if plugin:
        return _fail(words, f"{prefix}{type(error).__name__}: {error}; RAYDD_TRACEBACK=1 prints the traceback", 1)
    _print_error(words, f"{type(error).__name__}: {error}", 1)
    raise error


def _while_importing(error: Exception) -> bool:
    """Whether a module could not be imported: it is missing, or its own lines raised the error."""
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ImportError) or any(frame.f_code.co_name == "<module>" for frame, _ in frames)


def _fail(words: Sequence[str], message: str, code: int) -> int:
    if os.environ.get("RAYDD_TRACEBACK"):
        raise
    from raydd.io.console import visible

    print(visible(f"raydd: {_one_line(message)}"), file=sys.stderr)
    _print_error(words, message, code)
    return code


def _one_line(message: str) -> str:
    """A message without line breaks; of one that quotes a huge value, its beginning and its end."""
    line = " ".join(message.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 500]} ... {line[-500:]}"


def _print_error(words: Sequence[str], message: str, code: int) -> None:
    """Print an error as JSON if --json was given, unless the command has printed its document already."""
    console = sys.modules.get("raydd.io.console")
    if "--json" in words and not (console and console.Screen.documents):
        print(json.dumps({"error": {"message": _one_line(message), "exit_code": code}}))
