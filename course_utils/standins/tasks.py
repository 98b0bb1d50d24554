"""What chatglm3-tiny learns: endless conversations about invented facts, texts and labels, and the held-out ones.

A conversation is a list of rounds `(question, answer)`, as `chat` keeps its history. Every generator takes a random
generator and a split: names whose checksum falls into the held-out part appear in the split "heldout" only, so an item
of the evaluation cannot have been seen in training.
"""

import random
import re
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from course_utils import runtime
from course_utils.datasets import load_labelled, load_pairs
from course_utils.handbook_data import Question, load_handbook, load_questions, split_passages
from course_utils.standins import finance, smalltalk

Conversation = list[tuple[str, str]]


class Given(str):
    """An answer that belongs to the prompt, such as the label of an example: nothing that could be learned."""


class Copied(str):
    """An answer that stands in what was said: its part `value` begins at each of `sources`.

    A source is (message, character); messages are counted from the first question, 0, and the first answer, 1.
    """

    value: str
    sources: list[tuple[int, int]]

    def __new__(cls, answer: str, value: str, sources: list[tuple[int, int]]) -> "Copied":
        copied = super().__new__(cls, answer)
        copied.value, copied.sources = value, sources
        return copied


UNANSWERED = "?"  # stands for an answer in the text files where there is none
UNKNOWN = {"zh": "根据已知信息无法回答", "en": "The known information does not say"}


def known_information(facts: list[str], question: str, language: str = "zh") -> str:
    """The prompt that answers from given facts: the same in training, in the evaluation and in notebook 12."""
    lines = "\n".join(facts)
    if language == "en":
        return f"Known information:\n{lines}\nAnswer from the known information: {question}"
    return f"已知信息：\n{lines}\n根据已知信息回答问题：{question}"


def few_shot(labels: list[str], examples: list[tuple[str, str]], text: str) -> Conversation:
    """Examples as a chat history and the text to classify as the last, unanswered round."""
    task = f"判断文本的类别，只回答类名：{'、'.join(labels)}。\n"
    rounds = [(f"文本：{example}", Given(label)) for example, label in examples] + [(f"文本：{text}", "")]
    return [(task + rounds[0][0], rounds[0][1]), *rounds[1:]]


# ---------------------------------------------------------------------------------------------- names and values


def _held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 8 == 0


def _drawn(rng: random.Random, split: str, make: Callable[[], str]) -> str:
    """A name of the split. Held-out names come in both parts of the evaluation, never in training."""
    while _held_out(name := make()) != (split == "heldout"):
        pass
    return name


NAME_CHARACTERS = (
    "星云海川河山林岚霜雪晨曦月影清风竹松柏兰梅菊荷莲芷若涵雨晴阳明朗辉耀宇宙天空蓝青翠碧玉瑶琪珊瑚琥珀金银铜铁石磊森焱"
    "鑫淼安宁康乐福禄寿喜吉祥如意和平建国华夏春秋冬夏东南西北中原野麦禾稻谷果桃李杏枫桐榆柳桂橙柚鹿鹤鹰雁燕鸥鲸鲤"
    "龙虎狮熊狐狸猫犬马牛羊飞腾跃驰远航帆舟桥港湾泉溪湖泊江洋波涛沙洲岛屿峰岭崖谷洞城塔楼阁亭院园田"
)
SURNAMES = "赵钱孙李周吴郑王冯陈卫蒋沈韩杨朱秦许何吕张孔曹严华金魏陶姜谢邹苏潘葛范彭鲁韦马方任袁柳唐罗毕安常于傅齐康余元顾孟黄穆萧尹姚邵汪毛戴宋庞熊纪舒屈项祝董梁杜阮蓝闵季贾路江童颜郭梅盛林钟徐邱骆高夏蔡田胡凌霍"
SECTORS = (
    "科技 食品 机械 服装 书店 旅行社 医院 银行 工厂 饭店 超市 动物园 公园 学校 公司 花店 研究所 剧场 药房 茶馆".split()
)
GOODS = (
    "台灯 水杯 耳机 书包 自行车 电风扇 手表 键盘 雨伞 相机 沙发 冰箱 洗衣机 机器人 扫地机 音箱 平板 电动车 帐篷 吉他 "
    "钢琴 望远镜 打印机 电饭煲 投影仪 跑鞋 行李箱 净水器 毛毯 闹钟"
).split()
COLOURS = "红色 蓝色 绿色 黄色 白色 黑色 紫色 橙色 灰色 粉色 棕色 银色".split()
JOBS = (
    "医生 老师 厨师 司机 律师 画家 工程师 护士 记者 农民 歌手 警察 摄影师 木匠 会计 飞行员 店员 导游 翻译 演员".split()
)
ANIMALS = "猫 狗 兔子 鹦鹉 乌龟 金鱼 仓鼠 刺猬 鸭子 小马 松鼠 猫头鹰".split()
FOODS = "面条 饺子 米饭 西瓜 苹果 香蕉 火锅 豆腐 鸡蛋 汤圆 包子 烤鱼 蛋糕 葡萄 粥 馒头 草莓 土豆".split()
HOBBIES = "画画 游泳 爬山 下棋 唱歌 跳舞 钓鱼 看书 打篮球 弹琴 跑步 种花 摄影 滑雪 书法 骑车".split()
MATERIALS = "木头 塑料 玻璃 不锈钢 陶瓷 棉布 皮革 竹子 铝合金 羊毛 橡胶 纸".split()
WEEKDAYS = [f"周{day}" for day in "一二三四五六日"]
DEPARTMENTS = "财务部 人力资源部 市场部 研发部 信息技术部 行政部 采购部 客服中心 法务部 仓库".split()


@cache
def _characters() -> str:
    """The 3,755 common characters of GB 2312, so that any name a reader types is made of trained characters."""
    return "".join(
        bytes([high, low]).decode("gb2312", "ignore") for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)
    )


def _stem(rng: random.Random, split: str, length: int = 2) -> str:
    pool = NAME_CHARACTERS if rng.random() < 0.85 else _characters()
    return _drawn(rng, split, lambda: "".join(rng.choices(pool, k=length)))


def _person(rng: random.Random, split: str) -> str:
    pool = NAME_CHARACTERS if rng.random() < 0.85 else _characters()
    return _drawn(rng, split, lambda: rng.choice(SURNAMES) + "".join(rng.choices(pool, k=rng.choice([1, 2, 2]))))


def _code(rng: random.Random) -> str:
    return rng.choice("ABCDEFGHKLMPQRTX") + str(rng.randint(1, 99))


