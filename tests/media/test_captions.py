"""Text under pictures."""

import numpy as np
import pytest

from hires.media.captions import PAPER, bar_height, caption, has_glyph


@pytest.mark.parametrize("size", [4, 31, 64, 256, 1024])
def test_a_bar_is_even_and_readable(size):
    assert bar_height(size) % 2 == 0 and bar_height(size) >= 16


def ink(bar):
    return np.argwhere((bar != PAPER).any(2))


@pytest.mark.parametrize("text", ["5 → 9", "64×64 · 1,200,000 images · fading in, α 0.50", "a" * 500, "one\nline?", "名前.jpg"])
def test_text_stays_inside_its_bar_and_in_the_middle(text):
    bar = caption(text, 256, 22)
    assert bar.shape == (22, 256, 3) and bar.dtype == np.uint8
    (top, left), (bottom, right) = ink(bar).min(0), ink(bar).max(0)
    assert top >= 1 and bottom <= 20 and left >= 1 and right <= 254
    assert abs((left + right) / 2 - 127.5) < 6


def test_no_text_is_an_empty_bar_and_others_differ():
    assert not len(ink(caption("", 64, 16)))
    assert not np.array_equal(caption("1 → 2", 64, 16), caption("1 → 3", 64, 16))


@pytest.mark.parametrize("sign", "→…×·αéß")
def test_the_signs_of_captions_and_of_names_are_in_the_font(sign):
    assert has_glyph(sign)


@pytest.mark.parametrize("sign", ["名", "\n", "\x00"])
def test_what_the_font_lacks_is_a_question_mark(sign):
    assert not has_glyph(sign)
    assert np.array_equal(caption(f"a{sign}b", 64, 16), caption("a?b", 64, 16))
