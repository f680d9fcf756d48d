"""The clockwork of the benchmarks; the figures themselves are not tested."""

import pytest

import timing


class Clock:
    """Time that passes only when told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_a_part_does_not_count_what_it_calls_by_another_name(clock):
    class Kitchen:
        def cook(self):
            clock.now += 2
            self.wash()
            clock.now += 1

        def wash(self):
            clock.now += 5

    parts = timing.Parts()
    with parts.watch(Kitchen, "cook", "cook"), parts.watch(Kitchen, "wash", "wash"):
        Kitchen().cook()
        Kitchen().wash()
    Kitchen().cook()
    assert parts.seconds == {"cook": 3, "wash": 10}


def test_alternatives_take_turns_and_the_first_round_does_not_count():
    calls = []
    seconds = timing.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3
    )
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_those_of_the_minima():
    table = timing.ratio_table({"base": [2.0, 4.0], "other": [3.0, 9.0]}, "network")
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["1.00", "1.50"]