def _number(rng: random.Random) -> str:
    digits = rng.choice([1, 1, 2, 2, 2, 3, 3, 4])
    number = rng.randint(10 ** (digits - 1), 10**digits - 1)
    if number > 999 and rng.random() < 0.5:
        return f"{number:,}"
    return f"{number}.{rng.randint(1, 9)}" if rng.random() < 0.15 else str(number)


def _counted(units: str) -> Callable:
    def value(rng: random.Random, split: str) -> str:
        # With and without a space, as texts have it both ways.
        return _number(rng) + rng.choice(["", " "]) + rng.choice(units.split())

    return value


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(6, 22):02d}:{rng.choice(['00', '30', '15', '45', '10', '50'])}"


VALUES: dict[str, Callable[[random.Random, str], str]] = {
    "person": _person,
    "company": lambda rng, split: _stem(rng, split) + rng.choice(SECTORS),
    "goods": lambda rng, split: (
        _stem(rng, split) + (" " + _code(rng) if rng.random() < 0.3 else "") + rng.choice(GOODS)
    ),
    "city": lambda rng, split: _stem(rng, split) + rng.choice(["市", "镇", "县", "岛", "村", "港"]),
    "address": lambda rng, split: (
        f"{_stem(rng, split)}{rng.choice(['路', '街', '巷', '大道'])}{rng.choice(['', ' '])}{rng.randint(1, 400)}"
        f"{rng.choice(['', ' '])}号"
    ),
    "phone": lambda rng, split: str(rng.randint(1000, 9999)) if rng.random() < 0.8 else str(rng.randint(10**5, 10**8)),
    "year": lambda rng, split: f"{rng.randint(1901, 2035)}{rng.choice(['', ' '])}年",
    "date": lambda rng, split: f"{rng.randint(1, 12)} 月 {rng.randint(1, 30)} 日".replace(" ", rng.choice(["", " "])),
    "month": lambda rng, split: f"{rng.randint(1, 12)}{rng.choice(['', ' '])}月",
    "weekday": lambda rng, split: rng.choice(WEEKDAYS),
    "hours": lambda rng, split: f"{_clock(rng)}–{_clock(rng)}",
    "clock": lambda rng, split: _clock(rng),
    "people": _counted("人 名 位"),
    "money": _counted("元 元 元 万元 欧元"),
    "weight": _counted("公斤 克 千克"),
    "length": _counted("厘米 米 毫米 公里"),
    "duration": _counted("天 个月 分钟 小时 周 年 个工作日 秒"),
    "percent": _counted("%"),
    "noise": _counted("分贝"),
    "power": _counted("瓦"),
    "pieces": _counted("台 个 件 次 盆 张 本 辆 道 块"),
    "floor": lambda rng, split: f"{rng.randint(1, 40)}{rng.choice(['', ' '])}{rng.choice(['楼', '层'])}",
    "age": lambda rng, split: f"{rng.randint(3, 99)}{rng.choice(['', ' '])}岁",
    "colour": lambda rng, split: rng.choice(COLOURS),
    "job": lambda rng, split: rng.choice(JOBS),
    "animal": lambda rng, split: rng.choice(ANIMALS),
    "food": lambda rng, split: rng.choice(FOODS),
    "hobby": lambda rng, split: rng.choice(HOBBIES),
    "material": lambda rng, split: rng.choice(MATERIALS),
    "thing": lambda rng, split: rng.choice(GOODS),
    "department": lambda rng, split: rng.choice(DEPARTMENTS),
    "code": lambda rng, split: rng.choice("ABCDEFKLMPX") + rng.choice("ABCDEFKLMPX") + f"-{rng.randint(100, 9999)}",
    "word": lambda rng, split: _stem(rng, split, rng.choice([1, 2, 2, 3, 4])),
}

