from __future__ import annotations

import math

import pytest

from normlab.page import format as fmt
from normlab.study.progress import clock

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("spreads", "places"),
    [
        *[([0.45, 0.2, 0.24], 2), ([2.87, 0.44], 2), ([2.87], 1), ([0.0051], 4), ([20.0], 0), ([300.0], 0)],
        *[([], 2), ([0.0, NAN], 2), ([1e-9], 8), ([0.4, 20.6], 2)],
    ],
)
def test_decimals_show_two_digits_of_a_typical_spread(spreads, places):
    assert fmt.decimals(spreads) == places


NUMBERS = {
    (89.444, 2, False): "89.44",
    (0.61, 2, True): "+0.61",
    (-0.04, 2, True): "−0.04",
    (-0.001, 2, True): "0.00",
    (0, 1, True): "0.0",
    (NAN, 2, True): "—",
    (INF, 2, False): "∞",
    (-INF, 2, True): "−∞",
    (1.234e30, 2, True): "+1.2e30",
}


@pytest.mark.parametrize(("given", "text"), NUMBERS.items())
def test_numbers(given, text):
    x, places, signed = given
    assert fmt.number(x, places, signed=signed) == text


P_VALUES = {0.004: ".004", 0.00012: ".0001", 3e-5: "<.0001", 0.06: ".060", 0.0996: ".100", 0.43: ".43", 0.9951: "1.0"}


@pytest.mark.parametrize(("p", "text"), [*P_VALUES.items(), (1.0, "1.0"), (NAN, "—")])
def test_p_values(p, text):
    assert fmt.p_value(p) == text


def test_intervals_keep_their_ends_together():
    assert fmt.interval((-0.02, 0.764), 2) == f"[−0.02,{fmt.NBSP}+0.76]"
    assert fmt.interval((NAN, 1.0), 2) == "—"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.01234, "0.012 s"),
        (9.96, "10 s"),
        (48, "48 s"),
        (720, "12 min"),
        (11520, "3 h 12 min"),
        (3600, "1 h 0 min"),
        (557729.1, "6.5 days"),
        (38421 * 3600, "1,601 days"),
    ],
)
def test_durations(seconds, text):
    assert fmt.duration(seconds).replace(fmt.NBSP, " ") == text


def test_names_lose_what_a_terminal_would_act_on():
    assert fmt.printable(" a\x1b[31m\nb\u202e\t") == "a [31m b"


def test_time_left_of_days_is_no_clock():
    assert [clock(s) for s in (151, 3751, 557729.1)] == ["2:31", "1:02:31", "6.5 days"]
