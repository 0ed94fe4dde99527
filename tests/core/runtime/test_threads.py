"""Work beside the main thread: order, bounds, errors."""

import threading
import time

import pytest
import torch

from nstexp.core.runtime.threads import WriteBehind, for_each, prefetch


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


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_items_share_the_threads_of_pytorch(threads):
    together = threading.Barrier(min(2, threads))

    def call(item):
        together.wait(5)  # returns if as many calls work at the same time
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with torch.inference_mode():
        assert for_each(call, [1, 2]) == [(item, max(1, threads // 2), True, False) for item in (1, 2)]
    with torch.no_grad():
        assert for_each(call, [3, 4]) == [(item, max(1, threads // 2), False, False) for item in (3, 4)]
    assert for_each(call, [5, 6]) == [(item, max(1, threads // 2), False, True) for item in (5, 6)]
    assert for_each(lambda item: torch.get_num_threads(), ["alone"]) == [threads]
    assert for_each(call, []) == []
    assert torch.get_num_threads() == threads, "those of the caller"
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [threads], "those of threads that begin later"


def test_an_exception_comes_after_all_calls_have_ended(threads):
    ended = []

    def call(item):
        if item == 1:
            raise OSError("broken")
        ended.append(item)

    with pytest.raises(OSError, match="broken"):
        for_each(call, [0, 1, 2, 3])
    assert set(ended) == ({0} if threads == 1 else {0, 2, 3})
    assert for_each(lambda item: item, [4, 5]) == [4, 5]
