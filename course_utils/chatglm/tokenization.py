"""The tokenizers of all four generations, from the vocabulary file that was published with the weights.

Each class keeps the published ids, byte for byte. What differs from other tokenizers: control tokens are
never found in text. `tokenizer("<|user|>")` encodes eight characters; the token itself comes only from a
`Control` in a prompt (see prompts.py) or by its id.
"""

import base64
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from transformers import AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from course_utils.chatglm.prompts import OPENING, Control, Message, as_messages, prompt_parts
from course_utils.chatglm.published import generation_of, read_config
from course_utils.files import written_whole
from course_utils.messages import CourseError


class ChatGLMTokenizer(PreTrainedTokenizer):
    """What the generations share. A subclass sets `_vocab` and `_pieces`, then calls `super().__init__`."""

    generation: int
    control_tokens: tuple[str, ...]
    stop_tokens: tuple[str, ...]
    """An answer ends at one of these."""
    special_tokens: ClassVar[dict[str, str]]
    unseen: tuple[str, ...]
    """Tokens that leave no trace in decoded text, as published."""

    vocab_files_names: ClassVar = {"vocab_file": "tokenizer.model"}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]
    padding_side = "left"

    _vocab: dict[str, int]
    _pieces: list[str]

    def __init__(self, vocab_file: str, **kwargs: Any):
        self.vocab_file = str(vocab_file)
        kwargs = {"extra_special_tokens": list(self.control_tokens), **self.special_tokens, **kwargs}
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        return self._vocab | self._added_tokens_encoder

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        # The library would look for control tokens in the text first. Here text is only ever text.
        return self._tokenize(text)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._vocab.get(token, self._vocab.get(self.special_tokens["unk_token"]))

    def _convert_id_to_token(self, index: int) -> str:
        # The models' vocabularies are padded with rows that mean nothing.
        return self._pieces[index] if 0 <= index < len(self._pieces) else ""

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        dropped = set(self.convert_tokens_to_ids(list(self.unseen)))
        if skip_special_tokens:
            dropped |= set(self.all_special_ids)
        return self.convert_tokens_to_string([self._convert_id_to_token(i) for i in ids if i not in dropped])

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        ids = [self._vocab[token] for token in OPENING[self.generation]] + token_ids_0
        return ids if token_ids_1 is None else ids + token_ids_1 + [self.eos_token_id]

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text inside a prompt: no control token among them, whatever the text says."""
        return self.encode(text, add_special_tokens=False)

    def encode_prompt(self, parts: Sequence[str]) -> list[int]:
        """The ids of a prompt, part by part."""
        ids: list[int] = []
        for part in parts:
            ids += [self._vocab[part]] if isinstance(part, Control) else self.encode_text(part)
        return ids

    @property
    def stop_ids(self) -> list[int]:
        """The ids at which an answer ends."""
        return self.convert_tokens_to_ids(list(self.stop_tokens))

    @property
    def end_id(self) -> int:
        """The id to end an answer with in training: from the third generation on, the next question's beginning."""
        return self._vocab["<|user|>"] if self.generation >= 3 else self.stop_ids[0]

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> str | list[str] | list[int] | list[list[int]] | BatchEncoding:
        """Write conversations as this generation reads them, from parts instead of a text template.

        A template would join the control tokens and the users' words into one text and take it apart again;
        then a user could write control tokens. What a call would also ask of a template is refused.
        """
        if unknown := [name for name, value in kwargs.items() if value]:
            raise CourseError(
                f"a ChatGLM's chat template has no {', '.join(unknown)}: leave it out, and shorten a long conversation "
                "by its oldest rounds",
                f"ChatGLM 的对话模板不支持 {'、'.join(unknown)}：请去掉；对话太长时，请略去最早的几轮",
            )
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        prompts = []
        for messages in conversation if batched else [conversation]:
            messages = as_messages(messages)
            if tools:
                messages = [{"role": "system", "content": "", "tools": tools}, *messages]
            prompts.append(prompt_parts(self.generation, messages, ask=add_generation_prompt))
        if not tokenize:
            texts = ["".join(parts) for parts in prompts]
            return texts if batched else texts[0]
        ids = [self.encode_prompt(parts) for parts in prompts]
        if not return_dict and return_tensors is None:
            return ids if batched else ids[0]
        encoded = self.pad(
            {"input_ids": ids if batched or return_tensors else ids[0]},
            padding=padding,
            max_length=max_length,
            return_tensors=return_tensors,
        )
        return encoded if return_dict else encoded["input_ids"]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        target = Path(save_directory) / self.vocab_files_names["vocab_file"]
        if not target.exists() or not target.samefile(self.vocab_file):
            vocabulary = Path(self.vocab_file).read_bytes()
            with written_whole(target) as part:
                part.write_bytes(vocabulary)
        return (str(target),)


