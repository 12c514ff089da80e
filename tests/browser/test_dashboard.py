"""What a person does with the dashboard: look, click, slide, open a link, take a file away."""

from __future__ import annotations

import http.client
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlparse

import pytest
from playwright.sync_api import Page, expect

import analyzer

PAGES = {
    "": "Collection",
    "compare": "Compare",
    "intruders": "Intruder dimensions",
    "tails": "Heavy tails",
    "emergence": "gradients",
    "limits": "LoRA",
    "tucker": "Tucker",
    "manifold": "manifold",
    "theory": "Theory",
    "sql": "SQL",
}


def settled(page: Page) -> None:
    """Streamlit has drawn everything."""
    expect(page.locator("h1")).to_be_visible(timeout=60_000)
    expect(page.locator("[data-testid=stStatusWidget]")).to_have_count(0, timeout=60_000)
    expect(page.locator("[data-testid=stSkeleton]")).to_have_count(0, timeout=60_000)


def open_page(page: Page, address: str, path: str = "", **query: str) -> None:
    page.goto(f"{address}/{path}" + (f"?{urlencode(query)}" if query else ""))
    settled(page)


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: $SCREENSHOTS, to look at them afterwards."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("width", [1440, 900])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_drawn(page: Page, address: str, path: str, width: int, shots: Path) -> None:
    """A title, no error, nothing wider than the window."""
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, address, path)
    expect(page.locator("h1")).to_contain_text(re.compile(PAGES[path], re.I))
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    expect(page.locator("[data-testid=stAlertContentError]")).to_have_count(0)
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    page.screenshot(path=shots / f"{path or 'collection'}-{width}.png")
    assert not said


def test_a_click_on_the_heat_map_opens_the_matrix(page: Page, address: str) -> None:
    open_page(page, address, "compare")
    chart = page.locator("[data-testid=stVegaLiteChart]").first
    canvas = chart.locator("canvas, svg").first
    box = canvas.bounding_box()
    assert box is not None
    before = page.url
    canvas.click(position={"x": 0.7 * box["width"], "y": 0.3 * box["height"]})
    expect(page).to_have_url(re.compile("matrix="), timeout=30_000)
    settled(page)
    assert page.url != before
    (matrix,) = parse_qs(urlparse(page.url).query)["matrix"]
    expect(page.get_by_text(f"Singular values: {matrix}", exact=False).first).to_be_visible()


def test_the_epsilon_slider_changes_the_counts(page: Page, address: str, demo_db: Path) -> None:
    """The counts that the slider leads to are those of SQL at ε = 0.65."""
    open_page(page, address, "intruders")
    slider = page.get_by_role("slider").first
    metrics = page.locator("[data-testid=stMetricValue]")
    before = metrics.all_inner_texts()
    slider.focus()
    for _ in range(15):  # steps of 0.01
        slider.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"epsilon=0\.65"), timeout=30_000)
    settled(page)
    expect(metrics.first).to_be_visible()
    names = page.locator("[data-testid=stMetricLabel]").all_inner_texts()
    page.wait_for_function(
        "old => JSON.stringify([...document.querySelectorAll('[data-testid=stMetricValue]')]"
        ".map(e => e.innerText)) !== old",
        arg=str(before).replace("'", '"').replace(", ", ","),
        timeout=30_000,
    )
    counted = {
        row["name"]: row["n"]
        for row in analyzer.connect(demo_db)
        .sql(
            """
            SELECT c.name, count(*) FILTER (maxcos < 0.65) AS n
            FROM intruder_vector JOIN matrix USING (matrix_id) JOIN checkpoint c
            USING (checkpoint_id) WHERE side = 'left' AND j <= 10 GROUP BY ALL
            """
        )
        .to_pylist()
    }
    shown = dict(zip((n.strip() for n in names), metrics.all_inner_texts(), strict=True))
    assert shown and {name: counted[name] for name in shown} == {
        name: int(text) for name, text in shown.items()
    }


def test_a_link_reopens_the_view(page: Page, address: str) -> None:
    matrix = "model.layers.2.mlp.up_proj.weight"
    query = {"tuned": "lora-r8/checkpoint-10", "matrix": matrix}
    open_page(page, address, "compare", **query)
    expect(page.get_by_text(f"Singular values: {matrix}", exact=False).first).to_be_visible()
    expect(page.get_by_text("lora-r8/checkpoint-10", exact=True).first).to_be_visible()
    assert parse_qs(urlparse(page.url).query)["matrix"] == [matrix]


@pytest.mark.parametrize(
    ("label", "start"),
    [
        ("Data (CSV)", b'"checkpoint"'),
        ("Figure (PDF)", b"%PDF"),
        ("Figure (SVG)", b"<?xml"),
        ("Citation and parameters", b"Intruder dimensions"),
    ],
)
def test_a_picture_leaves_as_a_file(
    page: Page, address: str, label: str, start: bytes, tmp_path: Path
) -> None:
    open_page(page, address, "intruders")
    page.get_by_role("button", name="Save").first.click()
    with page.expect_download(timeout=60_000) as caught:
        page.get_by_role("button", name=label).first.click()
    target = tmp_path / caught.value.suggested_filename
    caught.value.save_as(target)
    assert target.read_bytes().startswith(start)


def test_only_this_machine_is_answered(address: str) -> None:
    """A site that makes its name resolve to the loopback address gets no data (DNS rebinding)."""

    def status(host: str) -> int:
        connection = http.client.HTTPConnection(urlparse(address).netloc, timeout=10)
        headers = {"Host": host, "Origin": f"http://{host}", "Connection": "Upgrade"}
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        connection.request("GET", "/_stcore/stream", headers=headers)
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    assert status(urlparse(address).netloc) == 101
    assert status("evil.example") == 403


def test_no_file_is_named_by_an_address(page: Page, address: str) -> None:
    open_page(page, address, "", db="/etc/passwd", matrix="../../etc/passwd")
    expect(page.locator("h1")).to_have_text("Collection")
    assert "root:" not in page.content()