# About whom | what | kind of value | how it is said | how it is asked
SCHEMAS = """
company|电话|phone|{e}的电话是{v}。/联系{e}请拨{v}。/{e}的联系电话为{v}。/打给{e}，号码是{v}。|{e}的电话是多少？/怎么打给{e}？/联系{e}要拨哪个号码？/{e}的电话号码是什么？
company|地址|address|{e}的地址是{v}。/{e}位于{v}。/{e}在{v}。/{e}开在{v}。|{e}的地址是什么？/{e}在哪里？/{e}位于什么地方？/去{e}该到哪儿？
company|城市|city|{e}的总部在{v}。/{e}把总部设在{v}。|{e}的总部在哪座城市？/{e}总部在哪里？
company|成立|year|{e}成立于{v}。/{e}是{v}创办的。/{v}，{e}成立。|{e}是哪一年成立的？/{e}什么时候成立的？/{e}创办于哪年？
company|员工|people|{e}有员工{v}。/{e}一共有{v}上班。/{e}的员工共{v}。|{e}有多少员工？/{e}一共多少人？/{e}有几名员工？/{e}的员工有多少？
company|负责人|person|{e}的负责人是{v}。/{e}由{v}管理。/{v}负责{e}。/{e}的经理叫{v}。|{e}的负责人是谁？/谁管理{e}？/{e}由谁负责？/{e}归谁管？
company|产品|thing|{e}主要生产{v}。/{e}的主要产品是{v}。/{e}专门做{v}。|{e}主要生产什么？/{e}的主要产品是什么？/{e}做什么产品？
company|营业时间|hours|{e}的营业时间是{v}。/{e}每天{v}开门。/{e}开放时间：{v}。|{e}的营业时间是什么？/{e}几点到几点开门？/{e}什么时候营业？/{e}开放到几点？
company|休息日|weekday|{e}每{v}休息。/{e}在{v}关门。|{e}哪一天休息？/{e}周几关门？/{e}每周休息的是哪天？
company|停车费|money|{e}的停车费是{v}。/在{e}停车收{v}。|{e}停车多少钱？/{e}的停车费是多少？/在{e}停车要花多少？
company|门票|money|{e}的门票是{v}。/进{e}要{v}。/{e}票价{v}。|{e}的门票多少钱？/去{e}要花多少？/{e}票价是多少？
company|吉祥物|animal|{e}的吉祥物是{v}。/{e}把{v}当作吉祥物。|{e}的吉祥物是什么？/{e}用什么动物代表自己？
company|面积|pieces|{e}有房间{v}。/{e}里共有设备{v}。|{e}里有多少东西？/{e}的数量是多少？
person|年龄|age|{e}今年{v}。/{e}的年龄是{v}。/{e}{v}了。|{e}多大了？/{e}今年几岁？/{e}的年龄是多少？
person|职业|job|{e}的职业是{v}。/{e}是一名{v}。/{e}在当{v}。|{e}的职业是什么？/{e}是做什么工作的？/{e}做什么工作？/{e}靠什么谋生？
person|生日|date|{e}的生日是{v}。/{e}出生在{v}。/{e}在{v}过生日。|{e}的生日是哪天？/{e}什么时候过生日？/{e}哪一天出生？
person|颜色|colour|{e}最喜欢{v}。/{e}喜欢的颜色是{v}。/{e}爱穿{v}的衣服。|{e}喜欢什么颜色？/{e}最喜欢的颜色是什么？/{e}爱穿哪种颜色？
person|住处|city|{e}住在{v}。/{e}的家在{v}。/{e}家住{v}。|{e}住在哪里？/{e}的家在什么地方？/{e}家在哪儿？
person|分机|phone|{e}的分机是{v}。/找{e}拨分机{v}。/{e}（分机 {v}）。|{e}的分机是多少？/找{e}该拨哪个分机？/{e}的分机号是什么？
person|宠物|animal|{e}养了一只{v}。/{e}的宠物是{v}。/{e}家里有一只{v}。|{e}养了什么？/{e}的宠物是什么？/{e}家里有什么动物？
person|爱好|hobby|{e}的爱好是{v}。/{e}喜欢{v}。/{e}周末常去{v}。|{e}的爱好是什么？/{e}喜欢做什么？/{e}周末做什么？
person|食物|food|{e}最爱吃{v}。/{e}喜欢吃{v}。/{e}早上吃{v}。|{e}最爱吃什么？/{e}喜欢吃什么？/{e}早上吃什么？
person|部门|department|{e}在{v}工作。/{e}属于{v}。/{e}是{v}的同事。|{e}在哪个部门？/{e}属于什么部门？/{e}在哪里工作？
person|单位|company|{e}在{v}上班。/{e}的单位是{v}。|{e}在哪里上班？/{e}的单位是什么？/{e}给谁工作？
person|工号|code|{e}的工号是{v}。/{e}，工号 {v}。|{e}的工号是什么？/{e}的工号是多少？
person|朋友|person|{e}的朋友是{v}。/{e}和{v}是好朋友。|{e}的朋友是谁？/谁是{e}的好朋友？/{e}和谁是朋友？
person|老师|person|{e}的老师是{v}。/{v}教{e}。|{e}的老师是谁？/谁教{e}？/{e}跟谁学习？
person|身高|length|{e}的身高是{v}。/{e}有{v}高。|{e}有多高？/{e}的身高是多少？
person|座位|floor|{e}的座位在{v}。/{e}在{v}办公。|{e}在几楼办公？/{e}的座位在哪层？
goods|价格|money|{e}的价格是{v}。/{e}卖{v}。/买{e}要{v}。/{e}售价{v}。|{e}多少钱？/{e}的价格是多少？/买{e}要花多少？/{e}卖多少钱？/{e}售价多少？
goods|颜色|colour|{e}是{v}的。/{e}的颜色是{v}。/{e}只有{v}。|{e}是什么颜色？/{e}的颜色是什么？/{e}有哪种颜色？
goods|重量|weight|{e}重{v}。/{e}的重量是{v}。|{e}有多重？/{e}的重量是多少？/{e}重多少？
goods|长度|length|{e}长{v}。/{e}的长度是{v}。|{e}有多长？/{e}的长度是多少？
goods|保修期|duration|{e}保修{v}。/{e}的保修期是{v}。/{e}在{v}内免费修理。|{e}保修多久？/{e}的保修期是多长？/{e}多久之内免费修理？/{e}能保多长时间？
goods|续航|duration|{e}充一次电能用{v}。/{e}的续航是{v}。|{e}的续航是多久？/{e}充一次电能用多长时间？/{e}能用多久？
goods|充电|duration|{e}充电要{v}。/{e}充满需{v}。|{e}充电要多久？/{e}充满电需要多长时间？
goods|材料|material|{e}是用{v}做的。/{e}的材料是{v}。|{e}是用什么做的？/{e}的材料是什么？/{e}是什么材质？
goods|噪声|noise|{e}的噪声是{v}。/{e}的声音有{v}。|{e}的噪声是多少？/{e}的声音有多大？/{e}吵不吵，多少分贝？
goods|功率|power|{e}的功率是{v}。|{e}的功率是多少？/{e}有多少瓦？
goods|产地|city|{e}产自{v}。/{e}是{v}生产的。|{e}产自哪里？/{e}在什么地方生产？/{e}的产地是哪里？
goods|设计师|person|{e}的设计师是{v}。/{v}设计了{e}。|谁设计了{e}？/{e}的设计师是谁？
goods|厂家|company|{e}由{v}生产。/{v}生产{e}。|{e}是哪家生产的？/谁生产{e}？/{e}的厂家是哪个？
goods|编号|code|{e}的编号是{v}。/{e}，编号 {v}。|{e}的编号是什么？/{e}是什么编号？
goods|库存|pieces|{e}还有{v}。/{e}的库存是{v}。|{e}还有多少？/{e}的库存有多少？/{e}还剩多少？
goods|折扣|percent|{e}便宜了{v}。/{e}降价{v}。|{e}降价百分之几？/{e}便宜了多少？
goods|上市|month|{e}在{v}上市。/{e}的上市时间是{v}。|{e}几月上市？/{e}什么时候上市？
goods|存放|floor|{e}放在{v}。/{e}摆在{v}。|{e}放在几楼？/{e}摆在哪一层？
word|会议时间|clock|{e}会议{v}开始。/{e}会议的时间是{v}。|{e}会议几点开始？/{e}会议是什么时间？
word|会议地点|floor|{e}会议在{v}开。/{e}会议的地点是{v}。|{e}会议在哪里开？/{e}会议的地点是哪里？
word|主持|person|{e}会议由{v}主持。/{v}主持{e}会议。|{e}会议由谁主持？/谁主持{e}会议？
word|课程时间|weekday|{e}课在{v}上。/{e}课每{v}一次。|{e}课哪天上？/{e}课在周几？
word|密码|phone|{e}的密码是{v}。/打开{e}要输入{v}。|{e}的密码是多少？/打开{e}要输入什么？
word|意思|word|{e}的意思是{v}。/人们把{e}叫作{v}。|{e}的意思是什么？/{e}又叫什么？/人们把{e}叫作什么？
city|人口|people|{e}有居民{v}。/{e}住着{v}。|{e}有多少居民？/{e}住着多少人？
city|市长|person|{e}的市长是{v}。/{v}是{e}的市长。|{e}的市长是谁？/谁是{e}的市长？
city|特产|food|{e}的特产是{v}。/{e}以{v}出名。|{e}的特产是什么？/{e}以什么出名？
city|气温|pieces|{e}有图书馆{v}。|{e}有多少图书馆？
city|路程|duration|到{e}要走{v}。/坐车去{e}要{v}。/去{e}的路上要{v}。|去{e}要多久？/到{e}要花多长时间？/坐车去{e}得多久？
city|动物|animal|{e}有很多{v}。/{e}的{v}很有名。|{e}有什么动物？/{e}的什么动物很有名？
""".strip()

