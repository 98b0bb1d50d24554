"""What the course says to a student: one line of cause and cure, in English and in Chinese.

Notebooks of both languages store the same outputs, so every message carries both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """One message in both languages."""

    en: str
    zh: str

    def __str__(self) -> str:
        return f"{self.en}\n{self.zh}"


class CourseError(Exception):
    """A mistake that the reader can mend: says what is wrong and what to do.

    In a notebook only the message appears, without a traceback into helper code.
    """

    def __init__(self, en: str, zh: str):
        self.text = Text(en, zh)
        super().__init__(str(self.text))

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for this before it renders one itself.
        return [f"✘ {self.text.en}", f"✘ {self.text.zh}"]
