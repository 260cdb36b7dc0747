"""The process that compiles a constraint first: what exhausts its stack or memory ends it alone.

Its stdin has a line of JSON with the tokenizer, then one for each grammar; it answers each with a
line. It imports nothing heavy, and ends with its stdin.
"""

import json
import resource
import sys
import threading

from runtime.constraints.compilation import TokenizerText, compiled, open_tokenizer
from runtime.files.strict_json import parse_json

STACK_BYTES = 4 << 20
"""Of the thread that compiles here: the leader has several times as much."""
MEMORY_BYTES = 2 << 30
"""Of the whole process's address space."""


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given = parse_json(sys.stdin.readline())
    try:
        tokenizer = open_tokenizer(TokenizerText(**given | {"end_ids": tuple(given["end_ids"])}))
    except ValueError as error:
        _answer(str(error))
        return
    _answer("")
    threading.stack_size(STACK_BYTES)
    for line in sys.stdin:

        def compile_line(grammar: str = parse_json(line)) -> None:
            try:
                compiled(grammar, tokenizer)
            except BaseException as error:  # a panic of the library is no Exception
                _answer(str(error))
            else:
                _answer("")

        thread = threading.Thread(target=compile_line)
        thread.start()
        thread.join()


def _answer(problem: str) -> None:
    print(json.dumps(problem), flush=True)


if __name__ == "__main__":
    main()
