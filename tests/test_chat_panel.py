"""The chat panel streams, stops, clears, keeps its history, and shows problems instead of losing them in a thread."""

import itertools
import threading

import pytest
from chatglm_scripted import answer_ids, tiny_model, tokenizer_of

from course_utils.chat_panel import ChatPanel


def panel(*texts: str, generation: int = 3, **options) -> ChatPanel:
    tokenizer = tokenizer_of(generation)
    model = tiny_model(generation).says(*(answer_ids(tokenizer, text) for text in texts))
    return ChatPanel(model, tokenizer, **options)


def ask(shown: ChatPanel, question: str) -> str:
    shown.send(question)
    shown.wait()
    return shown.page.value


def test_question_and_answer_are_shown_and_kept():
    shown = panel("你好！", "再见！")
    assert "你好！" in ask(shown, "hello")
    assert shown.question.value == "" and not shown.send_button.disabled and shown.stop_button.disabled
    ask(shown, "bye")
    assert [message["content"] for message in shown.history] == ["hello", "你好！", "bye", "再见！"]
    # The second prompt held the first round.
    assert len(shown.model.prompts[1]) > len(shown.model.prompts[0])


def test_the_buttons_and_the_enter_key_do_it():
    shown = panel("好")
    shown.question.value = "a"  # Enter
    shown.wait()
    shown.send_button.click()  # nothing is typed: nothing is asked
    shown.wait()
    assert len(shown.history) == 2
    shown.clear_button.click()
    assert shown.history == [] and shown.page.value == ""


def test_the_answer_appears_while_it_is_written():
    shown, seen = panel("一二三四五六"), []
    shown.page.observe(lambda change: seen.append(change.new), names="value")
    ask(shown, "数")
    assert len(seen) > 4 and all(len(a) < len(b) for a, b in itertools.pairwise(seen))


def test_stop_keeps_what_is_there_and_the_next_answer_runs():
    shown = panel("一二三四五六七八九十" * 5, "好")
    first = threading.Event()
    shown.page.observe(lambda change: (first.set(), shown.stop_button.click()) if "一" in change.new else None, "value")
    long = ask(shown, "数")
    assert first.is_set() and long.count("一") == 1 and "十" not in long
    assert shown.history[-1]["content"].startswith("一")
    assert "好" in ask(shown, "再说")


def test_a_second_question_waits_for_nobody():
    shown = panel("一二三四五六")
    shown.send("数")
    shown.send("停")  # the button is greyed out: ignored
    shown.wait()
    assert len(shown.history) == 2


def test_text_is_never_html():
    assert "<b>" not in ask(panel("<b>粗</b>"), "<script>x</script>") and "&lt;script&gt;" in ask(
        panel("a"), "<script>"
    )


@pytest.mark.parametrize(
    "options, says", [({"max_length": 3}, "shorten it"), ({"no_such_setting": 1}, "no_such_setting")]
)
def test_problems_are_shown_and_the_panel_goes_on(options, says):
    shown = panel("好", **options)
    assert says in ask(shown, "你好") and not shown.send_button.disabled
    shown.options = {}
    assert "好" in ask(shown, "你好")


def test_one_display_with_three_faces():
    shown = panel("好")
    ask(shown, "你好")
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert bundle["text/plain"] == "Chat panel\n你好\n好" and bundle["text/html"] == shown.page.value
