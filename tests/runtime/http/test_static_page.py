"""The files of the page at `/`: complete, open to all, and closed to everything from elsewhere."""

import re

import httpx
import pytest

from runtime.http.static_page import PAGE_FILES
from tests.support.rig import Rig
from tests.support.serving import Serving

PATHS = sorted(PAGE_FILES)


def test_the_files_come_without_a_token_with_their_types_and_limits(rig: Rig) -> None:
    serving = Serving(rig, http={}, tokens=("secret",))
    types = {
        "html": "text/html",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }
    try:
        for path in PATHS:
            response = httpx.get(serving.url + path)
            assert response.content == PAGE_FILES[path].read_bytes()
            assert response.headers["content-type"].startswith(types[PAGE_FILES[path].suffix[1:]])
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            known = {"if-none-match": response.headers["etag"]}
            assert httpx.get(serving.url + path, headers=known).status_code == 304
        assert httpx.get(f"{serving.url}/page/../http_app.py").status_code in (401, 404)
        assert httpx.get(f"{serving.url}/page/nothing.js").status_code == 401
        assert httpx.post(serving.url).status_code == 405
    finally:
        serving.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_file_refers_to_files_of_the_page_alone(path: str) -> None:
    text = PAGE_FILES[path].read_text(encoding="utf-8")
    outside = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+[^\s\"']*", text)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}
    used = re.findall(r"(?:src|href)=\"(page/[^\"]+)\"", text)
    used += [f"page/{name}" for name in re.findall(r"from \"\./([^\"]+)\"", text)]
    assert {f"/{name}" for name in used} <= set(PATHS)
    assert path != "/" or len(used) > 3


def test_every_element_that_a_script_looks_up_is_on_the_page() -> None:
    ids = re.findall(r" id=\"([^\"]+)\"", PAGE_FILES["/"].read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))
    scripts = [
        file.read_text(encoding="utf-8") for path, file in PAGE_FILES.items() if "js" in path
    ]
    wanted = {name for text in scripts for name in re.findall(r"find\(\"([^\"]+)\"\)", text)}
    assert wanted
    assert wanted <= set(ids)
