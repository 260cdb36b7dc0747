"""The page at `/`: files of the package, which load nothing from elsewhere and need no token."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from runtime.version import package_version

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def _path_of(file: Path) -> str:
    return "/" if file.name == _INDEX else f"/page/{file.name}"


PAGE_FILES = {_path_of(file): file for file in sorted(_FOLDER.iterdir())}
"""The files of the page by the paths that serve them."""


async def page_file(request: Request) -> Response:
    """Answer with the file of a path of PAGE_FILES."""
    file = PAGE_FILES[request.url.path]
    tag = f'"{package_version()}-{file.stat().st_mtime_ns:x}"'
    headers = _HEADERS | {"etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(file.read_bytes(), media_type=_TYPES[file.suffix], headers=headers)
