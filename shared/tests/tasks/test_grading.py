import os
import signal
import sys
import threading
import time

import pytest

from corollary.tasks import math_equality
from corollary.tasks.grading import GRADERS, make_grader
from corollary.tasks.math_equality import EQUALITY, MathEquality


def judged(grader, completion, reference):
    grader = make_grader(grader)
    answer = grader.answer(completion)
    return answer is not None and grader.correct(answer, grader.reference(reference))


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("48 / 2 = 24, 48 + 24 = 72\n#### 72", True),
        ("#### 72.0", True),
        ("#### $72", True),
        ("#### 72 clips", True),
        ("#### 72\nQuestion: what is 1 + 1?\n#### 2", True),
        (r"so it is \boxed{72}", True),
        (r"\boxed{\$72\text{ dollars}}", True),
        ("#### 7", False),
        ("#### 720", False),
        ("#### 72.5", False),
        ("#### -72", False),
        ("#### 2\n#### 72", False),
        ("#### so 72", False),
        ("####\n72", False),
        ("The answer is 72.", False),
        (r"\boxed{72} \boxed{73}", False),
        (r"\boxed{70 + 2}", False),
        ("", False),
        ("#### " + "9" * 10_000, False),
    ],
)
def test_what_counts_as_the_number_72(completion, right):
    assert judged("number", completion, "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72") is right


def test_a_reference_of_a_thousand_has_a_comma_or_not():
    assert judged("number", "#### 1,000", "1000")
    assert judged("number", "#### 1000", "#### 1,000")


@pytest.mark.parametrize(("text", "reason"), [("twelve", "must be a number"), ("####", "empty"), ("  ", "empty")])
def test_a_reference_that_is_no_number_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        make_grader("number").reference(text)


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("new  York", True),
        ("#### New York", True),
        (r"\boxed{New York}", True),
        ("It is New York", False),
        ("New York \\boxed{Boston}", False),
    ],
)
def test_what_counts_as_the_same_words(completion, right):
    assert judged("exact", completion, "New York") is right


def test_an_unknown_grader_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="unknown grader 'nubmer'; did you mean 'number'"):
        make_grader("nubmer")
    assert list(GRADERS) == ["number", "math", "exact"]


def test_without_math_verify_the_grader_names_its_extra(monkeypatch):
    monkeypatch.setattr(math_equality.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "corollary\[math\]"'):
        make_grader("math")


class TestMath:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("math_verify", reason="needs the extra math")

    @pytest.mark.parametrize(
        ("reference", "answer"),
        [
            (r"\frac{1}{2}", "0.5"),
            (r"\frac12", "1/2"),
            (r"3\sqrt{13}", r"\sqrt{117}"),
            ("p - q", "-q + p"),
            (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
            ("1,-2", "-2, 1"),
            ("5", "x = 5"),
            (r"\text{Evelyn}", "Evelyn"),
            ("1000", "1,000"),
            (r"90^\circ", "90"),
            ("6 - 5i", "6-5i"),
            ("4", "2 + 2"),
        ],
    )
    def test_equal_forms(self, reference, answer):
        assert judged("math", rf"so \boxed{{{answer}}}", reference)

    @pytest.mark.parametrize(
        ("reference", "answer"),
        [
            (r"\frac{1}{2}", "0.51"),
            ("2", "3"),
            ("(1,2)", "(2,1)"),
            (r"\text{Evelyn}", r"\text{Alice}"),
            ("7", "7, 8"),
            (r"\frac13", "0.33"),
            ("x + 1", "x - 1"),
            ("5", r"\frac{"),
            ("5", r"\undefined{}"),
        ],
    )
    def test_other_answers(self, reference, answer):
        assert not judged("math", rf"so \boxed{{{answer}}}", reference)

    def test_an_answer_outside_a_box_does_not_count(self):
        assert not judged("math", "so it is $2$", "2")

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of processor time")
    def test_expressions_that_would_take_for_ever_are_wrong_and_the_next_is_judged(self):
        given_up = EQUALITY.given_up
        assert not judged("math", r"\boxed{9^{9^{9^{9}}} + 1}", "5")
        assert EQUALITY.given_up == given_up + 1
        assert judged("math", r"\boxed{0.25}", r"\frac14")

    def test_code_in_an_answer_is_not_run(self, tmp_path):
        target = tmp_path / "made"
        assert not judged("math", rf'\boxed{{__import__("pathlib").Path("{target}").touch()}}', "5")
        assert not target.exists()

    def test_it_works_in_threads_and_leaves_the_alarm_of_this_process_alone(self):
        with MathEqualityInUse() as equality:
            if hasattr(signal, "getsignal") and hasattr(signal, "SIGALRM"):
                before = signal.getsignal(signal.SIGALRM)
            found = {}
            threads = [
                threading.Thread(target=lambda n=n: found.update({n: equality.equal(str(n), f"{2 * n}/2")}))
                for n in range(1, 5)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == dict.fromkeys(range(1, 5), True)
            if hasattr(signal, "SIGALRM"):
                assert signal.getsignal(signal.SIGALRM) is before

    def test_a_killed_process_counts_as_unequal_and_is_replaced(self):
        with MathEqualityInUse() as equality:
            assert equality.equal("1/2", "2/4")
            os.kill(equality.process_id, signal.SIGKILL)
            time.sleep(0.2)
            assert equality.equal("1/3", "2/6")
            assert equality.equal("1/2", "2/4")
            assert equality.given_up == 0


class MathEqualityInUse(MathEquality):
    """A comparer of its own, closed at the end."""

    def __enter__(self) -> "MathEqualityInUse":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid


@pytest.mark.skipif(sys.platform == "win32", reason="starts a shell")
def test_a_process_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(math_equality.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(math_equality.sys, "executable", "/bin/false")
    with MathEqualityInUse() as equality, pytest.raises(ImportError, match="math-verify cannot be used"):
        equality.equal("1", "2")
