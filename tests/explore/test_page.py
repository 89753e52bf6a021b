"""The page in a real browser: drawing, sorting, truncation, looks. HIRES_SCREENSHOTS=folder keeps what it looked like."""

import json

import numpy as np
from PIL import Image

from tests.explore.looking import DRAWN, ENERGIES, SEEDS, pad, picture, settled


def test_draws_and_shows_the_seeds(visit, server, folder, shots):
    page = visit()
    assert page.js(SEEDS) == list(range(24))
    assert page.js("document.querySelector('h1').textContent") == folder.name  # no markup of it
    drawn = server.post("/api/sample", seeds=list(range(8)))["pictures"]
    assert page.js("[...document.querySelectorAll('.cell img')].slice(0, 8).map(i => i.src)") == [one["picture"] for one in drawn]
    page.click("#draw")
    page.until(f"{SEEDS}[0] !== 0 && {DRAWN}")
    first = page.js("Number(seed.value)")
    assert page.js(SEEDS) == list(range(first, first + 24))
    page.call("Page.reload")
    page.until(f"document.readyState === 'complete' && {DRAWN}")
    assert page.js(SEEDS)[0] == first  # the address holds what is seen
    page.screenshot(shots / "drawn.png")


def test_sorts_by_energy(visit):
    page = visit()
    assert page.js(ENERGIES) != sorted(page.js(ENERGIES))
    page.click("#sort")
    assert page.js(ENERGIES) == sorted(page.js(ENERGIES))
    assert sorted(page.js(SEEDS)) == list(range(24))
    page.click("#draw")
    page.until(f"Math.min(...{SEEDS}) === Number(seed.value) && {DRAWN}")
    assert page.js(ENERGIES) == sorted(page.js(ENERGIES))
    page.click("#sort")
    assert page.js(SEEDS) == sorted(page.js(SEEDS))


def test_truncation_moves_all_to_the_mean(visit, server):
    page = visit()
    page.click('[data-seed="1"]')
    page.until("view.src.startsWith('data:')")
    x, y = page.centre("#truncation")
    half = page.js("truncation.getBoundingClientRect().width") / 2
    page.drag([(x + half / 3, y), (x, y), (x - half / 2, y), (x - half - 5, y)])
    page.until(f"psi.textContent === '0.00' && {DRAWN}")
    mean = server.post("/api/decode", points=[{"seed": 1}], truncation=0)["picture"]
    page.until(f"view.src === {json.dumps(mean)} && document.querySelector('#chosen img').src === view.src")
    grid = [picture(address) for address in page.js("[...document.querySelectorAll('.cell img')].map(i => i.src)")]
    assert max(np.abs(one - grid[0]).max() for one in grid) <= 1


def test_fits_a_phone_and_a_finger(visit, photo, shots):
    page = visit(width=390, height=844, phone=True, dark=True)
    for seed in (0, 1, 2):
        page.click(f'[data-seed="{seed}"]')
    settled(page, 1 / 3, 1 / 3, 1 / 3)
    page.choose("#file", photo)
    page.until("!pair.hidden && original.complete && rebuilt.complete")
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(shots / "phone.png", whole=True)
    way = [pad(page, 1 / 3 + i * 7 / 300, 1 / 3 - i * 7 / 600, 1 / 3 - i * 7 / 600) for i in range(21)]  # upwards, as a page is scrolled
    at = page.js("scrollY")
    page.swipe(way)
    settled(page, 0.8, 0.1, 0.1)
    assert page.js("scrollY") == at
    page.screenshot(shots / "phone-top.png")


def test_is_light_or_dark_as_the_machine_is(visit, shots):
    brightness = {}
    for dark in (False, True):
        page = visit(dark=dark)
        page.click('[data-seed="4"]')
        page.click('[data-seed="9"]')
        settled(page, 0.5, 0.5)
        page.screenshot(shots / f"dark-{dark}.png")
        brightness[dark] = np.asarray(Image.open(shots / f"dark-{dark}.png").convert("L"))[-200:, :8].mean()
    assert brightness[False] > 200 and brightness[True] < 60


def test_a_server_that_has_gone_is_told(visit):
    page = visit()
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    page.click("#draw")
    page.until("document.querySelector('#status.wrong')?.textContent === 'no answer: has hires explore ended?'")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.click("#draw")
    page.until(DRAWN)
    page.browser.events.clear()  # the console told of the lost request, rightly
