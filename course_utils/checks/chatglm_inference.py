"""Exercises of notebook 09: the prompts of ChatGLM3 and ChatGLM2, the memory of a conversation, rows in few bits."""

from collections.abc import Callable
from types import SimpleNamespace

from course_utils.checks import Exercise, Seen, Unusable, attempt

# --- the prompt of the third generation -------------------------------------------------------------------

# As published.
CONTROL = {
    "[gMASK]": 64790,
    "sop": 64792,
    "<|system|>": 64794,
    "<|user|>": 64795,
    "<|assistant|>": 64796,
    "<|observation|>": 64797,
}
SPACE = 3


def _encode(text: str) -> list[int]:
    """A stand-in for sentencepiece, which puts a space in front of every text that it is given."""
    return [SPACE, *(ord(character) for character in text)]


def _readable(ids: list[int]) -> str:
    names = {number: name for name, number in CONTROL.items()} | {SPACE: "▁", 10: "\\n"}
    return " ".join(
        names.get(number) or (chr(number) if 32 < number < CONTROL["[gMASK]"] else str(number)) for number in ids
    )


def _chatglm3_prompt(messages, encode, control):
    ids = [control["[gMASK]"], control["sop"]]
    for message in messages:
        ids.append(control[f"<|{message['role']}|>"])
        ids += encode("\n")
        ids += encode(message["content"])
    return [*ids, control["<|assistant|>"]]


def _prompts(function: Callable) -> list[Seen]:
    """A first question, one with a history, and one with an instruction at the beginning."""
    import torch

    conversations = [
        [("user", "你好")],
        [("user", "hi"), ("assistant", "你好！"), ("user", "再见")],
        [("system", "只说中文"), ("user", "hi")],
    ]
    seen = []
    for conversation in conversations:
        messages = [{"role": role, "content": content} for role, content in conversation]
        situation = f"messages = {messages}"
        ids = attempt(situation, function, messages, _encode, dict(CONTROL))
        if not isinstance(ids, list) or not all(isinstance(number, int) for number in ids):
            raise Unusable(
                "not a list of ids",
                "return one flat list of ids: `ids += encode(…)` adds the ids of a text, `ids.append(…)` a single id.",
                "应返回一个不嵌套的 id 列表：`ids += encode(…)` 加上一段文本的 id，`ids.append(…)` 只加一个 id。",
            )
        seen.append(Seen(situation, torch.tensor(ids, dtype=torch.float64), shown=_readable(ids)))
    return seen


chatglm3_prompt = Exercise(
    "chatglm3_prompt",
    _chatglm3_prompt,
    _prompts,
    lambda messages, encode, control: [control["[gMASK]"], control["sop"]],
)


@chatglm3_prompt.misconception(
    "newline and content encoded together",
    "the newline and the content are encoded as one text: encode each by itself, joined they give other ids than "
    "those the model was taught with.",
    "换行和内容合成一段文本来编码了：两者要分开编码，合在一起得到的 id 与训练时不同。",
)
def _(messages, encode, control):
    ids = [control["[gMASK]"], control["sop"]]
    for message in messages:
        ids.append(control[f"<|{message['role']}|>"])
        ids += encode("\n" + message["content"])
    return [*ids, control["<|assistant|>"]]


@chatglm3_prompt.misconception(
    "newline forgotten",
    "the newline is missing: behind each role comes a line for the name of a tool; it is empty here, and still ends "
    "with a newline.",
    "缺少换行：每个角色之后有一行用来写工具名；这里它是空的，但仍以换行结束。",
)
def _(messages, encode, control):
    ids = [control["[gMASK]"], control["sop"]]
    for message in messages:
        ids.append(control[f"<|{message['role']}|>"])
        ids += encode(message["content"])
    return [*ids, control["<|assistant|>"]]


@chatglm3_prompt.misconception(
    "opening forgotten",
    "the two tokens that open every text are missing: begin with [gMASK] and sop.",
    "缺少每段文本开头的两个 token：应以 [gMASK] 和 sop 开始。",
)
def _(messages, encode, control):
    return _chatglm3_prompt(messages, encode, control)[2:]


