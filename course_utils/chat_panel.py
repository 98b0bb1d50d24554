"""A chat in the notebook: ask, watch the answer being written, stop it, begin anew.

Like an explorer it is one display with several faces: the live widget in JupyterLab, and the conversation as it was
when the notebook was stored, for readers without a kernel.
"""

import html
import threading
from typing import TYPE_CHECKING, Any

from course_utils.messages import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from course_utils.chatglm.tokenization import ChatGLMTokenizer

QUESTION = "text-align:right; margin:4px 0 4px 20%; color:#0072B2"
ANSWER = "text-align:left; margin:4px 20% 4px 0; white-space:pre-wrap"
NOTICE = "color:#D55E00; font-size:90%"


class ChatPanel:
    """A conversation with `model`; `options` are those of `stream_chat`, such as temperature=0."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "ChatGLMTokenizer", **options: Any):
        import ipywidgets

        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.history: list[Any] = []
        self.lines: list[tuple[str, str]] = []
        """What has been said, each with its style."""
        self.cancel = threading.Event()
        self.thread: threading.Thread | None = None

        self.page = ipywidgets.HTML()
        self.question = ipywidgets.Text(placeholder="…", continuous_update=False, layout={"flex": "1"})
        self.send_button = ipywidgets.Button(description="Send 发送", button_style="primary")
        self.stop_button = ipywidgets.Button(description="Stop 停止", disabled=True)
        self.clear_button = ipywidgets.Button(description="Clear 清空")
        self.send_button.on_click(lambda button: self.send(self.question.value))
        self.question.observe(lambda change: self.send(change.new), names="value")  # the Enter key
        self.stop_button.on_click(lambda button: self.stop())
        self.clear_button.on_click(lambda button: self.clear())
        buttons = [self.question, self.send_button, self.stop_button, self.clear_button]
        self.widget = ipywidgets.VBox([self.page, ipywidgets.HBox(buttons)], layout={"max_width": "760px"})

    def send(self, question: str) -> None:
        """Ask, and return at once; the answer appears while it is written. Nothing happens while one is written."""
        if self.send_button.disabled or not question.strip():
            return
        self.send_button.disabled, self.stop_button.disabled = True, False
        self.cancel.clear()
        self.question.value = ""
        self.lines += [(QUESTION, question), (ANSWER, "")]
        self._show()
        # In a thread of its own: the kernel must stay free to hear of the stop button.
        self.thread = threading.Thread(target=self._answer, args=(question,), name="chat panel", daemon=True)
        self.thread.start()

    def _answer(self, question: str) -> None:
        from course_utils.chatglm.conversation import stream_chat

        try:
            pieces = stream_chat(
                self.model,
                self.tokenizer,
                question,
                self.history,
                cancel=self.cancel,
                notice=self._notice,
                **self.options,
            )
            while True:
                self._write(next(pieces))
        except StopIteration as end:
            self.history = end.value.history
        except CourseError as problem:
            self._notice(problem.text)
        except Exception as problem:  # nobody would see it in a thread
            self._notice(f"{type(problem).__name__}: {problem}")
        finally:
            self.send_button.disabled, self.stop_button.disabled = False, True

    def wait(self) -> None:
        """Return when the answer is complete."""
        if self.thread:
            self.thread.join()

    def stop(self) -> None:
        """End the answer that is being written; what there is of it stays, also in the history."""
        if self.thread and self.thread.is_alive():
            self.cancel.set()

    def clear(self) -> None:
        """Forget the conversation."""
        self.stop()
        self.wait()
        self.history, self.lines = [], []
        self._show()

    def _write(self, piece: str) -> None:
        style, text = self.lines[-1]
        self.lines[-1] = (style, text + piece)
        self._show()

    def _notice(self, text: object) -> None:
        self.lines.insert(len(self.lines) - 1, (NOTICE, str(text)))
        self._show()

    def _show(self) -> None:
        # What a user or a model says is text, never HTML.
        self.page.value = "".join(f'<div style="{style}">{html.escape(text)}</div>' for style, text in self.lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        said = "\n".join(text for _, text in self.lines)
        return {
            **self.widget._repr_mimebundle_(),
            "text/html": self.page.value,
            "text/plain": f"Chat panel\n{said}".rstrip(),
        }
