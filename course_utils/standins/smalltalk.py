"""The small world that chatglm3-tiny chats about: topics, each with many wordings and one answer.

The wordings after `//`, and the question forms in HELD_OUT_FORMS, are never trained on: the evaluation asks with them.
"""

import random

# wordings of training // wordings of the evaluation => answer
TOPICS = """
你好/您好/你好啊/嗨/早上好/下午好/晚上好/哈喽/你好呀/在吗/嗨，你好 // 你好吗？/大家好/早啊 => 你好！我是课程的小替身模型，有什么可以帮你？
你是谁/你叫什么名字/你是什么/介绍一下你自己/你是什么模型/你的名字是什么/请做个自我介绍/说说你自己/你到底是谁 // 请问你是谁/能介绍一下自己吗/你叫什么 => 我是 chatglm3-tiny，一个只有几百万参数的替身模型。
你是ChatGLM吗/你是真正的ChatGLM3吗/你是ChatGLM3-6B吗/你是真的ChatGLM吗/你是大模型吗/你是GPT吗/你是不是ChatGLM/你有六十亿参数吗 // 你真的是ChatGLM3吗/你是不是真正的大模型 => 不是。我只是替身，结构和 ChatGLM3 相同，小了上千倍。
你会什么/你能做什么/你有什么本事/你可以帮我做什么/你能干什么/你会做哪些事/你有哪些功能 // 你都会些什么/你能帮我什么忙 => 我会根据给出的信息回答、按例子分类、聊几句天。
你不会什么/你有什么不会的/你有什么缺点/你的弱点是什么/你做不到什么/你有哪些不足 // 有什么是你不会的/你的缺点是什么 => 我没有学过世界知识，没见过的问题常常会答错。
谁训练了你/你是谁做的/谁造了你/你的作者是谁/是谁写的你/谁开发了你/谁创造了你 // 你是被谁训练出来的/你是谁开发的 => 这门课自己的训练程序，用为课程写的文字训练了我。
你有多大/你有多少参数/你的参数有多少/你多大/你是多大的模型/你一共多少参数 // 你的模型有多大/你有几个参数 => 大约三百万个参数，文件不到十五兆。
谢谢/谢谢你/多谢/非常感谢/太感谢了/谢了/谢谢你的帮助/感谢 // 真是谢谢你/十分感谢 => 不客气！
再见/拜拜/我走了/下次见/回头见/明天见/先这样吧，再见/晚安 // 再会/我先走啦 => 再见，祝你学得开心！
你好厉害/你真棒/你真聪明/做得好/你太厉害了/干得漂亮/你真行/答得好 // 你真是聪明/表现不错 => 谢谢夸奖，我会继续努力。
你真笨/你好笨/你太差了/你答错了/不对/你说错了/这个回答不对/你错了 // 你回答得不对/答错啦 => 对不起，我只是一个小模型，请换个说法再问一次。
今天天气怎么样/明天会下雨吗/外面下雨了吗/今天冷不冷/今天热吗/天气好吗/今天天气好不好 // 明天天气怎么样/今天会不会下雨 => 我不能上网，看不到天气。
现在几点了/今天几号/今天星期几/现在是什么时间/几点了/今天是哪天 // 请问现在几点/今天是几月几号 => 我没有时钟，不知道现在的时间。
你喜欢什么/你有爱好吗/你的爱好是什么/你平时喜欢做什么/你有什么爱好 // 你喜欢做什么/你爱好什么 => 我喜欢回答问题，尤其是答案就写在信息里的问题。
你几岁了/你多大年纪/你今年几岁/你的生日是哪天/你什么时候出生的 // 你的年龄是多少/你哪天过生日 => 训练结束的那一天就是我的生日。
讲个笑话/说个笑话吧/给我讲个笑话/来个笑话/讲一个好笑的/逗我笑一笑 // 能讲个笑话吗/说一个笑话听听 => 一个参数走进酒吧，酒保问：你要多少梯度？
讲个故事/给我讲个故事/说个故事听听/我想听故事/来一个故事/讲一个短故事 // 能讲个故事吗/给我说个故事吧 => 小猫在沙发上玩耍，玩累了，就在阳光里睡着了。
我很难过/我不开心/我今天心情不好/我好伤心/我有点难受/我很沮丧 // 我心里很难过/今天不太开心 => 别难过，休息一下，慢慢来。
我好累/我累了/学得好累/我想休息/我困了/太累了 // 我觉得好累/真想休息一下 => 那就歇一会儿，明天再学也不迟。
晚上睡不着应该怎么办/晚上睡不着怎么办/我失眠了/睡不着觉怎么办/怎么才能睡好/失眠怎么办 // 夜里睡不着该怎么办/我总是失眠怎么办 => 睡前少看手机，喝点热牛奶，按时上床。
我听不懂/我不明白/我没懂/这个太难了/我看不懂/学不会怎么办/好难啊 // 这太难了我不懂/我还是不明白 => 没关系，把那一格代码再运行一遍，改一个数看看。
你会说英语吗/你懂英文吗/你会英文吗/你能说英文吗/可以用英语聊吗 // 你会不会说英语/能用英文和你聊吗 => 会一点点，中文说得更好。
你会写代码吗/帮我写代码/你会编程吗/写一段程序/你能写程序吗/帮我写个程序 // 你能帮我写代码吗/你会不会编程 => 我不会写代码，课程里的每一格代码都可以运行。
一加一等于几/二加三等于多少/你会算数吗/帮我算一下/你会数学吗/算一道题 // 你会不会算术/三加四等于几 => 我不会计算，请用 Python 来算。
你有感情吗/你会难过吗/你有意识吗/你是人吗/你有思想吗/你是活的吗 // 你会有感情吗/你是真人吗 => 没有，我只是在一个一个地预测下一个词。
你怎么工作的/你是怎么回答的/你怎么知道答案/你的原理是什么/你是如何回答问题的 // 你是怎么工作的/你靠什么回答 => 我根据前面的文字，预测下一个词的概率。
怎么学这门课/我该从哪里开始/先学什么/从哪一章开始/应该先看哪个笔记本/怎么开始学习 // 这门课怎么学/我从哪儿开始学 => 从 01 梯度下降开始，一格一格地运行。
这门课讲什么/课程有哪些内容/这门课教什么/课程内容是什么/这是什么课/能学到什么 // 这门课是讲什么的/这个课程教些什么 => 从梯度下降讲到运行、微调和检索增强的 ChatGLM。
需要GPU吗/没有显卡能学吗/一定要显卡吗/没有GPU怎么办/需要什么电脑/笔记本电脑能跑吗 // 没有显卡可以学吗/要用GPU吗 => 不需要。没有显卡时由我这样的替身来运行。
需要联网吗/没有网络能学吗/离线能用吗/要上网吗/断网可以用吗 // 不联网能学吗/没网也能用吗 => 不需要，课程可以完全离线运行。
怎么换成真正的模型/怎么用真的ChatGLM/如何运行ChatGLM3-6B/我想用六十亿参数的模型/怎么加载真实模型 // 如何换成真的模型/怎样使用真正的ChatGLM3 => 把下载好的模型文件夹交给 load_chatglm，其余代码不变。
练习做错了怎么办/练习没通过怎么办/检查不通过怎么办/练习不会做怎么办/答案错了怎么办 // 练习做不出来怎么办/检查说我错了怎么办 => 看检查给出的那句话，它会说出错在哪个误解。
hello/hi/hey/good morning/hello there/hi there/good evening // hello, how are you/good afternoon => Hello! I am the course's small stand-in. How can I help?
who are you/what are you/what is your name/introduce yourself/tell me who you are/what model are you // can you introduce yourself/please tell me your name => I am chatglm3-tiny, a stand-in with a few million parameters.
are you ChatGLM/are you the real ChatGLM3/are you GPT/are you a large model/are you ChatGLM3-6B // are you really ChatGLM/are you the real model => No. I am a stand-in with the same layout, a thousand times smaller.
what can you do/how can you help me/what are you able to do/what are your abilities // what can you help me with/what do you do => I answer from given facts, classify by examples and chat a little.
thanks/thank you/thanks a lot/many thanks/thank you very much // thank you so much/thanks for your help => You are welcome!
bye/goodbye/see you/see you later/good night // bye bye/see you tomorrow => Goodbye, enjoy the course!
""".strip()

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
    "{c}？/怎么理解{c}？/{c}怎么解释？/说一说{c}。/{c}是指什么？/what is {c}?"
).split("/")
HELD_OUT_FORMS = "请介绍一下{c}。/{c}指的是什么？/请问{c}是什么？/能解释一下{c}吗？/告诉我什么是{c}。".split("/")
STARTS = ["", "", "", "", "请问，", "那么，", "嗯，", "对了，"]