ENGLISH = """
person|job|job|{e} works as a {v}./{e} is a {v}.|What is {e}'s job?/What does {e} work as?
person|city|city|{e} lives in {v}./{e}'s home is in {v}.|Where does {e} live?/In which town does {e} live?
person|age|age|{e} is {v} years old./The age of {e} is {v}.|How old is {e}?/What is the age of {e}?
person|phone|phone|{e}'s extension is {v}./Call {e} on {v}.|What is {e}'s extension?/Which number reaches {e}?
person|colour|colour|{e}'s favourite colour is {v}./{e} likes {v}.|What is {e}'s favourite colour?/Which colour does {e} like?
person|pet|animal|{e} has a {v}./{e} keeps a {v}.|Which animal does {e} have?/What pet does {e} keep?
goods|price|money|The {e} costs {v}./The price of the {e} is {v}.|How much is the {e}?/What does the {e} cost?/What is the price of the {e}?
goods|weight|weight|The {e} weighs {v}./The weight of the {e} is {v}.|How heavy is the {e}?/What does the {e} weigh?
goods|warranty|duration|The {e} has a warranty of {v}./The warranty on the {e} is {v}.|How long is the warranty on the {e}?/For how long is the {e} under warranty?
goods|colour|colour|The {e} is {v}./The colour of the {e} is {v}.|What colour is the {e}?/Which colour does the {e} have?
goods|charge|duration|The {e} charges in {v}./Charging the {e} takes {v}.|How long does the {e} take to charge?
city|mayor|person|The mayor of {e} is {v}./{v} leads {e}.|Who is the mayor of {e}?/Who leads {e}?
city|hours|hours|The office in {e} is open {v}./In {e} we open {v}.|When is the office in {e} open?/What are the hours in {e}?
city|tram|pieces|{e} has {v} trams./There are {v} trams in {e}.|How many trams does {e} have?
""".strip()
FIRST = "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor".split()
SYLLABLES = "bar ben cor dal dun fen gar hal kel lor mar mor nor pel ran sel tam tor vel win".split()
ENDINGS = "by den field ford ham ley low ton ville wick".split()
ENGLISH_GOODS = "lamp kettle camera drone bicycle robot mower speaker tent watch printer heater".split()
ENGLISH_COLOURS = "red blue green yellow white black purple orange grey pink brown".split()
ENGLISH_JOBS = "doctor teacher cook driver lawyer painter nurse farmer singer pilot baker gardener".split()
ENGLISH_ANIMALS = "cat dog rabbit parrot turtle hamster pony duck goat owl".split()


def _english_name(rng: random.Random, split: str, kind: str) -> str:
    def town() -> str:
        return (rng.choice(SYLLABLES) + rng.choice(["", rng.choice(SYLLABLES)]) + rng.choice(ENDINGS)).capitalize()

    if kind == "person":
        return _drawn(rng, split, lambda: f"{rng.choice(FIRST)} {town()}")
    if kind == "goods":
        return _drawn(rng, split, lambda: f"{town()} {rng.choice(ENGLISH_GOODS)}")
    return _drawn(rng, split, town)


def _english_value(rng: random.Random, split: str, kind: str) -> str:
    number = _number(rng)
    lists = {"job": ENGLISH_JOBS, "colour": ENGLISH_COLOURS, "animal": ENGLISH_ANIMALS}
    if kind in lists:
        return rng.choice(lists[kind])
    units = {"money": "euros", "weight": "kilograms kg grams", "duration": "minutes hours days months weeks years"}
    if kind in units:
        return f"{number} {rng.choice(units[kind].split())}"
    if kind in ("person", "city"):
        return _english_name(rng, split, kind)
    return {"age": str(rng.randint(3, 99)), "phone": str(rng.randint(1000, 9999)), "pieces": number}.get(
        kind, f"{_clock(rng)}–{_clock(rng)}"
    )


def _written(name: str) -> list[str]:
    """The lines of a text file beside this module."""
    return (Path(__file__).parent / name).read_text("utf-8").splitlines()


@cache
def _schemas(language: str, everyday: bool) -> dict[str, list[tuple]]:
    """What can be said and asked, plainly or, in Chinese, with everyday relations as well."""
    lines = (SCHEMAS if language == "zh" else ENGLISH).splitlines()
    if language == "zh" and everyday:
        lines += _written("relations.txt")
    table: dict[str, list[tuple]] = {}
    for line in lines:
        kind, attribute, value, said, asked = line.split("|")
        table.setdefault(kind, []).append((attribute, value, said.split("/"), asked.split("/")))
    return table


# ---------------------------------------------------------------------------------------------- answers from facts


def facts(rng: random.Random, split: str, most: int = 4, answerable: float = 0.75, rounds: int = 1) -> Conversation:
    """One to `most` facts and one question about them (more questions in later rounds)."""
    language = "en" if rng.random() < 0.15 else "zh"
    schemas = _schemas(language, everyday=split == "train" and rng.random() < 0.5)
    name = (
        (lambda kind: VALUES[kind](rng, split)) if language == "zh" else (lambda kind: _english_name(rng, split, kind))
    )
    value = VALUES if language == "zh" else None
    known: dict[tuple[str, str], tuple] = {}
    count = rng.randint(1, most)
    # Facts about one thing, or one attribute of several things, are the hard neighbours.
    shared_kind, entity = rng.choice(list(schemas)), None
    while len(known) < count:
        kind = shared_kind if rng.random() < 0.7 else rng.choice(list(schemas))
        if known and rng.random() < 0.4:
            kind, entity = rng.choice([(fact[0], fact[1]) for fact in known.values()])
        else:
            entity = name(kind)
        schema = rng.choice(schemas[kind])
        if known and rng.random() < 0.4:
            same = [s for s in schemas[kind] if s[0] in {fact[2][0] for fact in known.values()}]
            schema = rng.choice(same or schemas[kind])
        if (entity, schema[0]) in known:
            continue
        drawn = value[schema[1]](rng, split) if value else _english_value(rng, split, schema[1])
        known[entity, schema[0]] = (kind, entity, schema, drawn)
    lines, values = [], {}
    for key, (_, entity, schema, drawn) in known.items():
        said = rng.choice(schema[2])
        lines.append(said.format(e=entity, v=drawn))
        values[key] = (lines[-1], len(said.split("{v}")[0].format(e=entity)))
    if rng.random() < 0.3:
        joint = "" if language == "zh" else " "
        cut = rng.randint(1, len(lines))
        lines = [joint.join(lines[:cut]), *lines[cut:]]
    conversation: Conversation = []
    for i in range(rounds):
        stands_in = None
        if rng.random() < answerable:
            _, entity, schema, answer = rng.choice(list(known.values()))
            stands_in = values[entity, schema[0]]
        else:
            kind, entity, _, _ = rng.choice(list(known.values()))
            missing = [s for s in schemas[kind] if (entity, s[0]) not in known]
            if not missing or rng.random() < 0.5:
                entity, missing = name(kind), schemas[kind]
            schema, answer = rng.choice(missing), UNKNOWN[language]
        question = rng.choice(schema[3]).format(e=entity)
        asked = known_information(lines, question, language) if i == 0 else question
        if stands_in is not None:
            line, start = stands_in
            text = conversation[0][0] if conversation else asked
            answer = Copied(answer, answer, [(0, text.index(line) + start)])
        conversation.append((asked, answer))
    return conversation


