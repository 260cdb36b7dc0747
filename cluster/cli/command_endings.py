"""How a command ends: at most one message on standard error, and an exit code.

    0    it did what it was asked for
    1    it failed: a process died, a disk is full, Paceline has a fault
    2    something the user gave cannot be used; the message names it and the remedy
    130  interrupted, as by Ctrl-C
    141  the reader of its output is gone, as in `paceline ... | head`
    143  terminated by SIGTERM

No failure shows a traceback unless PACELINE_DEBUG is set. That of an unexpected one, which is a
fault of Paceline, is written to a file that the message names.
"""

import errno
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator

import typer

from cluster.cli.generated import DECLARATIONS
from runtime.errors import ConfigError, PacelineError

DEBUG = "PACELINE_DEBUG"
_FAILURE = 1
_BAD_INPUT = 2
_INTERRUPTED = 130
_NO_READER = 141
_HINTS = {
    errno.ENOSPC: "free some space, or name another path",
    errno.EDQUOT: "free some space, or name another path",
    errno.EMFILE: "raise the limit of open files, as with ulimit -n 65536",
    errno.ENFILE: "raise the machine's limit of open files",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "name a path that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "free some memory, or take a smaller model or cache",
    errno.EAGAIN: "raise the limit of processes, as with ulimit -u",
}
_FOREIGN = (("grpc", "RpcError"), ("ray.exceptions", "RayError"))
"""Modules and their errors; looked up where something has imported them already."""


def run_to_end(command: Callable[[], object]) -> int:
    """Run a command; return its exit code after saying what went wrong, if anything did."""
    _escape_what_the_terminal_lacks()
    try:
        result = command()
        _flush()
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return _ended(error)


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(1)  # what cannot be written would fail again as the interpreter ends
        raise OSError(error.errno, error.strerror, "standard output") from error


def _ended(error: BaseException) -> int:
    broken = any(isinstance(one, BrokenPipeError) for one in _causes(error))
    if broken and (isinstance(error, SystemExit) or _reader_is_gone()):  # Rich exits, with 1
        _discard_output()
        return _NO_READER
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else _FAILURE * bool(error.code)
    code, message = _explained(error)
    if os.environ.get(DEBUG):
        message = "".join(traceback.format_exception(error)) + message
    _say(message)
    return code


def _explained(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message of an error."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _INTERRUPTED, "interrupted"
    if isinstance(error, ConfigError):
        return _BAD_INPUT, f"error: {error}"
    if isinstance(error, PacelineError):
        return _FAILURE, f"error: {error}"
    if (usage := _usage_of(error)) is not None:
        return _BAD_INPUT, usage
    if isinstance(error, MemoryError):
        return _FAILURE, f"error: out of memory ({_line(error)}): {_HINTS[errno.ENOMEM]}"
    if isinstance(error, OSError):
        return _FAILURE, f"error: {_of_system(error)}"
    for module, name in _FOREIGN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return _FAILURE, f"error: {module.partition('.')[0]} failed: {_line(error)}"
    return _FAILURE, f"error: unexpected {_line(error)}: {_report_place(error)}"


def _usage_of(error: BaseException) -> str | None:
    """Return typer's message about an invalid command line; None for other errors."""
    formatted = getattr(error, "format_message", None)
    if formatted is None:
        return None
    text = str(formatted()).strip()
    if "\n" in text:  # the help of a group that was called without a verb
        return text
    context = getattr(error, "ctx", None)
    where = f" ({context.command_path} --help shows what it takes)" if context is not None else ""
    if not text:
        return ""
    option = getattr(error, "option_name", None)
    if context is not None and option is not None:
        verb = DECLARATIONS.get(context.command_path.partition(" ")[2])
        key = verb.key_without_flag(option) if verb is not None else None
        if key is not None:
            return f"error: No such option: {option}; give it as --set {key}=VALUE{where}"
    return f"error: {text.removesuffix('.')}{where}"


def _of_system(error: OSError) -> str:
    reason = error.strerror or _line(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    hint = f"; {_HINTS[error.errno]}" if error.errno in _HINTS else ""
    return f"{' -> '.join(names)}: {reason}{hint}" if names else f"{reason}{hint}"


def _report_place(error: BaseException) -> str:
    """Write an unexpected error's traceback down; return where it is."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="paceline-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except (OSError, UnicodeError):
        return f"this is a fault of Paceline; set {DEBUG}=1 to see where"
    return f"this is a fault of Paceline; please report it with {file.name}"


def _line(error: BaseException) -> str:
    """Return an error as one line of bounded length."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return (f"{kind}: {text}" if text else kind)[:400]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or after."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _reader_is_gone() -> bool:
    """Return whether a standard stream is a pipe that no process reads any longer."""
    return any(_is_broken(number) for number in (1, 2))


def _is_broken(number: int) -> bool:
    watched = select.poll()
    watched.register(number, select.POLLOUT)
    try:
        return any(events & select.POLLERR for _, events in watched.poll(0))
    except OSError:
        return False


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    for number in (1, 2):
        if _is_broken(number):
            _discard(number)


def _discard(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _escape_what_the_terminal_lacks() -> None:
    """Escape characters that the output's encoding lacks, as ASCII under LC_ALL=C."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _say(message: str) -> None:
    if not message:  # typer has shown the help
        return
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # it has no reader, or the stream is closed
        _discard_output()
