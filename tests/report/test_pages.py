"""Both pages in a real browser, at a laptop's and a phone's size, light and dark. HIRES_SCREENSHOTS=folder keeps what it looked like."""

from itertools import product
import os
from pathlib import Path

import pytest

from hires.verbs import compare, report
from hires.verbs.compare import Config as CompareConfig
from hires.verbs.report import Config as ReportConfig
from tests.report.fabricate import checkpoint, evaluation, statuses, write

NAME = "run <b>bold & \"quoted\" 'x'"  # shown as text, never as markup
COLUMNS = {
    "ood_columns": "[AUROC] [FPR], with intervals",
    "ood_noise": [[0.91, 0.8123, 0.95], [0.2, 0.1, 0.3]],
    "ood_cifar": [[1, 1, 1]] * 2,
}
SIZES = {"laptop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844, "phone": True}}
DECODED = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 1, () => false)))"
CONTRASTS = """(() => {
    const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const light = colour => {
        paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const clear = e => getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)';
    const behind = e => { while (e && clear(e)) e = e.parentElement; return e || document.body; };
    return [...document.querySelectorAll('h1, h2, p, li, .state, .quiet, dt, dd, a, th, td, text, path.curve')].map(e => {
        const style = getComputedStyle(e), curve = e.matches('.curve');
        const [a, b] = [light(curve ? style.stroke : e.matches('text') ? style.fill : style.color),
                        light(getComputedStyle(behind(e)).backgroundColor)].sort((x, y) => y - x);
        return [e.className.baseVal ?? e.className, (a + 0.05) / (b + 0.05), curve ? 3 : 4.5];
    }).filter(([, found, wanted]) => found < wanted);
})()"""  # WCAG's: 4.5 for text, 3 for what is drawn


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A report of a run that had troubles, and a comparison of it with another one of another system."""
    place = tmp_path_factory.mktemp("runs")
    records = [*statuses(energy_fake=1e-3, why_not=-7.0), {"images": 300, "rollback": 1, "why": "not a number: <i>loss</i>"}]
    one = write(place / NAME, records, grids=True)
    checkpoint(one, 400, damaged=True)
    checkpoint(one, 1000, train={"seed": 0})
    (one / "samples" / "fakes-000000000500-8x8.png").write_bytes(b"broken")
    for images, swd in ((400, [31.5, 4.0]), (700, [20.0, 4.0]), (1000, [12.25, 3.0])):
        evaluation(one, images, "detection_histogram.png", swd=swd, diversity=0.8, detection={"noise": {"auroc": 0.9876}}, **COLUMNS)
    two = write(place / "two", statuses(R=1.0), "objective=vgan", "train.seed=5", grids=True)
    evaluation(two, 1000, swd=[30.0, 4.0], diversity=1.01)
    report.run(ReportConfig(str(one)))
    report.run(ReportConfig(str(one), str(place / "shared.html"), real_pictures=False))
    compare.run(CompareConfig(f"{one},{two}", str(place / "compare.html")))
    return {"report": one / "report.html", "shared": place / "shared.html", "compare": place / "compare.html"}


@pytest.mark.parametrize(("name", "size"), [*product(("report", "compare"), SIZES)])
def test_a_page_fits_is_legible_and_asks_for_nothing(browser, pages, shots, name, size):
    page = browser.page(pages[name].as_uri(), **SIZES[size])
    fits = f"document.documentElement.scrollWidth <= {SIZES[size]['width']}"  # on a phone innerWidth grows with what does not fit
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    decoded = page.js(DECODED)
    assert len(decoded) >= 4 and all(decoded)
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("light", "print")):
        page.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert page.js(fits)
        assert page.js(CONTRASTS) == []
        if "HIRES_SCREENSHOTS" in os.environ:
            page.screenshot(shots / f"{name}-{size}-{scheme}-{media}.png", whole=True)
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith("data:")] == [pages[name].as_uri()]
    page.close()


def test_what_stands_in_a_report(browser, pages):
    page = browser.page(pages["report"].as_uri())
    text = page.js("document.body.innerText")
    assert page.js("document.querySelector('h1').textContent") == NAME
    assert page.js("document.querySelectorAll('h1 b, .wrong i, script').length") == 0  # markup of files stays text
    headings = page.js("[...document.querySelectorAll('h2')].map(h => h.firstChild.textContent.trim())")
    wanted = [
        "How it stands",
        "Pictures",
        "Measures",
        "Curves",
        "Schedule and speed",
        "Checkpoints",
        "Configuration",
        "Left out of this page",
    ]
    assert headings == wanted
    for told in (
        "finished", "1,000 of 1,000 images", "rollback 1, back to 300 images: not a number: <i>loss</i>",
        "checkpoint images-000000000400: rank.safetensors is missing", "31.5  4", "0.9876", "detection.noise.auroc", "why_not −7",
        "noise\t0.91 (0.812 – 0.95)\t0.2 (0.1 – 0.3)",
        "detection histogram", "400–1,000", "fakes-000000000500-8x8.png: not readable as a picture",
    ):  # fmt: skip
        assert told in text, told
    # R of the last progress line: 40 / 1000
    assert "R 0.04" in text
    assert page.js("[...document.querySelectorAll('figcaption b')].map(b => b.textContent)").count("Reconstructions") == 1
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert "schedule.levels.8.fade\t200" in page.js("document.body.innerText")
    page.close()


def test_a_page_to_share_shows_no_picture_of_the_data(browser, pages):
    page = browser.page(pages["shared"].as_uri())
    titles = page.js("[...document.querySelectorAll('.picture figcaption b')].map(b => b.textContent)")
    assert titles == ["Samples", "200", "400", "600", "800", "1k"]
    assert "real_pictures=false" in page.js("document.body.innerText")
    page.close()


def test_what_stands_in_a_comparison(browser, pages):
    page = browser.page(pages["compare"].as_uri())
    text = page.js("document.body.innerText")
    assert page.js("document.querySelector('h1').textContent") == f"{NAME} · two"
    marked = page.js("[...document.querySelectorAll('td.best')].map(td => [td.parentElement.cells[0].innerText.trim(), td.cellIndex])")
    assert marked == [["swd ↓", 1], ["diversity 1", 2]]  # lower, and nearer to 1
    differing = page.js("[...document.querySelectorAll('#differences th[scope=row]')].map(th => th.textContent)")
    assert {"objective.name", "train.seed"} <= set(differing)
    assert not {"run", "schedule.resolution", "network.latent"} & set(differing)
    assert "divergence_triangle" in text and "vgan" in text
    assert page.js("[...document.querySelectorAll('#curves .chart')].map(c => c.querySelectorAll('path.curve').length)").count(2) >= 4
    page.close()
