"""Running requests on a deployment in tests."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.deploy.deployment import Deployment
from cluster.deploy.driver_session import Result, run_requests
from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from runtime.checking.prompt_files import read_prompts
from runtime.models.tokenizer import Tokenizer

PROMPTS = Path(__file__).resolve().parents[2] / "data" / "prompts.jsonl"


def token_prompts(
    directory: Path, path: Path = PROMPTS, limit: int | None = None
) -> list[tuple[int, ...]]:
    """Return the prompts of a file as tokens."""
    tokenizer = Tokenizer.load(directory)
    return [
        tuple(
            tokenizer.encode(record.text)
            if record.text is not None
            else tokenizer.encode_chat(record.messages or ())
        )
        for record in read_prompts(path, limit=limit)
    ]


def make_submits(
    prompts: Sequence[tuple[int, ...]],
    *,
    mode: str = "pearl",
    max_tokens: int = 24,
    draft_length: int | None = 4,
    sampling: SamplingParams | None = None,
) -> list[Submit]:
    """Return one request for each prompt."""
    return [
        Submit(
            request=index,
            prompt_ids=prompt,
            sampling=sampling or SamplingParams(),
            mode=DecodeMode(mode),
            verifier=VerifierKind.MATCH,
            max_tokens=max_tokens,
            draft_length=draft_length,
            ignore_eos=True,
        )
        for index, prompt in enumerate(prompts)
    ]


def run(
    deployment: Deployment,
    submits: Sequence[Submit],
    on_tokens: Callable[[Submit, tuple[int, ...]], None] = lambda *_: None,
) -> list[Result]:
    """Run requests over a link of their own."""
    link = deployment.connect()
    try:
        return run_requests(deployment, link, submits, on_tokens=on_tokens, on_end=lambda _: None)
    finally:
        link.close()


def tokens_of(results: Sequence[Result]) -> list[tuple[int, ...]]:
    """Return each result's tokens, in the order of its request number."""
    return [tuple(r.token_ids) for r in sorted(results, key=lambda r: r.submit.request)]
