"""The page that shows the document: all of it is the service's, and a browser shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.async_api import Page

from services.api.openapi import document
from services.api.routes import ENDPOINTS
from tests.contract.api_service import Api

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}


class References(HTMLParser):
    """What a page names, and what it would run by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("src", "href") if (value := given.get(name))]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]


async def test_the_document_is_public_and_whole(api: Api) -> None:
    answer = await api.send("GET", "/openapi.json", {})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["paths"].keys() == document(ENDPOINTS)["paths"].keys()


async def test_all_that_the_page_names_comes_from_the_service(api: Api) -> None:
    page = await api.send("GET", "/docs", {})
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    references = References()
    references.feed(page.body.decode())
    assert references.inline == []
    assert len(references.found) == 4
    for reference in references.found:
        url = urljoin(f"{api.url}/docs", reference)
        assert url.startswith(f"{api.url}/docs/")
        asset = await api.send("GET", url.removeprefix(api.url), {})
        assert asset.status == 200
        assert asset.headers["Content-Type"] == TYPES[Path(url).suffix]
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
        assert asset.body
    for own in (page.body, (await api.send("GET", "/docs/page.js", {})).body):
        assert not re.search(rb"https?:|[\"'(=]//", own)


async def test_the_page_may_load_nothing_from_elsewhere(api: Api) -> None:
    policy = (await api.send("GET", "/docs", {})).headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert {word for rule in rules.values() for word in rule.split()} == {
        "'none'",
        "'self'",
        "data:",
    }


@pytest.mark.parametrize("name", ["..%2Fdocs.py", "%2Fetc%2Fpasswd", "swagger-ui.js", "x", "%00"])
async def test_no_other_file_is_served(api: Api, name: str) -> None:
    assert (await api.send("GET", f"/docs/{name}", {})).status == 404


# --- in a browser


async def test_a_browser_shows_every_operation(api: Api, page: Page) -> None:
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{api.url}/docs")
    await page.locator(".opblock").first.wait_for()
    paths: dict[str, Any] = document(ENDPOINTS)["paths"]
    shown = [text.strip() for text in await page.locator(".opblock-summary-path").all_inner_texts()]
    # It breaks long paths by characters that nobody sees.
    shown = [text.replace("\u200b", "") for text in shown]
    assert sorted(shown) == sorted(path for path, methods in paths.items() for _ in methods)
    await page.locator("#operations-jobs-search .opblock-summary-control").click()
    await page.locator("#operations-jobs-search").get_by_text("updatedSince").first.wait_for()
    assert complaints == []
    assert {url.removeprefix(api.url).split("/")[1] for url in asked} == {"docs", "openapi.json"}
    assert all(url.startswith(f"{api.url}/") for url in asked)