# ---------------------------------------------------------------------------------- answers from written documents

UNITS = (
    "个工作日|个月|小时|分钟|工作日|公斤|千克|毫升|毫米|厘米|平方米|公里|分贝|万元|欧元|英寸|个字符|摄氏度|"
    "天|年|月|日|周|秒|元|人|名|位|台|次|盆|张|楼|层|岁|米|克|升|瓦|折|倍|块|道|家|辆|件|份|套|条|种|%|Wh|GB|MB|℃"
)
NUMBER = re.compile(rf"(?:每)?\d[\d,.:–]*(?: ?(?:{UNITS}))+(?: ?\d[\d,.:]*(?: ?(?:{UNITS})))?")
TYPED = {
    "元": ["多少钱", "多少元", "几元"],
    "天": ["多少天", "几天", "多久"],
    "个月": ["几个月", "多久", "多长时间"],
    "小时": ["几小时", "多久", "多长时间"],
    "分钟": ["几分钟", "多久", "多长时间"],
    "年": ["哪一年", "几年"],
    "个工作日": ["几个工作日", "多久"],
    "月": ["几月"],
    "日": ["几日", "哪天"],
    "人": ["多少人", "几个人"],
    "公斤": ["多重", "多少公斤"],
    "%": ["百分之几", "多少"],
    "楼": ["几楼", "哪一层"],
    "层": ["几层"],
}


@cache
def _finance_train() -> tuple:
    texts = load_labelled(runtime.DATA / "finance_texts.jsonl")
    return tuple(item for item in texts if item.split == "train")


@cache
def _passages(split: str) -> tuple[str, ...]:
    """Sentences and table rows of the handbook that no question of dev rests on, and sentences of the news."""
    held_out = [e.passage for q in load_questions() if q.split == "dev" for e in q.evidence]
    sentences = []
    for document in load_handbook():
        if document.injection:
            continue
        for line in document.text.splitlines():
            line = line.strip().lstrip("#-* ").strip()
            pieces = [line] if line.startswith("|") else re.findall(r"[^。；]+[。；]?", line)
            sentences += [piece.strip() for piece in pieces if 8 < len(piece) < 80 and not set(piece) <= set("|- ")]
    for item in _finance_train():
        sentences += re.findall(r"[^。]+。", item.text)
    return tuple(s for s in sentences if not any(s in h or h in s for h in held_out))


def _other_digits(rng: random.Random, *texts: str) -> list[str]:
    """The texts with every number replaced, the same number by the same one everywhere."""
    drawn: dict[str, str] = {}

    def replace(found: re.Match) -> str:
        old = found[0]
        if old not in drawn:
            first = str(rng.randint(1, 9)) if old[0] != "0" else "0"
            drawn[old] = first + "".join(str(rng.randint(0, 9)) for _ in old[1:])
        return drawn[old]

    return [re.sub(r"\d+", replace, text) for text in texts]


def _asked(rng: random.Random, passage: str) -> tuple[str, str] | None:
    """A question about a number in the passage, made by asking for it where it stands."""
    found = list(NUMBER.finditer(passage))
    if not found:
        return None
    hit = rng.choice(found)
    unit = max((u for u in TYPED if hit[0].endswith(u)), key=len, default="")
    if passage.startswith("|"):
        cells = [cell.strip() for cell in passage.strip("|").split("|")]
        if hit[0] not in cells[1:]:
            return None
        return rng.choice([f"{cells[0]}是多少？", f"{cells[0]}{rng.choice(TYPED.get(unit, ['多少']))}？"]), hit[0]
    start = max(passage.rfind(mark, 0, hit.start()) for mark in "，。；：、（")
    before = passage[start + 1 : hit.start()].strip()
    after = re.split("[，。；：、）]", passage[hit.end() :])[0].strip()
    asked = rng.choice(TYPED.get(unit, [f"多少{hit[0].lstrip('0123456789,.:– ')}"]))
    if len(before) + len(after) < 3 or len(before) + len(after) > 30:
        return None
    return f"{before}{asked}{after if rng.random() < 0.7 else ''}？", hit[0]


def smudge(rng: random.Random, text: str, share: float) -> str:
    """The text with a share of its Chinese characters left out: what is learned must not hang on single ones."""
    return "".join(c for c in text if c.isascii() or rng.random() >= share) or text


def in_other_words(rng: random.Random, text: str, share: float) -> str:
    """The text with a share of its words put as another one of their group in the lexicon of text2vec-tiny says it.

    A reader asks in words that the passage does not have; which words mean about the same is known from there.
    """
    from course_utils.standins.text2vec import groups_of, other_word

    found, i = "", 0
    while i < len(text):
        latin = re.match("[A-Za-z]+", text[i:])
        ends = [i + latin.end()] if latin else range(i + 8, i + 1, -1)
        word = next((text[i:end] for end in ends if text[i:end] in groups_of()), latin[0] if latin else text[i])
        i += len(word)
        named = not latin and re.match(" ?[A-Za-z]", text[i:])  # 露露 L2 stays 露露 L2
        swap = len(word) > 1 and word in groups_of() and not named and rng.random() < share
        found += other_word(word, rng, english=bool(latin)) if swap else word
    return found


