"""`paceline client`: generate from a server, on the command line."""

import json
import sys
from dataclasses import asdict, dataclass, field

from cluster.network.server_connection import connected
from cluster.options.client_options import ClientOptions
from runtime.client import Chunk


@dataclass(slots=True)
class _Answer:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[str, object]] = field(default_factory=list)
    last: Chunk | None = None

    def append(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.token_ids += chunk.token_ids
        self.logprobs += [asdict(one) for one in chunk.logprobs]
        if chunk.finish_reason is not None:
            self.last = chunk

    def report(self) -> dict[str, object]:
        assert self.last is not None
        stats = self.last.stats
        found: dict[str, object] = {
            "prompt_tokens": self.last.prompt_tokens,
            "token_ids": self.token_ids,
            "text": self.text,
            "finish_reason": self.last.finish_reason,
            "stats": {
                name: getattr(stats, name)
                for name in ("rounds", "drafted", "accepted", "ttft_s", "total_s", "cached_prompt")
            },
        }
        return found | ({"logprobs": self.logprobs} if self.logprobs else {})


def run(options: ClientOptions) -> int:
    """Print an answer as it arrives, or several one after the other; return the exit code.

    Raises:
        ConfigError: the server rejected the request.
        ServiceError: the server was unreachable, or failed.
    """
    answers = [_Answer() for _ in range(options.n or 1)]
    live = len(answers) == 1 and not options.json
    prompt = [{"role": "user", "content": options.prompt}] if options.chat else options.prompt
    with connected(options.connect) as client:
        for chunk in client.generate(
            prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            stop=options.stop,
            mode=options.mode,
            model=options.model,
            n=options.n,
            logprobs=options.logprobs,
            priority=options.priority,
            timeout_s=options.timeout_s,
            patience_s=options.patience_s,
        ):
            answers[chunk.sample].append(chunk)
            if live:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
    if options.json:
        reports = [answer.report() for answer in answers]
        print(json.dumps(reports[0] if options.n is None else reports))
    elif live:
        print()
    else:
        for number, answer in enumerate(answers, start=1):
            print(f"--- {number} of {len(answers)} ---\n{answer.text}")
    return 0
