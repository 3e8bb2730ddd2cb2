import dataclasses

import pytest

from corollary.tasks.grading import make_grader
from corollary.tasks.questions import Question
from corollary.tasks.text import QuestionSet, TextTask
from corollary.training.choices import default_template


def questions(*texts: str, answer: str = "1", template: str = "{question}") -> QuestionSet:
    rows = [Question(text, answer, f"file:{number}") for number, text in enumerate(texts, 1)]
    return QuestionSet(label="words", questions=rows, grader=make_grader("number"), template=template)


def ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text)["input_ids"])


def test_prompts_follow_the_template_and_leave_other_braces_alone(tokenizer):
    task = TextTask(tokenizer, questions("2", "3", template="say { {question} }"), questions("4"))
    assert [prompt.tokens for prompt in task.prompts("train")] == [
        ids(tokenizer, "say { 2 }"),
        ids(tokenizer, "say { 3 }"),
    ]
    assert [prompt.tokens for prompt in task.prompts("held_out")] == [ids(tokenizer, "4")]
    with pytest.raises(ValueError, match="split must be 'train' or 'held_out', got 'test'"):
        task.prompts("test")  # ty: ignore[invalid-argument-type]


def test_a_chat_template_stands_around_the_prompt_and_writes_the_special_tokens(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}####{% endif %}"
    )
    task = TextTask(tokenizer, questions("say 2"), questions(), chat=True)
    assert task.prompts("train")[0].tokens == ids(tokenizer, "say 2 ####")


def test_a_completion_is_right_whether_or_not_it_ended(tokenizer):
    task = TextTask(tokenizer, questions("say 1"), questions("say 1"))
    (prompt,) = task.prompts("train")
    right = ids(tokenizer, "2 #### 1")
    assert task.reward(prompt, right) == task.reward(prompt, (*right, task.stop_token)) == 1.0
    assert task.reward(prompt, ids(tokenizer, "1 #### 2")) == task.reward(prompt, ids(tokenizer, "1")) == 0.0
    assert task.correct(task.prompts("held_out")[0], right)


def test_answers_are_the_same_if_their_words_are(tokenizer):
    task = TextTask(tokenizer, questions("say 1"), questions())
    assert (
        task.answer_key(ids(tokenizer, "2 #### 1")) == task.answer_key(ids(tokenizer, "\\boxed { 1 }")) == (ord("1"),)
    )
    assert task.answer_key(ids(tokenizer, "say 1")) == ids(tokenizer, "say 1")


def test_the_name_tells_questions_lengths_and_tokenizers_apart(tokenizer):
    same = [TextTask(tokenizer, questions("say 1"), questions("say 2")) for _ in range(2)]
    others = [
        TextTask(tokenizer, questions("say 3"), questions()),
        TextTask(tokenizer, questions("say 1", answer="2"), questions()),
        TextTask(tokenizer, questions("say 1"), questions(), max_completion_length=9),
        TextTask(tokenizer, questions("say 1"), questions(), stop="}"),
        TextTask(tokenizer, dataclasses.replace(questions("say 1"), grader=make_grader("exact")), questions()),
    ]
    assert same[0].name == same[1].name
    assert len({task.name for task in (same[0], *others)}) == 6


def test_a_tokenizer_without_end_is_refused_unless_a_token_is_named(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        TextTask(tokenizer, questions("say 1"), questions())
    assert TextTask(tokenizer, questions("say 1"), questions(), stop="}").stop_token == ids(tokenizer, "}")[0]


@pytest.mark.parametrize("name", ["max_prompt_length", "max_completion_length"])
def test_a_length_below_one_is_refused(tokenizer, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TextTask(tokenizer, questions("say 1"), questions(), **{name: 0})


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("grader", ["number", "math", "exact"])
def test_default_prompts_ask_for_the_form_that_the_grader_reads(grader, chat):
    template = default_template(grader, chat=chat)
    assert template.count("{question}") == 1
    assert (r"\boxed{}" in template) == (grader == "math")
    assert ("####" in template) == (grader != "math")