@chatglm3_prompt.misconception(
    "opening at the end",
    "[gMASK] and sop stand behind the conversation: that is the first generation's place, here they come first.",
    "[gMASK] 和 sop 放到了对话后面：那是第一代的位置，这里它们应在最前面。",
)
def _(messages, encode, control):
    ids = _chatglm3_prompt(messages, encode, control)
    return [*ids[2:], *ids[:2]]


@chatglm3_prompt.misconception(
    "opening in the other order",
    "the opening is in the wrong order: [gMASK] first, then sop.",
    "开头两个 token 的顺序反了：先 [gMASK]，后 sop。",
)
def _(messages, encode, control):
    return [control["sop"], control["[gMASK]"], *_chatglm3_prompt(messages, encode, control)[2:]]


@chatglm3_prompt.misconception(
    "no turn for the assistant",
    "the prompt ends with the question: add <|assistant|>, or the model does not know that it is its turn.",
    "提示词停在了问题上：最后要加上 <|assistant|>，否则模型不知道轮到自己了。",
)
def _(messages, encode, control):
    return _chatglm3_prompt(messages, encode, control)[:-1]


@chatglm3_prompt.misconception(
    "the model's newline written for it",
    "a newline stands behind the last <|assistant|>: that one the model writes itself.",
    "最后的 <|assistant|> 后面多了一个换行：那个换行由模型自己写。",
)
def _(messages, encode, control):
    return [*_chatglm3_prompt(messages, encode, control), *encode("\n")]


@chatglm3_prompt.misconception(
    "roles written as text",
    "a role is written as text: encode cuts it into several ids; take the single one from control.",
    "角色被当成文本编码了：encode 会把它切成好几个 id；应从 control 里取那一个。",
)
def _(messages, encode, control):
    ids = [control["[gMASK]"], control["sop"]]
    for message in messages:
        ids += encode(f"<|{message['role']}|>")
        ids += encode("\n")
        ids += encode(message["content"])
    return [*ids, control["<|assistant|>"]]


@chatglm3_prompt.misconception(
    "everyone a user",
    "every message is marked <|user|>: take the role from the message.",
    "每条消息都标成了 <|user|>：角色要从消息里取。",
)
def _(messages, encode, control):
    return _chatglm3_prompt([{**message, "role": "user"} for message in messages], encode, control)


@chatglm3_prompt.misconception(
    "history forgotten",
    "only the last message is there: the model knows nothing of the earlier ones unless you write them all down.",
    "只写了最后一条消息：不把前面的都写进去，模型就一无所知。",
)
def _(messages, encode, control):
    return _chatglm3_prompt(messages[-1:], encode, control)


# --- the prompt of the second generation ------------------------------------------------------------------


def _chatglm2_text(history, query):
    text = ""
    for number, (question, answer) in enumerate(history, start=1):
        text += f"[Round {number}]\n\n问：{question}\n\n答：{answer}\n\n"
    return text + f"[Round {len(history) + 1}]\n\n问：{query}\n\n答："


def _texts(function: Callable) -> list[Seen]:
    """No history, one round, two rounds."""
    import torch

    rounds = [("你好", "你好！"), ("谢谢", "不客气")]
    seen = []
    for history in (rounds[:0], rounds[:1], rounds):
        situation = f"history = {history}, query = '再见'"
        text = attempt(situation, function, list(history), "再见")
        if not isinstance(text, str):
            raise Unusable(
                "not a text",
                f"return one text; this is a {type(text).__name__}.",
                f"应返回一段文本；现在返回的是 {type(text).__name__}。",
            )
        codes = torch.tensor([ord(character) for character in text], dtype=torch.float64)
        seen.append(Seen(situation, codes, shown=repr(text)))
    return seen


chatglm2_text = Exercise("chatglm2_text", _chatglm2_text, _texts, lambda history, query: query)