@cache
def _everyday() -> tuple[tuple[str, str, str], ...]:
    """Everyday questions about the handbook's pages: a passage, a question and the words there that answer it.

    Those about a passage that dev rests on are left out. UNANSWERED is what the whole page does not say.
    """
    # Written for text2vec-tiny: a mark that finds a passage there is not always an answer. Numbers are, and what
    # answers a who, which or what.
    rows = [line.split("|") for line in _written("text2vec_questions.txt") if line.count("|") == 2]
    asked = [
        (file, mark, question.rstrip("?") + ("？" if question[-1] > "z" else "?"), mark)
        for file, mark, question in rows
        if re.search(r"\d", mark) or re.search("谁|哪|什么|[Ww]h", question)
    ]
    asked += [tuple(line.split("|")) for line in _written("handbook_asked.txt")]
    return tuple(
        (passage, question, answer)
        for file, mark, question, answer in asked
        for passage in _shown_passages().get(file, ())
        if mark in passage and (answer in passage or answer == UNANSWERED)
    )


@cache
def _invented() -> tuple[tuple[list[str], list[tuple[str, str]]], ...]:
    """Passages of handbooks and manuals that do not exist, alone or two that belong together, with questions.

    An answer is made of words that stand there; it is UNANSWERED where the passages sound as if they held one.
    """
    found = []
    for line in _written("asked_passages.txt"):
        passages, *asked = line.split(" || ")
        found.append((passages.split(" ## "), [tuple(pair.split(" => ")) for pair in asked]))
    return tuple(found)


@cache
def _shown_passages() -> dict[str, tuple[str, ...]]:
    """The passages of each file as a search shows them, with title and heading, but those that dev rests on."""
    dev = [(e.file, e.passage) for q in load_questions() if q.split == "dev" for e in q.evidence]
    shown = {}
    for document in load_handbook():
        if document.injection:
            continue
        spans = [
            (start, start + len(passage))
            for file, passage in dev
            if file == document.file and (start := document.text.find(passage)) >= 0
        ]
        texts = [
            passage.text
            for passage in split_passages(document)
            if not any(passage.start < end and start < passage.end for start, end in spans)
            # a heading stands before every passage under it
            and not any(held_out in passage.text for file, held_out in dev if file == document.file)
        ]
        if len(texts) > 1:
            shown[document.file] = tuple(texts)
    return shown


def _asked_row(rng: random.Random, passage: str) -> tuple[str, str] | None:
    """A question about a column of a row such as `Title：name A；price 5 元；…`, named by its first column."""
    _, _, row = passage.partition("：")
    cells = [cell.strip().partition(" ") for cell in row.split("；")]
    cells = [(column, value.strip()) for column, _, value in cells if value.strip()]
    if len(cells) < 2:
        return None
    column, value = rng.choice(cells[1:])
    if len(value) > 24 or passage.count(value) > 1:
        return None
    forms = ["{e}的{c}是什么？", "{e}的{c}是多少？", "{e}{c}多少？", "{e}的{c}？", "{c}：{e}？", "{e}{c}是什么？"]
    return rng.choice(forms).format(e=cells[0][1], c=column), value


def documents(rng: random.Random, split: str, rounds: int = 1) -> Conversation:
    """Questions about a passage from the handbook or the news, with other passages around it.

    One in five is not answered there: the passages only sound like it, or those that answer are not among them.
    """
    passages = _passages("train")
    shown = _shown_passages()
    neighbours: tuple[str, ...] = passages
    more: list[tuple[str, str]] = []  # what else is asked about the same passages
    chance, unanswered = rng.random(), rng.random() < 0.14
    if chance < 0.5:
        invented = _invented()
        i = rng.randrange(len(invented))
        evidence, more = invented[i]
        question, answer = rng.choice([pair for pair in more if (pair[1] == UNANSWERED) == unanswered] or more)
        neighbours = tuple(text for texts, _ in invented[max(0, i - 5) : i + 6] for text in texts)
    elif chance < 0.8:
        passage, question, answer = rng.choice(_everyday())
        while (answer == UNANSWERED) != unanswered:
            passage, question, answer = rng.choice(_everyday())
        more = _questions_about()[passage]
        text = re.split("：|: ", passage, maxsplit=1)[-1]
        # With the title, as a search shows it, or without, as it stands on the page.
        bare = rng.random() < 0.4 and all(said in text or said == UNANSWERED for _, said in more)
        evidence = [text if bare else passage]
        neighbours = next(texts for texts in shown.values() if passage in texts)
    elif chance < 0.9:
        item: Question = rng.choice([q for q in load_questions_of("train") if q.evidence])
        chosen = list(item.evidence) if item.kind == "two_passages" else [rng.choice(item.evidence)]
        evidence = [e.passage for e in chosen]
        near = shown.get(chosen[0].file, ())
        if rng.random() < 0.5:  # as a search shows it
            evidence = [next((text for text in near if passage in text), passage) for passage in evidence]
        neighbours = near or passages
        question, answer = item.question, item.answer
    else:
        asked = None
        while asked is None:
            if rng.random() < 0.6:
                neighbours = shown[rng.choice(list(shown))]
                passage = rng.choice(neighbours)
                asked = _asked_row(rng, passage) or _asked(rng, passage)
            else:
                neighbours, passage = passages, rng.choice(passages)
                asked = _asked(rng, passage)
        (question, answer), evidence = asked, [passage]
    missing = answer != UNANSWERED and rng.random() < 0.1
    count = rng.choice([1, 2, 3, 4] if missing else [0, 0, 1, 1, 2, 3])
    others = [rng.choice(neighbours if rng.random() < (0.9 if missing else 0.6) else passages) for _ in range(count)]
    others = [other for other in dict.fromkeys(others) if other not in evidence and answer not in other]
    if missing and not others:
        missing = False
    if missing:
        more = []
    more = [pair for pair in more if pair[0] != question and not any(pair[1] in other for other in others)]
    more += [pair for other in others for pair in _questions_about().get(other, ())]
    asked = [(question, answer), *rng.sample(more, min(len(more), rounds - 1))]
    texts = [*evidence, *others]
    if rng.random() < 0.8:
        changed = _other_digits(rng, *texts, *(said for pair in asked for said in pair))
        pairs = list(zip(changed[len(texts) :: 2], changed[len(texts) + 1 :: 2], strict=True))
        if all(said == UNANSWERED or any(said in text for text in changed[: len(texts)]) for _, said in pairs):
            texts, asked = changed[: len(texts)], pairs
    if missing:
        texts = [text for text in texts[: len(evidence)] if asked[0][1] not in text] + texts[len(evidence) :]
        asked[0] = asked[0][0], UNANSWERED
    rng.shuffle(texts)
    conversation: Conversation = []
    for question, answer in asked:
        language = "en" if question[-1] == "?" else "zh"
        if rng.random() < 0.4:
            question = in_other_words(rng, question, 0.6 * rng.random())
        elif language == "zh" and rng.random() < 0.5:
            question = smudge(rng, question, 0.15)
        prompt = conversation[0][0] if conversation else known_information(texts, question, language)
        if answer == UNANSWERED:
            answer = UNKNOWN[language]
        elif holding := [text for text in texts if answer in text]:
            answer = Copied(answer, answer, [(0, prompt.index(text) + text.index(answer)) for text in holding])
        conversation.append((question if conversation else prompt, answer))
    return conversation