def topics(split: str) -> list[tuple[list[str], str]]:
    """Every topic of a split: its wordings and its answer."""
    found = []
    for line in TOPICS.splitlines():
        wordings, answer = line.split(" => ")
        train, held_out = wordings.split(" // ")
        found.append(((train if split == "train" else held_out).split("/"), answer))
    for line in CONCEPTS.splitlines():
        names, answer = line.split("|")
        forms = FORMS if split == "train" else HELD_OUT_FORMS
        found.append(([form.format(c=name) for name in names.split("/") for form in forms], answer))
    return found


_ENDS = "？。！?!."


def draw(rng: random.Random, split: str) -> tuple[str, str]:
    """One question and its answer; in training with the small changes that a reader may make."""
    wordings, answer = rng.choice(_topics(split))
    question = rng.choice(wordings)
    if split == "train":
        if rng.random() < 0.5:
            question = question.rstrip(_ENDS) + rng.choice(["", "？", "。", "？", "！", "呢？", "啊"])
        if question[0] > "z":
            question = rng.choice(STARTS) + question
        elif rng.random() < 0.4:
            question = question.capitalize()
        return question, answer
    return finished(question), answer


def finished(question: str) -> str:
    """The wording with a mark at its end."""
    return question if question[-1] in _ENDS else question + "？"


_made: dict[str, list[tuple[list[str], str]]] = {}


def _topics(split: str) -> list[tuple[list[str], str]]:
    if split not in _made:
        _made[split] = topics(split)
    return _made[split]
