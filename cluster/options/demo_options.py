"""Options of `paceline demo`."""

from dataclasses import dataclass

from cluster.options.model_options import ModelOptions
from parallel.decoding.types import DecodeMode


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Serve a page to try a model in a browser, until Ctrl+C; the first run converts SmolLM2-135M.

    It is paceline serve with OpenAI's HTTP API, and has a free port and no credentials.
    """

    models: ModelOptions = ModelOptions(target="smollm2-135m")
    mode: DecodeMode = DecodeMode.AUTO
    """Decoding mode of requests that name none; the page can choose one for each."""
    http: str = "127.0.0.1:0"
    """HOST:PORT of the page; port 0 takes a free one."""
