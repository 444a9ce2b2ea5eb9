"""Answers of several parts are read as such, and never calculated."""

import pytest

from specs_lightning.scoring.sequences import (
    ratio_value,
    read_chain,
    read_range,
    read_sequence,
    read_time,
    same_chain,
    same_range,
    same_time,
)


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("7 am", "7 pm", False),
        ("7 a.m.", "7:00 AM", True),
        ("3:30 PM", "15:30", True),
        ("3:30 PM", "3:30", True),
        ("3:30", "15:30", False),
        ("12 am", "0:00", True),
        ("12:15 pm", "12:15 am", False),
    ],
)
def test_times_of_day(gold: str, answer: str, same: bool) -> None:
    times = read_time(gold), read_time(answer)
    assert times[0] is not None and times[1] is not None
    assert same_time(times[0], times[1]) is same_time(times[1], times[0]) is same


@pytest.mark.parametrize("text", ["25:00", "13 pm", "7", "7 apples", "7:99"])
def test_no_times(text: str) -> None:
    assert read_time(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("3:1", "3 : 1", True),
        ("3: 1", "6:2", True),
        ("3:1", "1:3", False),
        ("3:45", "1:15", False),
        ("0:0", "0:0", True),
        ("2:1", "2 to 1", True),
        ("2021-03-05", "2021-05-03", False),
        ("2021-03-05", "2021/03/05", True),
        ("555-1234", "554-1233", False),
        ("3-2", "3:2", False),
    ],
)
def test_chains_compare_as_written_or_a_ratio_in_lowest_terms(gold: str, answer: str, same: bool) -> None:
    chains = read_chain(gold), read_chain(answer)
    assert chains[0] is not None and chains[1] is not None
    assert same_chain(chains[0], chains[1]) is same


def test_a_fraction_is_a_number_and_a_ratio_has_one() -> None:
    assert read_chain("1/2") is None
    ratio, date = read_chain("1:4"), read_chain("2021-03-05")
    assert ratio is not None and date is not None
    assert ratio_value(ratio) == 0.25 and ratio_value(date) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("10-20", "20-30", False),
        ("1990-2000", "1990 – 2000", True),
        ("0.0 - 0.2", "0.2 - 0.4", False),
        ("10-20 cm", "10 cm to 20 cm", True),
        ("10-20 cm", "10-20 m", False),
        ("$5-$10", "5-10", True),
        ("7 am - 5 pm", "7 am to 5 pm", True),
        ("7 am - 5 pm", "7 pm - 5 am", False),
        ("from 5 to 10 km", "5~10 km", True),
    ],
)
def test_ranges_are_no_differences(gold: str, answer: str, same: bool) -> None:
    ranges = read_range(gold), read_range(answer)
    assert ranges[0] is not None and ranges[1] is not None
    assert same_range(ranges[0], ranges[1]) is same_range(ranges[1], ranges[0]) is same


@pytest.mark.parametrize("text", ["x - 3", r"5 - \sqrt{3}", "5", "-5", "a to b"])
def test_differences_are_no_ranges(text: str) -> None:
    assert read_range(text) is None


@pytest.mark.parametrize(
    ("text", "parts", "brackets", "ordered"),
    [
        ("(1,2)", ("1", "2"), "()", True),
        ("(0,1]", ("0", "1"), "(]", True),
        (r"\{1,2\}", ("1", "2"), "{}", False),
        ("1, 2, and 3", ("1", "2", "3"), "", False),
        ("3, 2, 1", ("3", "2", "1"), "", False),
        ("2,1,3,5,4", ("2", "1", "3", "5", "4"), "", True),
        ("B, A, C", ("B", "A", "C"), "", True),
        ("5 or 6", ("5", "6"), "", False),
        ("2 & 4", ("2", "4"), "", False),
        ("1、2", ("1", "2"), "", False),
        ("(6,0)\n(0,-2018)", ("(6,0)", "(0,-2018)"), "", False),
        ("(1,2),(3,4)", ("(1,2)", "(3,4)"), "", False),
        (r"\frac{1}{2}, 3", (r"\frac{1}{2}", "3"), "", False),
        ("1,234, 5", ("1,234", "5"), "", False),
    ],
)
def test_parts_and_whether_their_order_counts(text: str, parts: tuple[str, ...], brackets: str, ordered: bool) -> None:
    sequence = read_sequence(text)
    assert sequence is not None
    assert (sequence.parts, sequence.brackets, sequence.ordered) == (parts, brackets, ordered)


@pytest.mark.parametrize("text", ["1,234", "5", "f(1,2)", "(5)", "", "((", "1,,2", "sand"])
def test_one_part_is_no_sequence(text: str) -> None:
    assert read_sequence(text) is None