class SentencePieceTokenizer(ChatGLMTokenizer):
    """What the first three generations share: a sentencepiece model that falls back to bytes."""

    _first_pieces: tuple[str, ...] = ()

    def __init__(self, vocab_file: str, **kwargs: Any):
        self.sentencepiece = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        pieces = self.sentencepiece.id_to_piece(list(range(self.sentencepiece.vocab_size())))
        # The first generation's control tokens are pieces already; the later ones' come after the last piece.
        self._pieces = [
            *self._first_pieces,
            *pieces,
            *(t for t in self.control_tokens if t not in set(pieces)),
        ]
        self._vocab = {piece: index for index, piece in enumerate(self._pieces)}
        super().__init__(vocab_file, **kwargs)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sentencepiece.encode(text, out_type=str)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.sentencepiece.decode(tokens)


class ChatGLM1Tokenizer(SentencePieceTokenizer):
    """ChatGLM-6B. White space has pieces of its own; early revisions put 20,000 image ids in front."""

    generation = 1
    vocab_files_names: ClassVar = {"vocab_file": "ice_text.model"}
    control_tokens = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
    stop_tokens = ("<eop>",)
    special_tokens: ClassVar = {
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    unseen = ("<pad>",)

    _in_text = re.compile("(" + "|".join(map(re.escape, control_tokens)) + ")")

    def __init__(self, vocab_file: str, num_image_tokens: int = 0, **kwargs: Any):
        self._first_pieces = tuple(f"<image_{i}>" for i in range(num_image_tokens))
        super().__init__(vocab_file, num_image_tokens=num_image_tokens, **kwargs)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        return super()._tokenize(re.sub(" {2,80}", lambda run: f"<|blank_{len(run[0])}|>", text))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        text = super().convert_tokens_to_string(tokens).replace("<n>", "\n").replace("<|tab|>", "\t")
        # Blanks of 2 to 80 spaces have a piece; other numbers are just text.
        return re.sub(r"<\|blank_([2-9]|[1-7]\d|80)\|>", lambda blank: " " * int(blank[1]), text)

    def encode_text(self, text: str) -> list[int]:
        # In this vocabulary the control tokens are pieces that sentencepiece finds in any text, and the
        # published tokenizer lets it. A "<sop>" inside a question would move the border between prompt and
        # answer, so in a prompt such a spelling goes in byte by byte and decodes to itself.
        tokens: list[str] = []
        for i, piece in enumerate(self._in_text.split(text)):
            if self._in_text.fullmatch(piece):
                tokens += [f"<0x{byte:02X}>" for byte in piece.encode()]
            elif i == 0:
                tokens += self._tokenize(piece)
            elif piece:
                # sentencepiece begins every text with a space; behind a leading <n> it does not.
                tokens += self._tokenize("\n" + piece)[2:]
        return self.convert_tokens_to_ids(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        ids = [*token_ids_0, self._vocab["[gMASK]"], self._vocab["<sop>"]]
        return ids if token_ids_1 is None else ids + token_ids_1 + [self._vocab["<eop>"]]


class ChatGLM2Tokenizer(SentencePieceTokenizer):
    """ChatGLM2-6B: byte-pair encoding, with control tokens behind the pieces; two of them open every text."""

    generation = 2
    control_tokens = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    stop_tokens = ("</s>",)
    special_tokens: ClassVar = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<unk>",
        "unk_token": "<unk>",
    }
    unseen = ("<unk>", "<s>", "</s>")


class ChatGLM3Tokenizer(ChatGLM2Tokenizer):
    """ChatGLM3-6B: the second generation's, and a control token for each role."""

    generation = 3
    control_tokens = (
        *ChatGLM2Tokenizer.control_tokens,
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    )
    stop_tokens = ("</s>", "<|user|>", "<|observation|>")


class GLM4Tokenizer(ChatGLMTokenizer):
    """GLM-4-9B-chat: byte-level pair encoding, published in tiktoken's format and run by tiktoken.

    A token is a string of bytes; here it is shown with one character for each byte (latin-1).
    """

    generation = 4
    control_tokens = (
        "<|endoftext|>",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<sop>",
        "<eop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
    )
    stop_tokens = ("<|endoftext|>", "<|user|>", "<|observation|>")
    special_tokens: ClassVar = {
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    unseen = ()

    _words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def __init__(self, vocab_file: str, **kwargs: Any):
        import tiktoken

        ranks: dict[bytes, int] = {}
        for line in Path(vocab_file).read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        self.bpe = tiktoken.Encoding("glm4", pat_str=self._words, mergeable_ranks=ranks, special_tokens={})
        self._pieces = [token.decode("latin-1") for token in sorted(ranks, key=ranks.__getitem__)]
        self._pieces += self.control_tokens
        self._vocab = {piece: index for index, piece in enumerate(self._pieces)}
        super().__init__(vocab_file, **kwargs)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self._pieces[index] for index in self.bpe.encode_ordinary(text)]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).encode("latin-1").decode("utf-8", errors="replace")