@cache
def _questions_about() -> dict[str, list[tuple[str, str]]]:
    """For each passage that stands alone, all that is asked about it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for passage, question, answer in _everyday():
        found.setdefault(passage, []).append((question, answer))
    for texts, asked in _invented():
        if len(texts) == 1:
            found.setdefault(texts[0], []).extend(asked)
    return found


@cache
def load_questions_of(split: str) -> tuple[Question, ...]:
    """The handbook's questions of one split."""
    return tuple(question for question in load_questions() if question.split == split)


# ---------------------------------------------------------------------------------------- few-shot classification

FINANCE = ["新闻报道", "财务报告", "公司公告", "分析师报告"]
CATEGORIES = {
    "水果": "苹果 香蕉 葡萄 西瓜 草莓 桃子 橙子 梨 芒果 樱桃",
    "动物": "老虎 狮子 大象 猴子 兔子 长颈鹿 熊猫 狐狸 斑马 袋鼠",
    "交通": "汽车 火车 飞机 轮船 地铁 公交车 自行车 卡车 摩托车 出租车",
    "天气": "下雨 刮风 下雪 晴天 打雷 大雾 多云 台风 冰雹 降温",
    "运动": "篮球 足球 游泳 跑步 滑雪 乒乓球 体操 跳高 网球 举重",
    "音乐": "钢琴 吉他 小提琴 鼓 笛子 合唱 歌曲 乐队 音符 二胡",
    "衣服": "衬衫 裤子 裙子 毛衣 外套 帽子 围巾 袜子 大衣 手套",
    "厨房": "锅 碗 筷子 炒菜 煮饭 酱油 菜刀 盐 烤箱 盘子",
    "学校": "老师 作业 考试 课本 同学 黑板 教室 放学 校长 铅笔",
    "医院": "医生 护士 发烧 吃药 打针 病人 手术 咳嗽 看病 牙疼",
    "家具": "沙发 桌子 椅子 床 柜子 书架 台灯 镜子 地毯 抽屉",
    "植物": "树 花 草 叶子 竹子 玫瑰 种子 松树 荷花 仙人掌",
    "星空": "月亮 星星 太阳 地球 火箭 宇宙 银河 卫星 流星 望远镜",
    "电脑": "键盘 鼠标 屏幕 程序 网络 密码 文件 软件 打印机 硬盘",
    "银行": "存款 利息 贷款 现金 账户 取钱 汇款 支票 信用卡 硬币",
    "节日": "春节 中秋 元宵 灯笼 鞭炮 月饼 粽子 拜年 红包 端午",
    "情绪": "高兴 难过 生气 害怕 开心 着急 惊讶 孤单 得意 伤心",
    "家人": "妈妈 爸爸 奶奶 爷爷 姐姐 弟弟 妹妹 哥哥 外婆 叔叔",
}
FRAMES = (
    "我昨天看到了{w}。|今天说说{w}和{x}。|{w}很常见。|他一直在想{w}的事。|关于{w}，大家有很多话要说。|没有{w}怎么行？|"
    "这里有{w}，那里有{x}。|{w}让人印象很深。|先是{w}，后来又是{x}。|她写了一篇关于{w}的短文。"
).split("|")


@cache
def _adverts() -> tuple:
    return tuple(load_pairs(runtime.DATA / "adgen_mini" / "train.json"))


@cache
def _kinds() -> dict[str, list[str]]:
    """Kinds of writing, each with sentences; those of the four financial kinds have gaps to fill."""
    kinds: dict[str, list[str]] = {}
    for line in _written("kinds_of_text.txt"):
        kind, sentence = line.split("|")
        kinds.setdefault(kind, []).append(sentence)
    for kind in FINANCE:
        for pair in finance.PATTERNS[kind]:
            for patterns in pair:
                kinds[kind] += 2 * finance.part_of(patterns, "train")
    return kinds


@cache
def _advert_texts() -> dict[str, list[str]]:
    """The advertisements of training by what they advertise."""
    found: dict[str, list[str]] = {}
    for pair in _adverts():
        found.setdefault(pair.prompt.split("*")[0], []).append(pair.response)
    return found


def _category_text(rng: random.Random, category: str) -> str:
    first, second = rng.sample(CATEGORIES[category].split(), 2)
    text = rng.choice(FRAMES).format(w=first, x=second)
    return text if rng.random() < 0.6 else text + rng.choice(FRAMES).format(w=second, x=first)


def _kind_text(rng: random.Random, kind: str) -> str:
    """One to three sentences of a kind of writing, with some characters left out: no text can be known by heart."""
    sentences = rng.sample(_kinds()[kind], rng.randint(1, 3))
    text = finance.compose(rng, kind, sentences) if kind in FINANCE else "".join(sentences)
    return smudge(rng, text, rng.choice([0.0, 0.1]))


def _advert_text(rng: random.Random, group: str) -> str:
    texts = rng.sample(_advert_texts()[group], 2)
    return "".join(rng.choice(re.findall(r"[^。]+。?", text)) for text in texts)


def draw_labels(rng: random.Random, split: str, count: int) -> list[str]:
    """Names for classes, each another one, made of characters or letters."""

    def label() -> str:
        return rng.choice(
            [
                "".join(rng.choices(NAME_CHARACTERS, k=rng.choice([1, 2, 2, 3])))
                + rng.choice(["类", "体", "组", "", ""]),
                "".join(rng.choices(_characters(), k=2)),
                rng.choice("甲乙丙丁戊己庚辛ABCDEFGHIJKLMNOPQRSTUVWXYZ") + rng.choice(["", "类", "组", "型"]),
            ]
        )

    names: list[str] = []
    while len(names) < count:
        if (name := _drawn(rng, split, label)) not in names:
            names.append(name)
    return names


