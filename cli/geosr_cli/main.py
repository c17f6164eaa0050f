"""The ``geosr`` command: parses, calls, reports.

Nothing of geosr is imported before a command runs, so that ``geosr --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
from typing import Any

import click

from geosr_cli import signals
from geosr_cli.environment import settle

# Commands and the modules (in this package) that define them, in the order of the help.
COMMANDS = ("downscale", "grid", "verify", "info", "evaluate", "degrade", "train", "models", "simulate")

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_OUTPUT = 5
EXIT_RESOURCES = 7
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_PIPE = 141


class GeosrGroup(click.Group):
    """Loads commands on demand and turns every failure into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"geosr_cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        settle()
        if lack := _lack_of_address_space():
            _say(lack)
            ctx.exit(EXIT_RESOURCES)
        share_one_heap()
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt as error:
            _say(_interrupted("interrupted", error))
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if ctx.find_root().meta.get("geosr.debug"):
                raise
            ctx.exit(_report_failure(error))
        finally:
            signals.settled()


def _report_failure(error: Exception) -> int:
    """Say in one line what went wrong; the exit code."""
    from geosr.errors import GeosrError

    if isinstance(error, GeosrError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader of our stdout has left; a flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    if isinstance(error, FileNotFoundError) and not _folder_exists():
        _say("the working folder is gone; change to one that exists")
        return EXIT_OUTPUT
    if (short := _short_of(error)) is not None:
        _say(short)
        return EXIT_RESOURCES
    _say(f"a bug in geosr: {type(error).__name__}: {error}; run again with --debug and report what it prints")
    return EXIT_BUG


def _short_of(error: Exception) -> str | None:
    """What the system has too little of, if that is what ``error`` means."""
    number, text = getattr(error, "errno", None), str(error)
    if isinstance(error, OSError) and number in (errno.EMFILE, errno.ENFILE):
        return "too many open files; raise the limit (ulimit -n)"
    if (isinstance(error, RuntimeError) and "start new thread" in text) or number == errno.EAGAIN:
        return "no more processes or threads may be started; raise the limit (ulimit -u), or use fewer --threads"
    no_room = ("failed to map segment", "annot allocate memory")  # a library that cannot be loaded
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(words in text for words in no_room):
        return "out of memory; use a smaller --tile, or fewer --threads or --workers"
    return None


def _interrupted(how: str, error: BaseException) -> str:
    """What an interrupted run leaves."""
    said = [how]
    atomic = sys.modules.get("geosr.writing.atomic")
    if atomic is not None and atomic.WRITTEN.count:
        done = atomic.WRITTEN
        said.append(f"{done.last} was written" if done.count == 1 else f"{done.count} outputs were written")
    if (kept := getattr(error, "kept", None)) is not None:
        said.append(f"finished tiles are kept in {kept}: --resume goes on with them, --overwrite starts anew")
    return "; ".join(said if len(said) > 1 else [how, "nothing was written"])


def _folder_exists() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _say(text: str) -> None:
    """One line on stderr, whatever control characters a file name or an attribute holds."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    complain(f"geosr: {line}" if line.startswith(("interrupted", "terminated")) else f"geosr: error: {line}")


def complain(text: str) -> None:
    """A line on stderr; if nobody can hear it, that changes nothing about the run."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["geosr.debug"] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)


@click.group(
    "geosr", cls=GeosrGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="geosr", prog_name="geosr")
@debug_option
def cli() -> None:
    """Finer maps from coarse satellite columns: exact in geometry, seamless, conserving.

    \b
    geosr info s5p.nc                    what geosr sees in a file
    geosr downscale s5p.nc --scale 4     s5p_x4.tif, four times finer
    """


def share_one_heap() -> None:
    """Have the threads of this process share one heap, and keep arrays of whole tiles out of it.

    glibc gives each thread its own, and a heap keeps what large arrays left behind: with one, runs of thousands of
    tiles take a fifth less memory, in no more time. It also learns to put ever larger arrays on the heap, up to 32 MB,
    where small ones (windows of the input) then lie between: those of 4 MB, a tile's, get pages of their own instead,
    which go when they go. A process of one's own may say so; a library must not.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        if "MALLOC_ARENA_MAX" not in os.environ:
            mallopt(-8, 1)  # M_ARENA_MAX of malloc.h
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD


def _hold_streams() -> None:
    """Open what the caller has closed of stdin, stdout and stderr: the next file to be opened, perhaps the output,
    would get that number, and what a library says would be written into it.
    """
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.dup(number)
    os.close(number)


#: Below so much address space OpenBLAS, of numpy, ends the process or crashes instead of raising anything.
LEAST_ADDRESS_SPACE = 800 << 20
_FEW_PROCESSES = 1000


def _lack_of_address_space() -> str:
    """What is wrong with the limit on it; nothing, as a rule. Imports nothing that needs some."""
    try:
        import resource
    except ImportError:  # not on this system
        return ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit != resource.RLIM_INFINITY or 0 <= processes < _FEW_PROCESSES:
        # It reserves some for each of its threads, and sends itself a Ctrl-C where it cannot start them.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if limit == resource.RLIM_INFINITY or limit >= LEAST_ADDRESS_SPACE:
        return ""
    least = LEAST_ADDRESS_SPACE >> 20
    return f"only {limit >> 20} MB of address space; raise the limit to {least} MB at least (ulimit -v)"


def main() -> None:
    """Entry point of the ``geosr`` script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are not ours
    _hold_streams()
    signals.listen()
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0 if error.ctx is not None and error.ctx.parent is None else EXIT_USAGE)
    except click.UsageError as error:
        name = error.ctx.command_path if error.ctx is not None else "geosr"
        _say(f"{error.format_message().rstrip('.')}; see {name} --help")
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as interrupt:
        _say(_interrupted("interrupted", interrupt))
        sys.exit(EXIT_INTERRUPTED)
    except signals.Terminated as end:
        _say(_interrupted("terminated", end))
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE)
    finally:
        signals.settled(for_good=True)
        # An interrupt inside exec() of a string, as dataclasses and others have it while they are imported, is
        # remembered until the next one: CPython would then end by the signal, and not with the code asked for.
        exec("")
        gc.freeze()  # what is still there goes with the process: taking it apart, cycle by cycle, takes 0.3 s


if __name__ == "__main__":
    main()
