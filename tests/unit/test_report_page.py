"""The page of a report as a browser shows it: on a screen, on a dark one, on paper."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.async_api import Page

from jobtrail.local.demo import life
from jobtrail.replay.report import PLOTS, Report
from tests.unit.test_report import Steps

#: Whether text in a plot is cut off by the plot's edge, or lies on another of the same axis.
CLASHES = """() => {
  const found = [];
  for (const svg of document.querySelectorAll(".plot svg")) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
    for (const [text, box] of boxes) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
          || box.bottom > frame.bottom + 1) found.push("cut: " + text.textContent);
      for (const [other, its] of boxes) {
        if (other !== text && box.left + 1 < its.right && its.left + 1 < box.right
            && box.top + 2 < its.bottom && its.top + 2 < box.bottom)
          found.push(text.textContent + " on " + other.textContent);
      }
    }
  }
  return found;
}"""
COLOURS = """() => [".plot svg text", "body", "td"].map(
  found => getComputedStyle(document.querySelector(found)).color)"""
INK = {"light": "rgb(28, 36, 48)", "dark": "rgb(232, 236, 241)"}


@pytest.fixture(scope="module")
def report() -> Report:
    """Return a report of a day of synthetic jobs."""
    chance = random.Random(4)
    steps = Steps()
    for number in range(600):
        begin = chance.uniform(0, 86_400)
        for after, kind, data in life(chance):
            name = {"Created": "created", "Active": "active"}.get(kind.__name__)
            name = name or kind.__name__.lower()
            fields = {"jobType": data.job_type, "owner": data.owner} if name == "created" else {}
            steps.add(f"job-{number}", name, begin + after * 100, **fields)
    return steps.report()


async def test_the_page_is_whole_and_legible_everywhere(
    report: Report, page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    report.write_page(file)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    await page.set_viewport_size({"width": 1200, "height": 900})
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.goto(file.as_uri())
        assert await page.locator("svg[role=img]").count() == len(PLOTS)
        assert set(await page.evaluate(COLOURS)) == {INK[scheme]}
        assert await page.evaluate(CLASHES) == []
    for width in (1200, 360):
        await page.set_viewport_size({"width": width, "height": 900})
        assert await page.evaluate("document.documentElement.scrollWidth") == width
    # On paper it is light, whatever the screen is, and nothing is cut off.
    await page.emulate_media(media="print", color_scheme="dark")
    await page.set_viewport_size({"width": 700, "height": 990})
    assert set(await page.evaluate(COLOURS)) == {INK["light"]}
    assert await page.evaluate("document.documentElement.scrollWidth") == 700
    assert len(await page.pdf(format="A4")) > 20_000
    assert complaints == []
    assert set(asked) == {file.as_uri()}


async def test_tables_say_what_the_figures_are(report: Report, page: Page, tmp_path: Path) -> None:
    report.write_page(tmp_path / "report.html")
    await page.goto((tmp_path / "report.html").as_uri())
    (types,) = [
        table
        for table in await page.get_by_role("table").all()
        if "Jobs by type and state" in await table.locator("caption").inner_text()
    ]
    shown = [
        [cell.strip().replace(",", "") for cell in await row.locator("th, td").all_inner_texts()]
        for row in await types.locator("tbody tr").all()
    ]
    assert shown == [[str(value) for value in row] for row in report.figures["types"].rows]
    assert await page.get_by_role("img", name="How long jobs waited").count() == 1
