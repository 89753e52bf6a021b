"""Work that runs ahead: nothing is lost, nothing runs away, nothing is left behind."""

from threading import Event, active_count

import pytest

from hires.sampling.ahead import ahead


def test_items_come_in_order_and_the_next_is_made_while_one_is_used():
    made = [Event() for _ in range(20)]

    def items():
        for i, event in enumerate(made):
            event.set()
            yield i

    found = []
    for i in ahead(items()):
        assert made[min(i + 1, 19)].wait(10)  # nobody has asked for it yet
        found.append(i)
    assert found == list(range(20))


def test_it_runs_no_further_ahead_than_it_may():
    made = []
    source = ahead((made.append(i) for i in range(50)), depth=2)
    for taken in range(1, 51):
        next(source)
        assert len(made) <= taken + 2 + 1  # those that wait, and the one at hand


def test_a_failure_comes_after_what_was_made_before_it():
    def items():
        yield from range(3)
        raise RuntimeError("the generator died")

    found = []
    with pytest.raises(RuntimeError, match="the generator died"):
        found += [found.append(i) for i in ahead(items())]
    assert found == [0, 1, 2]


def test_no_thread_is_left_when_the_consumer_stops_early():
    before, closed = active_count(), Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    source = ahead(items())
    assert next(source) == next(source) == 1
    source.close()
    assert active_count() == before
    assert closed.wait(10)
