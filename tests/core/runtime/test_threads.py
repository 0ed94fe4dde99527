"""Work beside the main thread: order, bounds, errors."""

import threading
import time

import pytest

from nstexp.core.runtime.threads import WriteBehind, prefetch


def test_ahead_gives_the_items_in_order_and_makes_them_elsewhere():
    makers = set()

    def items():
        for n in range(20):
            makers.add(threading.current_thread())
            yield n

    assert list(prefetch(items(), 3)) == list(range(20))
    assert threading.current_thread() not in makers


def test_ahead_makes_no_more_than_it_should():
    made = []

    def items():
        for n in range(100):
            made.append(n)
            yield n

    coming = prefetch(items(), 3)
    assert [next(coming) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.05)
    assert len(made) <= 5 + 3
    coming.close()
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count < 100


def test_ahead_raises_what_the_items_raise_in_its_place():
    def items():
        yield 1
        raise OSError("broken")

    coming = prefetch(items(), 4)
    assert next(coming) == 1
    with pytest.raises(OSError, match="broken"):
        next(coming)


def test_behind_calls_in_order_and_waits_when_too_many_wait():
    seen, gate = [], threading.Event()

    def slow(n):
        gate.wait(5)
        seen.append(n)

    call = WriteBehind(slow, 2)
    for n in range(3):
        call(n)
    blocked = threading.Thread(target=call, args=(3,))
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive()
    gate.set()
    blocked.join(5)
    call.finish()
    assert seen == [0, 1, 2, 3]


def test_behind_raises_what_a_call_raised_at_a_later_call_or_at_the_end():
    def fail(n):
        raise OSError(f"full at {n}")

    call = WriteBehind(fail, 1)
    call(0)
    with pytest.raises(OSError, match="full at 0"):
        for n in range(1, 9):
            time.sleep(0.01)
            call(n)
    call.close()
    call = WriteBehind(fail, 4)
    call(0)
    with pytest.raises(OSError, match="full"):
        call.finish()