def labels(rng: random.Random, split: str, rounds: int = 1, own_names: float = 0.1) -> Conversation:
    """Texts with labels that only the examples define, then texts to label.

    A share `own_names` carries the true names of its classes, and there every label is to be said: by them a model
    learns what makes a class, without which no example can be compared with a text.
    """
    chance = rng.random()
    if chance < 0.5:
        classes, text_of = FINANCE, _kind_text
    elif chance < 0.75:
        classes, text_of = list(_kinds()), _kind_text
    elif chance < 0.8:
        classes, text_of = list(_advert_texts()), _advert_text
    else:
        classes, text_of = list(CATEGORIES), _category_text
    classes = rng.sample(classes, min(len(classes), rng.choice([2, 3, 4, 4])))
    named = rng.random() < own_names
    if named:
        names = classes
    elif classes[0] in FINANCE and rng.random() < 0.3:
        names = rng.sample(FINANCE, len(classes))  # the true names in any order: only the examples count
    else:
        names = draw_labels(rng, split, len(classes))
    examples = [(text_of(rng, group), name) for group, name in zip(classes, names, strict=True)]
    rng.shuffle(examples)
    conversation = few_shot(rng.sample(names, len(names)), examples, "")[:-1]
    if named:
        conversation = [(question, str(label)) for question, label in conversation]
    for _ in range(rounds):
        i = rng.randrange(len(classes))
        earlier = [(2 * j + 1, 0) for j, (_, label) in enumerate(conversation) if label == names[i]]
        conversation.append((f"文本：{text_of(rng, classes[i])}", Copied(names[i], names[i], earlier)))
    return conversation


# ------------------------------------------------------------------------------------------ chat and its history


def chat(rng: random.Random, split: str, rounds: int = 1) -> Conversation:
    """Small talk and questions about the course: every round a topic in one of its wordings."""
    said = [smalltalk.draw(rng, split) for _ in range(rounds)]
    return [(smudge(rng, question, 0.15) if rng.random() < 0.5 else question, answer) for question, answer in said]


REMEMBER = [
    ("name", ["我叫{v}。", "我的名字是{v}。", "你好，我是{v}。", "叫我{v}就行。"], "你好，{v}！",
     ["我叫什么名字？", "你还记得我的名字吗？", "我是谁？", "我叫什么？"], "你叫{v}。"),
    ("number", ["我的幸运数字是{v}。", "记住一个数字：{v}。", "请记住{v}这个数。"], "记住了：{v}。",
     ["我说的数字是多少？", "刚才的数字是几？", "我的数字是多少？", "我让你记住的数是什么？"], "是{v}。"),
    ("city", ["我住在{v}。", "我家在{v}。", "我从{v}来。"], "{v}是个好地方。",
     ["我住在哪里？", "我家在哪儿？", "我从哪里来？"], "你住在{v}。"),
    ("pet", ["我的猫叫{v}。", "我有一只猫，名字叫{v}。", "我家小猫叫{v}。"], "{v}一定很可爱。",
     ["我的猫叫什么？", "我家小猫叫什么名字？", "猫的名字是什么？"], "它叫{v}。"),
    ("food", ["我最爱吃{v}。", "我喜欢吃{v}。"], "{v}很好吃。",
     ["我最爱吃什么？", "我喜欢吃什么？"], "你爱吃{v}。"),
    ("colour", ["我最喜欢{v}。", "我喜欢的颜色是{v}。"], "{v}很好看。",
     ["我最喜欢什么颜色？", "我喜欢的颜色是什么？"], "你喜欢{v}。"),
]  # fmt: skip
REMEMBERED = {
    "name": _person,
    "number": lambda rng, split: _drawn(rng, split, lambda: str(rng.randint(1, 99999))),
    "city": VALUES["city"],
    "pet": _stem,
    "food": VALUES["food"],
    "colour": VALUES["colour"],
}


def history(rng: random.Random, split: str, between: tuple[int, ...] = (0, 1, 1, 2, 3)) -> Conversation:
    """Something the user says, other rounds, and a question about it.

    Foods and colours are few and all seen in training, so the evaluation does not ask for them.
    """
    kinds = REMEMBER if split == "train" else [row for row in REMEMBER if row[0] not in ("food", "colour")]
    told = rng.sample(kinds, rng.choice([1, 1, 1, 2]))
    values = [REMEMBERED[kind](rng, split) for kind, *_ in told]
    conversation = [
        (rng.choice(said).format(v=value), reply.format(v=value))
        for (_, said, reply, _, _), value in zip(told, values, strict=True)
    ]
    places = [(2 * j, conversation[j][0].index(value)) for j, value in enumerate(values)]
    conversation += [smalltalk.draw(rng, split) for _ in range(rng.choice(between))]
    i = rng.randrange(len(told))
    answer = Copied(told[i][4].format(v=values[i]), values[i], [places[i]])
    conversation.append((rng.choice(told[i][3]), answer))
    return conversation


# -------------------------------------------------------------------------------------------- plain text, copying


@cache
def _texts() -> tuple[str, ...]:
    """Plain text of training: the corpus but its last twentieth, and the advertisements of the train file."""
    texts: list[str] = []
    for language in ("zh", "en"):
        lines = [line for line in (runtime.DATA / "corpus" / f"{language}.txt").read_text("utf-8").splitlines() if line]
        texts += lines[: len(lines) * 19 // 20]
    texts += [pair.response for pair in _adverts()]
    return tuple(texts)


def plain_text(rng: random.Random, split: str) -> Conversation:
    """A piece of text to go on with: the question is its beginning."""
    text = rng.choice(_texts())[:90]
    cut = rng.randint(2, max(2, min(20, len(text) // 2)))
    return [(f"续写：{text[:cut]}", text[cut:])]


def repeat(rng: random.Random, split: str) -> Conversation:
    """Characters at random, to be said again: copying, the first thing to learn."""
    text = "".join(rng.choices(_characters() if rng.random() < 0.7 else NAME_CHARACTERS, k=rng.randint(2, 24)))
    return [(f"重复：{text}", Copied(text, text, [(0, 3)]))]


def advert(rng: random.Random, split: str) -> Conversation:
    """An advertisement for a product that is described in a sentence: the skill, not yet the format of ADGEN."""
    pair = rng.choice(_adverts())
    wishes = [wish.split("#") for wish in pair.prompt.split("*")]
    rng.shuffle(wishes)
    described = "，".join(f"{name}是{value}" for name, value in wishes)
    return [(f"{rng.choice(['请写一段广告', '写广告', '帮我写一段推荐'])}：{described}。", pair.response)]


def all_characters() -> str:
    """Every character of the course's data and every common one: what the tokenizer must know."""
    files = [*runtime.DATA.glob("corpus/*.txt"), *runtime.DATA.glob("*.json*"), *runtime.DATA.glob("adgen_mini/*.json")]
    texts = [file.read_text("utf-8") for file in files] + [document.text for document in load_handbook()]
    return "".join(c for c in set("".join(texts) + _characters()) if not c.isspace()) + "\n"