TOKENIZERS = {cls.generation: cls for cls in (ChatGLM1Tokenizer, ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLM4Tokenizer)}


def load_tokenizer(folder: str | Path, generation: int | None = None) -> ChatGLMTokenizer:
    """The tokenizer of a published model folder, or of one that `save_pretrained` wrote.

    The generation is read from the folder. Second and third hardly differ there: where config.json has lost
    the name of its model, the third is assumed, or say which with `generation`.
    """
    if generation not in (None, *TOKENIZERS):
        raise CourseError(
            f"there is no generation {generation!r:.40}: give one of {', '.join(map(str, TOKENIZERS))}, or nothing",
            f"没有第 {generation!r:.40} 代：请给出 {'、'.join(map(str, TOKENIZERS))} 之一，或不给",
        )
    if not isinstance(folder, str | Path) or not (folder := Path(folder)).is_dir():
        raise CourseError(
            f"{folder} is not a folder: give the folder that holds config.json and the tokenizer file",
            f"{folder} 不是文件夹：请给出放有 config.json 和分词器文件的文件夹",
        )
    config = _read_json(folder / "config.json")
    tokenizer_config = _read_json(folder / "tokenizer_config.json")
    tokenizer_class = TOKENIZERS.get(generation or _generation(folder, tokenizer_config))
    vocab_file = folder / tokenizer_class.vocab_files_names["vocab_file"]
    if not vocab_file.is_file():
        raise CourseError(
            f"{vocab_file} is missing: copy it from the published model, it is not part of the weights",
            f"缺少 {vocab_file}：请从发布的模型中复制该文件，它不在权重文件里",
        )
    options = {}
    if tokenizer_class.generation == 1:
        early = config.get("vocab_size") == 150528
        options["num_image_tokens"] = tokenizer_config.get("num_image_tokens", 20000 if early else 0)
    try:
        tokenizer = tokenizer_class(str(vocab_file), **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise CourseError(
            f"{vocab_file} cannot be read ({error!r:.120}): damaged or of another model, fetch it again",
            f"{vocab_file} 无法读取：文件损坏或属于别的模型，请重新下载",
        ) from None
    rows = config.get("padded_vocab_size", config.get("vocab_size"))
    if rows is not None and len(tokenizer) > rows:
        raise CourseError(
            f"{vocab_file} has {len(tokenizer)} tokens and the model in config.json only {rows}: they belong to "
            "different models, fetch both from one place",
            f"{vocab_file} 有 {len(tokenizer)} 个 token，而 config.json 的模型只有 {rows} 个：两者不属于同一模型，"
            "请从同一处下载",
        )
    return tokenizer


def _generation(folder: Path, tokenizer_config: dict[str, Any]) -> int:
    """Which generation's tokenizer lies in a folder."""
    saved_class = tokenizer_config.get("tokenizer_class")
    for generation, tokenizer_class in TOKENIZERS.items():
        if tokenizer_class.__name__ == saved_class:
            return generation
    vocab_file = folder / GLM4Tokenizer.vocab_files_names["vocab_file"]
    if vocab_file.is_file():
        with vocab_file.open("rb") as file:
            # tiktoken's format: a token in base64 and its rank on every line.
            if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", file.read(200)):
                return 4
    if (folder / "config.json").exists():
        return generation_of(read_config(folder))
    return 1 if (folder / ChatGLM1Tokenizer.vocab_files_names["vocab_file"]).exists() else 3


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with suppress(OSError, ValueError):
        if isinstance(content := json.loads(path.read_text(encoding="utf-8")), dict):
            return content
    raise CourseError(f"{path} is not readable JSON: fetch it again", f"{path} 不是可读的 JSON：请重新下载")


def _register() -> None:
    """Let `AutoTokenizer` find these classes by the name that `save_pretrained` writes down."""
    for tokenizer_class in TOKENIZERS.values():
        # The registry wants a configuration class as its key; ours is there for that alone.
        key = type(f"{tokenizer_class.__name__}Config", (PreTrainedConfig,), {})
        AutoTokenizer.register(key, slow_tokenizer_class=tokenizer_class)
    # A converted checkpoint is of type "glm", for which the library insists on a tokenizer.json. Without this
    # entry it goes by the name in tokenizer_config.json, as it does for other models.
    TOKENIZER_MAPPING_NAMES.pop("glm", None)


_register()