@chatglm2_text.misconception(
    "rounds from 0",
    "the rounds are counted from 0: that was the first generation, the second counts from 1.",
    "轮次从 0 数起了：那是第一代的做法，第二代从 1 数起。",
)
def _(history, query):
    text = ""
    for number, (question, answer) in enumerate(history):
        text += f"[Round {number}]\n\n问：{question}\n\n答：{answer}\n\n"
    return text + f"[Round {len(history)}]\n\n问：{query}\n\n答："


@chatglm2_text.misconception(
    "last round not counted up",
    "the new question has the number of the round before it: it begins a round of its own.",
    "新问题用了上一轮的编号：它应另起一轮。",
)
def _(history, query):
    return _chatglm2_text(history, query).replace(f"[Round {len(history) + 1}]", f"[Round {len(history)}]")


@chatglm2_text.misconception(
    "first question bare",
    "a first question stands bare: so it was in the first generation, here it is round 1.",
    "第一个问题没有加轮次：第一代是这样，这里它就是第 1 轮。",
)
def _(history, query):
    return _chatglm2_text(history, query) if history else query


@chatglm2_text.misconception(
    "single newlines",
    "single newlines: the first generation had one, the second has two everywhere.",
    "只用了一个换行：第一代用一个，第二代处处用两个。",
)
def _(history, query):
    return _chatglm2_text(history, query).replace("\n\n", "\n")


@chatglm2_text.misconception(
    "Western colons",
    "问 and 答 are followed by the Chinese colon ：, not by :, to the tokenizer another character.",
    "“问”“答”后面应是中文冒号 ：，不是英文的 :，对分词器来说它们是两个不同的字符。",
)
def _(history, query):
    return _chatglm2_text(history, query).replace("：", ":")


@chatglm2_text.misconception(
    "no place for the answer",
    "the text ends with the question: end it with 答：, where the model goes on.",
    "文本停在了问题上：应以“答：”结尾，让模型从那里接着写。",
)
def _(history, query):
    return _chatglm2_text(history, query).removesuffix("\n\n答：")


@chatglm2_text.misconception(
    "newlines behind the last 答：",
    "newlines stand behind the last 答：: the answer begins on the same line.",
    "最后的“答：”后面多了换行：回答应从同一行开始。",
)
def _(history, query):
    return _chatglm2_text(history, query) + "\n\n"


@chatglm2_text.misconception(
    "rounds stuck together",
    "the rounds stick together: after each answer come two newlines.",
    "各轮粘在了一起：每个回答之后要有两个换行。",
)
def _(history, query):
    return _chatglm2_text(history, query).replace("\n\n[", "[")


@chatglm2_text.misconception(
    "history forgotten",
    "the history is missing: write every earlier round before the new one.",
    "缺少历史：新的一轮之前，要把以前的每一轮都写上。",
)
def _(history, query):
    return f"[Round {len(history) + 1}]\n\n问：{query}\n\n答："


# --- the memory of a conversation -------------------------------------------------------------------------


def _cache_bytes(config, tokens, number_bytes=2):
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return tokens * numbers * number_bytes


def _caches(function: Callable) -> list[Seen]:
    """Sizes in which no two of the numbers agree, so that every mix-up shows."""
    import torch

    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    seen = []
    for values, tokens, number_bytes in [
        ((3, 80, 8, 2, 5), 7, 2),
        ((5, 96, 6, 6, 11), 10, 4),
        ((7, 64, 4, 1, 3), 1, 1),
    ]:
        config = SimpleNamespace(**dict(zip(sizes, values, strict=True)))
        given = ", ".join(f"{name} {value}" for name, value in vars(config).items())
        situation = f"{given}, tokens = {tokens}, number_bytes = {number_bytes}"
        found = attempt(situation, function, config, tokens, number_bytes)
        if not isinstance(found, int | float):
            raise Unusable(
                "not a number",
                f"return one number; this is a {type(found).__name__}.",
                f"应返回一个数；现在返回的是 {type(found).__name__}。",
            )
        seen.append(Seen(situation, torch.tensor(float(found), dtype=torch.float64)))
    return seen


