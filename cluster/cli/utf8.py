"""Text is UTF-8 whatever the locale: Ray and other libraries read the command line as UTF-8."""

import os
import sys


def restart_in_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where the locale has another encoding.

    The terminal keeps its encoding; characters that it lacks are escaped.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    encoding = f"{sys.stdout.encoding}:backslashreplace"
    environ = {"PYTHONIOENCODING": encoding} | os.environ | {"PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
