"""Checks whether a server answers HTTP at an address, within seconds even if its name server
hangs."""

import threading
import urllib.error
import urllib.request
from queue import Empty, SimpleQueue

_NOTHING = ""


def why_silent(url: str, *, timeout_s: float) -> str:
    """Return why no answer came, as text; "" for an answer of any status.

    Blocks for at most `timeout_s`. Uses the proxies of the environment.
    """
    found = SimpleQueue[str]()

    def ask() -> None:
        found.put(_asked(url, timeout_s))

    # A name look-up has no time-out of its own, so its thread is not joined.
    threading.Thread(target=ask, name="http-probe", daemon=True).start()
    try:
        return found.get(timeout=timeout_s)
    except Empty:
        return f"no answer within {timeout_s:g} s"


def _asked(url: str, timeout_s: float) -> str:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s):
            return _NOTHING
    except urllib.error.HTTPError as error:
        error.close()
        return _NOTHING
    except urllib.error.URLError as error:
        reason = error.reason
        late = isinstance(reason, TimeoutError)
        return f"no answer within {timeout_s:g} s" if late else str(reason)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
