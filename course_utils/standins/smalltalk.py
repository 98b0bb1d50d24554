"""The small world that chatglm3-tiny chats about: topics, each with many wordings and one answer.

The wordings after `//`, and the question forms in HELD_OUT_FORMS, are never trained on: the evaluation asks with them.
"""

import random
from pathlib import Path

# Each line: wordings of training // wordings of the evaluation => answer
TOPICS = Path(__file__).parent / "smalltalk_topics.txt"

# a concept with its other names | what it is
CONCEPTS = """
梯度下降/梯度下降法|沿着梯度的反方向一小步一小步地走，让损失变小。
学习率/步长|每一步走多远：太小走得慢，太大会发散。
动量/动量法|把过去的梯度累积成速度，减少来回摆动。
Adam/Adam优化器|同时估计梯度的一阶矩和二阶矩，并做偏差修正。
随机梯度下降/SGD|每一步只用一小批样本来估计梯度。
批量大小/batch size|一次更新所用的样本个数。
反向传播/反向传播算法|从损失开始，用链式法则一次算出所有梯度。
链式法则|复合函数的导数等于各层导数的乘积。
损失函数/损失|衡量预测与答案相差多少的一个数。
交叉熵/交叉熵损失|正确答案的概率取对数再取负。
激活函数|给网络加上非线性，否则再深也只是一个线性函数。
ReLU|大于零原样通过，小于零输出零。
sigmoid/sigmoid函数|把任何数压到零和一之间，两端会饱和。
梯度消失|梯度一层层变小，前面的层学不动。
梯度爆炸|梯度一层层变大，训练变成 NaN。
参数初始化/初始化|给权重合适的方差，让信号传得到最后一层。
Xavier初始化/Xavier|方差取二除以输入数与输出数之和。
分词/分词器/tokenizer|把文字切成词元，再换成编号。
词元/token|模型读写的最小单位，不一定是一个词。
词嵌入/embedding/嵌入|每个词元对应的一行向量。
位置编码|告诉模型每个词元排在第几位。
注意力/注意力机制/自注意力|每个词元按相关程度，对所有词元的向量加权求和。
多头注意力|几个注意力并排工作，再把结果拼起来。
残差连接|把输入直接加到输出上，让梯度走得更远。
层归一化/LayerNorm|把每一行变成均值零、方差一。
Transformer|由注意力和前馈网络一层层叠成的模型。
语言模型|根据前文预测下一个词元的模型。
温度/采样温度|温度越高，采样越随机。
困惑度/perplexity|平均负对数概率的指数，越小越好。
KV缓存/KV cache|把算过的键和值存起来，不必重复计算。
过拟合|训练集上很好，没见过的数据上很差。
微调/fine-tuning|在训练好的模型上，用新数据再训练一点。
LoRA|冻结原来的权重，只训练两个小矩阵的乘积。
P-Tuning/P-Tuning v2|冻结模型，只训练每一层前面的一段前缀。
量化|用更少的位数存权重，省显存。
检索增强生成/RAG|先找到相关的资料，再根据资料回答。
向量数据库/向量检索|按向量的相似程度找出最近的文本。
余弦相似度|两个向量夹角的余弦，越接近一越相似。
提示词/prompt|写给模型看的那段输入文字。
少样本学习/few-shot|在提示里放几个例子，模型就照着做。
替身模型/替身|结构相同、规模很小、真正训练过的模型。
ChatGLM/ChatGLM3|清华和智谱发布的中英双语对话模型。
softmax|把一组数变成总和为一的概率。
正则化|限制模型，让它不要死记训练数据。
""".strip()
FORMS = (
    "什么是{c}？/{c}是什么？/解释一下{c}。/{c}是什么意思？/给我讲讲{c}。/能说说{c}吗？/{c}到底是什么？/我想知道什么是{c}。/"
    "{c}？/怎么理解{c}？/{c}怎么解释？/说一说{c}。/{c}是指什么？/what is {c}?/能不能解释一下{c}？/"
    "我想知道什么叫{c}。/请解释{c}。/麻烦你说明一下{c}。/帮我讲一讲{c}吧。/我不太懂{c}，能说说吗？/能用一句话说说{c}吗？/"
    "用简单的话解释{c}。/所谓{c}，是指什么？/老师提到了{c}，那是什么？/书里说的{c}是什么东西？/你知道{c}吗？/你了解{c}吗？给我说说。/"
    "{c}是啥？/{c}是个什么概念？/请给{c}下个定义。/{c}的定义是什么？/{c}的含义是什么？/我第一次听说{c}，请介绍一下。/"
    "想请教一下，{c}该怎么理解？/关于{c}，你能告诉我什么？/人们说的{c}，究竟是怎么回事？/{c}这个词怎么解释？/简单介绍一下{c}。/"
    "我总是搞不清{c}，请再讲一遍。/{c}，说说看。/What is {c}?/Can you explain {c}?/"
    "What does {c} mean?/Please tell me about {c}./Explain {c} in one sentence."
).split("/")
HELD_OUT_FORMS = "请介绍一下{c}。/{c}指的是什么？/{c}说的是什么？/能解释一下{c}吗？/告诉我什么是{c}。".split("/")
STARTS = ["", "", "", "", "请问，", "那么，", "嗯，", "对了，"]
ENDS = ["", "？", "。", "？", "！", "呢？", "啊"]


def topics(split: str) -> list[tuple[list[str], str]]:
    """Every topic of a split: its wordings and its answer."""
    found = []
    for line in TOPICS.read_text("utf-8").splitlines():
        wordings, answer = line.split(" => ")
        train, held_out = wordings.split(" // ")
        found.append(((train if split == "train" else held_out).split("/"), answer))
    for line in CONCEPTS.splitlines():
        names, answer = line.split("|")
        forms = FORMS if split == "train" else HELD_OUT_FORMS
        found.append(([form.format(c=name) for name in names.split("/") for form in forms], answer))
    return found


_MARKS = "？。！?!."


def draw(rng: random.Random, split: str) -> tuple[str, str]:
    """One question and its answer; in training with the small changes that a reader may make."""
    wordings, answer = rng.choice(_topics(split))
    # The first wording is the plainest and the likeliest that a reader types.
    question = wordings[0] if split == "train" and rng.random() < 0.1 else rng.choice(wordings)
    if split == "train":
        if rng.random() < 0.5:
            question = question.rstrip(_MARKS) + rng.choice(ENDS)
        if question[0] > "z":
            question = rng.choice(STARTS) + question
        elif rng.random() < 0.4:
            question = question.capitalize()
        return question, answer
    return finished(question), answer


def finished(question: str) -> str:
    """The wording with a mark at its end."""
    return question if question[-1] in _MARKS else question + "？"


_made: dict[str, list[tuple[list[str], str]]] = {}


def _topics(split: str) -> list[tuple[list[str], str]]:
    if split not in _made:
        _made[split] = topics(split)
    return _made[split]
