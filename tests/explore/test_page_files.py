"""The page in a real browser: pictures dropped on it, and files that it gives."""

import numpy as np
from PIL import Image

from tests.explore.looking import SEEDS, picture, settled


def test_a_dropped_picture_is_reconstructed_and_moved_from(visit, server, photo, tmp_path, shots):
    page = visit()
    page.click('[data-seed="7"]')
    words = tmp_path / "notes.txt"
    words.write_text("no picture")
    page.drop(*page.centre("#grid"), words)
    page.until("document.querySelector('#status.wrong')?.textContent.startsWith('notes.txt: ')")
    assert page.complaints()  # the console tells of the 415
    page.browser.events.clear()
    page.js("addEventListener('drop', (event) => { window.kept = event.defaultPrevented; })")
    page.drop(*page.centre("#grid"), photo)  # anywhere
    page.until("!pair.hidden && rebuilt.src.startsWith('data:')")
    assert page.js("window.kept") is True  # or a browser with windows would leave the page for the picture
    found = server.ask("POST", "/api/reconstruct", photo.read_bytes())[1]
    assert page.js("[original.src, rebuilt.src]") == [found["original"], found["picture"]]
    assert f"{found['mse']:.4f}" in page.js("errors.textContent") and f"{found['energy']:.2f}".replace("-", "−") in page.js(
        "errors.textContent"
    )
    assert page.js("document.querySelector('#status').textContent") == f"{photo.name}: reconstructed"
    page.click("#use")
    settled(page, 0.5, 0.5)
    wanted = server.post("/api/decode", points=[{"seed": 7}, {"code": found["code"]}], weights=[1, 1])
    assert page.js("view.src") == wanted["picture"]
    page.screenshot(shots / "own.png", whole=True)
    page.click("#save-own")
    rebuilt = np.asarray(Image.open(page.downloaded("me_i_you-reconstruction.png"))).astype(int)
    assert np.abs(rebuilt - picture(found["picture"])).max() == 0
    page.click("#use")  # again: let go
    assert page.js("document.querySelectorAll('#chosen button').length") == 1


def test_a_picture_is_chosen_from_a_dialogue(visit, photo):
    page = visit()
    page.choose("#file", photo)
    page.until("!pair.hidden && original.src.startsWith('data:')")


def test_a_picture_is_pasted(visit):
    page = visit()
    page.js("""(() => {
        const bytes = Uint8Array.from(atob(document.querySelector('.cell img').src.split(',')[1]), (letter) => letter.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], 'clip.png', {type: 'image/png'}));
        dispatchEvent(new ClipboardEvent('paste', {clipboardData}));
    })()""")
    page.until("!pair.hidden && original.src === document.querySelector('.cell img').src")


def test_a_picture_too_large_is_never_sent(visit, tmp_path):
    large = tmp_path / "large.png"
    with open(large, "wb") as file:
        file.truncate(11 * 2**20)
    page = visit()
    page.drop(*page.centre("#grid"), large)
    page.until("document.querySelector('#status.wrong')?.textContent === 'large.png: 11.0 MB; wanted at most 10'")
    assert not [url for url in page.requests() if "reconstruct" in url]


def test_downloads_are_what_one_sees(visit, server):
    page = visit("#seed=100&pictures=24")
    columns = page.js("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    drawn = [picture(one["picture"]) for one in server.post("/api/sample", seeds=list(range(100, 124)))["pictures"]]
    page.click("#save-grid")
    sheet = np.asarray(Image.open(page.downloaded("grid-seeds100-123.png")).convert("RGB")).astype(int)
    assert sheet.shape == (-(-24 // columns) * 66 + 2, columns * 66 + 2, 3)
    for i, one in enumerate(drawn):  # each pixel as 2x2
        y, x = i // columns * 66 + 2, i % columns * 66 + 2
        assert np.abs(sheet[y : y + 64, x : x + 64] - one.repeat(2, 0).repeat(2, 1)).max() <= 1
    page.click("#sort")
    order = page.js(SEEDS)
    page.click("#save-grid")
    sheet = np.asarray(Image.open(page.downloaded("grid-seeds100-123-by-energy.png")).convert("RGB")).astype(int)
    assert np.abs(sheet[2:66:2, 2:66:2] - drawn[order[0] - 100]).max() <= 1
    page.click('[data-seed="103"]')
    page.until("view.src.startsWith('data:')")
    page.click("#save-view")
    assert np.abs(np.asarray(Image.open(page.downloaded("seed103.png"))).astype(int) - drawn[3]).max() <= 1
    page.click('[data-seed="104"]')
    settled(page, 0.5, 0.5)
    page.click("#save-view")
    assert Image.open(page.downloaded("seed103-0.50-seed104-0.50.png")).size == (32, 32)
