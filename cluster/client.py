"""`paceline client`: generation from a server, on the command line."""

import json
import sys

from cluster.options import ClientOptions
from cluster.serve import read_tokens
from runtime.errors import ConfigError
from runtime.service.client import Client, Credentials, ServiceError

_BAD_INPUT = ("INVALID_ARGUMENT", "UNAUTHENTICATED")


def run(options: ClientOptions) -> int:
    """Print an answer as it comes; return the exit code.

    Raises:
        ConfigError: the server refused the request.
        ServiceError: the server was not to be reached, or failed.
    """
    tokens = read_tokens(options.token_file)
    credentials = Credentials(
        token=tokens[0] if tokens else None,
        root_ca=options.root_ca,
        certificate=options.tls_cert,
        private_key=options.tls_key,
    )
    text: list[str] = []
    token_ids: list[int] = []
    try:
        with Client(options.server, credentials=credentials) as client:
            for chunk in client.generate(
                [{"role": "user", "content": options.prompt}] if options.chat else options.prompt,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=options.seed,
                stop=options.stop,
                mode=options.mode,
                timeout_s=options.timeout_s,
            ):
                text.append(chunk.text)
                token_ids += chunk.token_ids
                if not options.json:
                    sys.stdout.write(chunk.text)
                    sys.stdout.flush()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except ServiceError as error:
        if error.code in _BAD_INPUT:
            raise ConfigError(str(error)) from error
        raise
    if not options.json:
        print()
        return 0
    stats = chunk.stats
    found = {
        "prompt_tokens": chunk.prompt_tokens,
        "token_ids": token_ids,
        "text": "".join(text),
        "finish_reason": chunk.finish_reason,
        "stats": {
            "rounds": stats.rounds if stats else 0,
            "drafted": stats.drafted if stats else 0,
            "accepted": stats.accepted if stats else 0,
            "ttft_s": stats.ttft_s if stats else 0.0,
            "total_s": stats.total_s if stats else 0.0,
        },
    }
    print(json.dumps(found))
    return 0
