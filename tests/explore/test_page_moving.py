"""The page in a real browser: choosing pictures and moving between them, by mouse and by keys."""

import json

import numpy as np

from tests.explore.looking import LETTERS, pad, picture, settled, weights


def test_moves_between_two_by_dragging_a_slider(visit, server, shots):
    page = visit()
    page.click('[data-seed="3"]')
    page.until("view.src.startsWith('data:')")
    assert page.js("view.src") == page.js("document.querySelector('[data-seed=\"3\"] img').src")
    page.click('[data-seed="10"]')
    assert page.js(LETTERS) == {"A": 3, "B": 10}
    settled(page, 0.5, 0.5)
    x, y = page.centre("#between")
    width = page.js("between.getBoundingClientRect().width")
    page.drag([(x, y), *((x + width * i / 40, y) for i in range(11))])
    share = page.js("Number(between.value)")
    assert 0.7 < share < 0.8
    settled(page, 1 - share, share)
    wanted = server.post("/api/decode", points=[{"seed": 3}, {"seed": 10}], weights=[1 - share, share])
    assert np.abs(picture(page.js("view.src")) - picture(wanted["picture"])).max() <= 1
    page.js("document.querySelector('#path').value = 'line'; document.querySelector('#path').dispatchEvent(new Event('change'))")
    straight = server.post("/api/decode", points=[{"seed": 3}, {"seed": 10}], weights=[1 - share, share], path="line")
    page.until(f"view.src === {json.dumps(straight['picture'])}")
    page.screenshot(shots / "two.png")
    page.click('[data-seed="3"]')  # a chosen one is let go
    assert page.js(LETTERS) == {"A": 10}


def test_moves_between_three_on_the_triangle_and_the_newest_place_wins(visit, server, shots):
    page = visit()
    for seed in (2, 5, 8):
        page.click(f'[data-seed="{seed}"]')
    settled(page, 1 / 3, 1 / 3, 1 / 3)
    asked = len([url for url in page.requests() if url.endswith("/api/decode")])
    way = [(1 / 3, 1 / 3, 1 / 3), *((i / 60, 0.7 - i / 60, 0.3) for i in range(37)), (0.6, 0.1, 0.3)]
    page.drag([pad(page, *place) for place in way])
    settled(page, 0.6, 0.1, 0.3)
    found = weights(page)
    wanted = server.post("/api/decode", points=[{"seed": 2}, {"seed": 5}, {"seed": 8}], weights=found)
    assert np.abs(picture(page.js("view.src")) - picture(wanted["picture"])).max() <= 2
    page.screenshot(shots / "three.png")
    # one question at a time, however fast the hand: what came while one was open was left out, but for the newest
    open_now, most, sent = set(), 0, 0
    for event in page.browser.events:
        one = event["params"].get("requestId")
        if event["method"] == "Network.requestWillBeSent" and event["params"]["request"]["url"].endswith("/api/decode"):
            open_now.add(one)
            most, sent = max(most, len(open_now)), sent + 1
        elif event["method"] in ("Network.loadingFinished", "Network.loadingFailed"):
            open_now.discard(one)
    assert most == 1
    assert asked < sent <= asked + len(way)
    # outside the triangle counts as the nearest place of it; another seed takes the last one's place
    page.drag([pad(page, 0.6, 0.1, 0.3), pad(page, -0.4, 0.7, 0.7)])
    settled(page, 0, 0.5, 0.5)
    page.click('[data-seed="11"]')
    assert page.js(LETTERS) == {"A": 2, "B": 5, "C": 11}


def test_plays_until_it_is_stopped(visit):
    page = visit()
    page.click('[data-seed="0"]')
    page.click('[data-seed="1"]')
    settled(page, 0.5, 0.5)
    page.click("#play")
    page.until("play.textContent === 'Stop' && Number(view.dataset.weights.split(' ')[1]) < 0.3")
    page.until("Number(view.dataset.weights.split(' ')[1]) > 0.3")
    page.click("#play")
    assert page.js("play.textContent") == "Play"


def test_a_keyboard_is_enough(visit):
    page = visit()
    page.js("document.querySelector('#save-grid').focus()")
    page.key("Tab")
    assert page.js("document.activeElement.dataset.seed") == "0"
    page.key("Enter")
    page.key("ArrowRight")
    page.key("ArrowDown")
    columns = page.js("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    page.key("Space")
    assert page.js(LETTERS) == {"A": 0, "B": columns + 1}
    page.js("between.focus()")
    settled(page, 0.5, 0.5)
    for _ in range(4):
        page.key("ArrowRight")
    settled(page, 0.48, 0.52)
    page.js("document.querySelector('[data-seed=\"2\"]').click(); document.querySelector('#pad .handle').focus()")
    settled(page, 1 / 3, 1 / 3, 1 / 3)
    for _ in range(3):
        page.key("ArrowUp")
    page.until("Number(view.dataset.weights.split(' ')[0]) > 0.44")
    assert page.js("document.activeElement.getAttribute('aria-valuetext')").startswith("A 45")
    page.js("document.querySelector('#chosen button').focus()")
    page.key("Enter")
    assert page.js("document.querySelectorAll('#chosen button').length") == 2
