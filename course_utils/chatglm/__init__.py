"""ChatGLM on today's transformers: the published weights of four generations, no remote code, one loader.

from course_utils.chatglm import load_chatglm, load_tokenizer, load_prefix, chat, stream_chat
"""

from importlib import import_module

_HOME = {
    "load_chatglm": "loading",
    "convert": "loading",
    "load_prefix": "prefix",
    "add_prefix": "prefix",
    "load_tokenizer": "tokenization",
    "chat": "conversation",
    "stream_chat": "conversation",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Bring the heavy libraries only when something of this package is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
