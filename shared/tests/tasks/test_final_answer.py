from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corollary.tasks.final_answer import LONGEST, after_hashes, boxed, final_answer, leading_number, whole_number_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 72", "72"),
        ("6 x 7 = 42\n####42 apples\nmore", "42 apples"),
        ("#### 1\nQuestion: and then?\n#### 2", "1"),
        ("####\n72", ""),
        ("72", None),
        ("### 72", None),
    ],
)
def test_the_answer_after_hashes_is_the_rest_of_the_first_such_line(text, answer):
    assert after_hashes(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{1} but rather $\boxed{ 2 }$.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox {3}", "3"),
        (r"\boxed{\left\{ 1 \right\}}", r"\left\{ 1 \right\}"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{1 then \boxed{2}", "2"),
        (r"} \boxed{4} {", "4"),
        (r"\boxed{a \text{ if } b}", r"a \text{ if } b"),
        (r"\boxed 5", None),
        ("boxed{5}", None),
        (r"\\boxed{5}", None),
        (r"\boxed{}", ""),
    ],
)
def test_the_boxed_answer_is_that_of_the_last_closed_box(text, answer):
    assert boxed(text) == answer


@given(st.text(alphabet="ab1\\,$ ", max_size=30))
def test_a_box_gives_back_what_was_put_in(content):
    escaped = content.rstrip("\\")
    assert boxed("x{" + r"\boxed{" + escaped + "}") == escaped.strip()


def test_hashes_come_before_boxes_and_overlong_answers_are_none():
    assert final_answer("\\boxed{1}\n#### 2") == "2"
    assert final_answer("####\n\\boxed{1}") is None
    assert final_answer(r"\boxed{" + "1" * LONGEST + "}") == "1" * LONGEST
    assert final_answer(r"\boxed{" + "1" * (LONGEST + 1) + "}") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("72.0", 72),
        ("1,234", 1234),
        ("$1,234.50 a day", Fraction(2469, 2)),
        (r"\$5", 5),
        ("-3", -3),
        ("$-3", -3),
        ("-$3", -3),
        ("72.", 72),
        (".5", Fraction(1, 2)),
        ("1.2.3", None),
        ("--3", None),
        ("about 72", None),
        ("", None),
        (",.,", None),
        ("٣", None),
        ("9" * 5000, None),
        ("1e9", 1),
    ],
)
def test_the_number_that_an_answer_begins_with(text, value):
    assert leading_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        (r"\$1{,}250\text{ dollars}", 1250),
        ("1\\,000", 1000),
        ("12.50\\%", Fraction(25, 2)),
        ("- 3", -3),
        ("3 or 4", None),
        ("7 apples", None),
        (r"\frac{1}{2}", None),
        ("1e9", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_an_answer_that_is_a_number(text, value):
    assert whole_number_of(text) == value