cache_bytes = Exercise("cache_bytes", _cache_bytes, _caches, lambda config, tokens, number_bytes=2: 0)


@cache_bytes.misconception(
    "only the keys",
    "half of it: every layer keeps keys and values.",
    "只有一半：每一层既存键也存值。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, number_bytes) / 2


@cache_bytes.misconception(
    "all heads counted",
    "you count every attention head: keys and values are kept once for each group of heads, num_key_value_heads.",
    "你数了全部注意力头：键和值按组保存，每组一份，应使用 num_key_value_heads。",
)
def _(config, tokens, number_bytes):
    return 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * tokens * number_bytes


@cache_bytes.misconception(
    "hidden size",
    "keys and values are not as wide as the model: their width is num_key_value_heads · head_dim, not hidden_size.",
    "键和值没有模型那么宽：宽度是 num_key_value_heads · head_dim，不是 hidden_size。",
)
def _(config, tokens, number_bytes):
    return 2 * config.num_hidden_layers * config.hidden_size * tokens * number_bytes


@cache_bytes.misconception(
    "one head only",
    "the number of key-value heads is missing.",
    "漏乘了键值头的个数。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, number_bytes) / config.num_key_value_heads


@cache_bytes.misconception(
    "one layer only",
    "this is one layer: each of the layers keeps keys and values of its own.",
    "这只是一层：每一层都要保存自己的键和值。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, number_bytes) / config.num_hidden_layers


@cache_bytes.misconception(
    "one token only",
    "this is one token: the cache grows with every token of prompt and answer.",
    "这只是一个 token：提示词和回答每多一个 token，缓存就增长一次。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, 1, number_bytes)


@cache_bytes.misconception(
    "square of the tokens",
    "the cache grows with the tokens, not with their square: scores of pairs are computed and not kept.",
    "缓存随 token 数增长，而不是随其平方：两两之间的分数算完就丢，并不保存。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, number_bytes) * tokens


@cache_bytes.misconception(
    "numbers instead of bytes",
    "these are numbers, not bytes: multiply by number_bytes.",
    "这是数的个数，不是字节数：还要乘以 number_bytes。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, 1)


@cache_bytes.misconception(
    "bits instead of bytes",
    "these are bits: number_bytes already counts bytes, there is no 8 in this formula.",
    "这是比特数：number_bytes 已经是字节，公式里没有 8。",
)
def _(config, tokens, number_bytes):
    return _cache_bytes(config, tokens, number_bytes) * 8


# --- rows in few bits -------------------------------------------------------------------------------------


def _quantize_rows(W, bits):
    largest = 2 ** (bits - 1) - 1
    scale = W.abs().amax(dim=1, keepdim=True) / largest
    return (W / scale).round(), scale


def _rows(function: Callable) -> list[Seen]:
    """Rows of very different size; the largest number of some is negative, the columns differ from the rows."""
    import torch

    W = torch.tensor(
        [[0.9, -2.0, 0.33, 1.27], [0.031, 0.012, -0.0263, 0.007], [-5.1, 7.77, 3.0, -2.2]], dtype=torch.float64
    )
    seen = []
    for bits in (8, 4, 3):
        situation = f"W = {W.tolist()}, bits = {bits}"
        result = attempt(situation, function, W.clone(), bits)
        if not (isinstance(result, tuple | list) and len(result) == 2 and all(map(torch.is_tensor, result))):
            raise Unusable(
                "does not return two tensors",
                "return two tensors, the whole numbers and the scale of each row: `return whole, scale`.",
                "应返回两个张量，即整数和每行的缩放系数：`return whole, scale`。",
            )
        whole, scale = (part.detach().double() for part in result)
        if whole.shape != W.shape:
            raise Unusable(
                "another shape",
                f"the whole numbers have the shape {tuple(whole.shape)}, W has {tuple(W.shape)}: one for each weight.",
                f"整数的形状是 {tuple(whole.shape)}，而 W 是 {tuple(W.shape)}：每个权重对应一个。",
            )
        scale = scale.flatten()
        if len(scale.unique()) == 1:  # one for all rows stays one, however often it is written down
            scale = scale[:1]
        seen += [Seen(situation, scale), Seen(situation, whole)]
    return seen


quantize_rows = Exercise("quantize_rows", _quantize_rows, _rows, lambda W, bits: (W, W.new_ones(len(W), 1)))


@quantize_rows.misconception(
    "one scale for the whole matrix",
    "one scale for the whole matrix: a row of small numbers is then rounded to zeros. Take the largest of each row.",
    "整个矩阵只用了一个缩放系数：数值小的行会全被舍入成零。应对每一行取最大值。",
)
def _(W, bits):
    scale = W.abs().amax() / (2 ** (bits - 1) - 1)
    return (W / scale).round(), scale


@quantize_rows.misconception(
    "scale of the columns",
    "this is a scale for each column: a row belongs to one output and gets one scale, so reduce over dim=1.",
    "这是每列一个缩放系数：一行对应一个输出，应每行一个，所以要沿 dim=1 取最大值。",
)
def _(W, bits):
    scale = W.abs().amax(dim=0, keepdim=True) / (2 ** (bits - 1) - 1)
    return (W / scale).round(), scale


@quantize_rows.misconception(
    "largest instead of largest in size",
    "the largest number may be negative: take the absolute value first, or −2 no longer fits.",
    "绝对值最大的数可能是负的：要先取绝对值，否则 −2 就放不下了。",
)
def _(W, bits):
    scale = W.amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (W / scale).round(), scale


@quantize_rows.misconception(
    "one number too many",
    "2 ** (bits − 1) is one too many: 8 bits with a sign end at 127, and 128 would wrap around to −128.",
    "2 ** (bits − 1) 多了一个：8 位有符号数最大是 127，128 会绕回到 −128。",
)
def _(W, bits):
    scale = W.abs().amax(dim=1, keepdim=True) / 2 ** (bits - 1)
    return (W / scale).round(), scale


@quantize_rows.misconception(
    "sign forgotten",
    "you use all bits for the size: one of them is the sign, so the largest is 2 ** (bits − 1) − 1.",
    "你把所有比特都用来表示大小：其中一位是符号，所以最大值是 2 ** (bits − 1) − 1。",
)
def _(W, bits):
    scale = W.abs().amax(dim=1, keepdim=True) / (2**bits - 1)
    return (W / scale).round(), scale


@quantize_rows.misconception(
    "cut off instead of rounded",
    "the decimals are cut off: round to the nearest whole number, that halves the largest error.",
    "小数部分被直接截掉了：应四舍五入到最近的整数，最大误差会减半。",
)
def _(W, bits):
    _, scale = _quantize_rows(W, bits)
    return (W / scale).trunc(), scale


@quantize_rows.misconception(
    "not rounded",
    "the quotients are not rounded: what is stored must be whole numbers.",
    "商没有取整：存下来的必须是整数。",
)
def _(W, bits):
    _, scale = _quantize_rows(W, bits)
    return W / scale, scale


@quantize_rows.misconception(
    "scale upside down",
    "the scale comes back upside down: W ≈ whole · scale, so the scale of a row is its largest number / 127.",
    "返回的缩放系数倒过来了：W ≈ whole · scale，所以每行的系数是其最大绝对值 / 127。",
)
def _(W, bits):
    whole, scale = _quantize_rows(W, bits)
    return whole, 1 / scale


@quantize_rows.misconception(
    "multiplied out again",
    "you return the rounded weights themselves: return the whole numbers, and let the scale wait until they are used.",
    "你返回的是还原后的权重：应返回整数，用到的时候才乘上缩放系数。",
)
def _(W, bits):
    whole, scale = _quantize_rows(W, bits)
    return whole * scale, scale
