"""Where an answer stands, and what it is."""

import random
import string

import pytest

from rewards.parsing import LONGEST_NUMBER, answer_in, boxed, choice, gold_in, normal, number, tagged, yes_no

OPTIONS = ("red circle", "blue square", "a cat", "C")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{A}", "A"),
        (r"so it is \boxed{ red } .", "red"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),  # escaped braces are signs
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{A} yes, \boxed{A}", "A"),  # both say the same
        (r"\boxed{}", ""),
        (r"\boxed{A}\boxed{B}", None),
        (r"\boxed{A} \boxed{B} \boxed{A}", None),
        (r"\boxed{\boxed{A}}", None),
        (r"\boxed{A", None),
        (r"\boxed{A} then \boxed{", None),
        (r"\boxed A", None),
        (r"\boxed A \boxed{B}", None),
        (r"\boxed}{A}", None),
        ("boxed{A}", None),
        ("A", None),
        ("", None),
    ],
)
def test_boxed(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


def test_many_boxes_take_linear_time() -> None:
    # each would be read to its end from each of the others, if this were quadratic: 10^10 steps
    assert boxed(r"\boxed{" * 100_000) is None
    assert boxed(r"\boxed{A}" * 100_000) == "A"
    assert boxed(r"\boxed{" * 100_000 + "}" * 100_000) is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<answer>A</answer>", "A"),
        ("<think>x</think>\n<answer> A \n</answer> bye", "A"),
        ("<answer></answer>", ""),
        ("<answer>A</answer><answer>A</answer>", None),
        ("<answer>A</answer><answer>B</answer>", None),
        ("</answer>A<answer>", None),
        ("<answer>A", None),
        ("A</answer>", None),
        ("<ANSWER>A</ANSWER>", None),
        ("A", None),
    ],
)
def test_tagged(text: str, inside: str | None) -> None:
    assert tagged(text, "answer") == inside


def test_the_place_of_the_answer() -> None:
    assert answer_in(" red ", "whole") == "red"
    assert answer_in(r"\boxed{red}", "boxed") == "red"
    assert answer_in("<answer>red</answer>", "tag") == "red"
    assert answer_in("red", "boxed") is None
    # a sample's own answer may be written plainly, or as the reply is to be
    assert gold_in("red", "boxed") == gold_in(r"It is \boxed{red}", "boxed") == "red"
    assert gold_in(r"\boxed{red}", "whole") == r"\boxed{red}"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" Red  Circle. ", "red circle"),
        ("(B)", "b"),
        ("(B).", "b"),
        ("( B )", "b"),
        ("B..", "b."),  # one full stop only
        ("((B))", "((b))"),  # one pair only
        ("(a) or (b)", "(a) or (b)"),
        (".", "."),
        ("()", "()"),
        ("cafe\u0301", "café"),  # composed
        ("Ｂ", "b"),  # full width
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
    ],
)
def test_normal(text: str, same: str) -> None:
    assert normal(text) == same


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("A", 0),
        ("a", 0),
        ("(B)", 1),
        ("b.", 1),
        ("D", 3),
        ("red circle", 0),
        ("Red circle.", 0),
        ("C", 3),  # an option's text goes before the letter
        ("E", None),
        ("", None),
        ("AB", None),
        ("A B", None),
        ("A, B", None),
        ("A or B", None),
        ("A B C D E", None),
        ("ABCDE", None),
        ("the answer is (A) or B", None),
        ("The answer is A", None),
        ("A. red circle", None),
        ("A\u200b", None),  # zero width space
        ("\u202eA", None),  # right to left
        ("А", None),  # Cyrillic
        ("1", None),
        ("red", None),
        ("red circle blue square", None),
    ],
)
def test_choice(text: str, picked: int | None) -> None:
    assert choice(text, OPTIONS) == picked


def test_options_that_are_alike() -> None:
    assert choice("Polish", ("polish", "Polish")) == 1  # exactly one of them
    assert choice("POLISH", ("polish", "Polish")) is None
    assert choice("red", ("blue", "red", "red")) == 1


def test_no_text_with_words_around_a_letter_is_a_choice() -> None:
    draw = random.Random(0)
    words = ["the", "answer", "is", "or", *string.ascii_uppercase[:5], "(A)", "(B)", "[C]", "**D**"]
    for _ in range(2000):
        text = " ".join(draw.choices(words, k=draw.randint(2, 8)))
        assert choice(text, ("one", "two", "three", "four", "five")) is None, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12.0),
        (" -3.5 ", -3.5),
        ("+4", 4.0),
        (".5", 0.5),
        ("7.", 7.0),  # a full stop
        ("(7)", 7.0),
        ("1,000", 1000.0),
        ("1,234,567.5", 1234567.5),
        ("2e3", 2000.0),
        ("1E-3", 0.001),
        ("007", 7.0),
        ("1e308", 1e308),
        ("1e-400", 0.0),
        ("1e1000", None),
        ("1e999", None),
        ("1e400", None),
        ("9" * 41, None),
        ("nan", None),
        ("inf", None),
        ("-Infinity", None),
        ("1,00", None),
        ("1,0000", None),
        ("3,5", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),
        ("１２", None),
        ("²", None),
        ("5 apples", None),
        ("5%", None),
        ("1 2", None),
        ("1-2", None),
        ("", None),
        ("-", None),
        ("e5", None),
        (".", None),
        ("--1", None),
    ],
)
def test_number(text: str, value: float | None) -> None:
    assert number(text) == value


def test_long_numbers_are_refused_and_take_no_time() -> None:
    assert number("9" * LONGEST_NUMBER) == float("9" * LONGEST_NUMBER)
    assert number("9" * 1_000_000) is None
    assert number("1," * 1_000_000) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes.", True),
        ("no", False),
        ("(NO)", False),
        ("yes no", None),
        ("yes, it is", None),
        ("", None),
        ("true", None),
    ],
)
def test_yes_no(text: str, value: bool | None) -> None:
    assert yes_no(text) is value
