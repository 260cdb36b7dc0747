"""Stream answers from a server, two at a time.

paceline serve --target smollm2-135m --listen 127.0.0.1:50051
python examples/remote_client.py "Why is the sky blue?" "What is a prime number?"
"""

import argparse
import asyncio

from runtime.client import AsyncClient


async def answer(client: AsyncClient, prompt: str, max_tokens: int) -> str:
    """Return the whole answer; a stream that breaks resumes by itself."""
    text = ""
    async for chunk in client.generate(prompt, max_tokens=max_tokens, temperature=0.7, seed=1):
        text += chunk.text
    return text


async def ask(server: str, prompts: list[str], max_tokens: int) -> list[str]:
    """Send all prompts at once; the server decodes them together."""
    async with AsyncClient(server) as client:
        return await asyncio.gather(*(answer(client, each, max_tokens) for each in prompts))


def main() -> None:
    """Print each prompt with its answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    answers = asyncio.run(ask(options.server, options.prompts, options.max_tokens))
    for prompt, text in zip(options.prompts, answers, strict=True):
        print(f"> {prompt}\n{text}\n")


if __name__ == "__main__":
    main()
