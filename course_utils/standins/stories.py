"""The corpus of small stories: Chinese in data/corpus/zh.txt, English in data/corpus/en.txt, one story a line.

A line break ends a story and stands nowhere else; there are no empty lines. The stories come in random order and none
comes twice, so the last 5 % of a file are a fair held-out part.

Each language has a grammar of its own, `stories_zh.txt` and `stories_en.txt` beside this file; they share ideas, not
stories. A grammar is read line by line:

    # a remark
    * name                     a rule: `{name}` becomes one of the patterns that follow, drawn anew at each use
    @ 3 who who: place, place  a story, drawn three times as often as others (1 if not told); who may play in it, where
    = thing, size: hat, big / pin, small    words that the story keeps; the parts of an entry belong together
    - pattern                  the next step of the story
    ? pattern                  a step that half of the tellings leave out
    | pattern                  another way to put the step or the rule above

In a pattern `[red|blue]` is one of its parts and `{word}` a word of the story or a rule; both may stand in each other.
`{Word}` is `{word}` with a capital. The words that every story has are made by `_cast_zh` and `_cast_en`.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SEED = 20240603
BYTES = 520_000

# What it is, how it is counted, what it likes to eat, what it may be called.
ANIMALS_ZH = {
    "小猫": ("只", "小鱼", "咪咪 花花 毛毛"),
    "小狗": ("只", "骨头", "旺旺 豆豆 黑黑"),
    "小兔": ("只", "胡萝卜", "白白 朵朵 跳跳"),
    "小熊": ("只", "蜂蜜", "胖胖 大大 圆圆"),
    "小鸭": ("只", "小虾", "嘎嘎 黄黄 摇摇"),
    "小鸡": ("只", "小米", "叽叽 点点 球球"),
    "小羊": ("只", "青草", "绵绵 卷卷 云云"),
    "小猴": ("只", "桃子", "皮皮 乐乐 灵灵"),
    "小猪": ("头", "玉米", "噜噜 壮壮 饱饱"),
    "小老鼠": ("只", "花生", "吱吱 灰灰 米米"),
    "小鸟": ("只", "果子", "飞飞 蓝蓝 青青"),
    "小松鼠": ("只", "松果", "松松 果果 树树"),
}
CHILDREN_ZH = {name: "他" for name in "小明 冬冬 丁丁 亮亮".split()} | {
    name: "她" for name in "小红 丽丽 小雨 芳芳".split()
}
GROWNUPS_ZH = {"妈妈": "她", "爸爸": "他", "奶奶": "她", "爷爷": "他"}
CRIES_ZH = {"小猫": "喵", "小狗": "汪"}
COLOURS_ZH = "红色 蓝色 黄色 绿色 白色 黑色 紫色 粉色".split()

ANIMALS_EN = {
    "kitten": ("fish", "Mimi Snow Socks"),
    "puppy": ("bones", "Rex Spot Biscuit"),
    "cat": ("fish", "Minka Velvet Tiger"),
    "dog": ("bones", "Bello Rocky Prince"),
    "rabbit": ("carrots", "Hop Clover Daisy"),
    "bear": ("honey", "Bruno Teddy Barney"),
    "duckling": ("bread", "Dot Paddle Sunny"),
    "chick": ("corn", "Pip Yolk Peep"),
    "lamb": ("grass", "Wool Cloud Lulu"),
    "monkey": ("bananas", "Coco Max Jojo"),
    "pig": ("potatoes", "Pinky Rosie Bob"),
    "mouse": ("cheese", "Minnow Tiny Crumb"),
    "bird": ("berries", "Blue Chirp Robin"),
    "squirrel": ("nuts", "Hazel Nutty Rusty"),
}
CHILDREN_EN = {name: "he" for name in "Tom Ben Sam Jack".split()} | {
    name: "she" for name in "Lily Anna Mia Rose".split()
}
GROWNUPS_EN = {"mother": "she", "father": "he", "grandmother": "she", "grandfather": "he"}
CRIES_EN = {"kitten": "meow", "puppy": "woof"}
COLOURS_EN = "red blue yellow green white black purple pink".split()
CASES_EN = {"he": ("him", "his", "himself"), "she": ("her", "her", "herself")}


@dataclass
class Story:
    """The pattern of a story: who may play in it and where, the words it keeps, its steps."""

    weight: int
    heroes: list[str]
    places: list[str]
    words: list[dict[str, str]] = field(default_factory=lambda: [{}])
    steps: list[tuple[bool, list[str]]] = field(default_factory=list)


def read_grammar(text: str) -> tuple[list[Story], dict[str, list[str]]]:
    """The stories and the rules of a grammar in the notation shown above."""
    stories: list[Story] = []
    rules: dict[str, list[str]] = {}
    patterns: list[str] = []
    for line in text.splitlines():
        mark, rest = line[:1], line[2:]
        if mark == "*":
            patterns = rules[rest] = []
        elif mark == "@":
            who, places = rest.split(":")
            weight, *heroes = who.split() if rest[0].isdigit() else ("1", *who.split())
            stories.append(Story(int(weight), heroes, [place.strip() for place in places.split(",")]))
        elif mark == "=":
            names, entries = rest.split(":", 1)
            rows = [[part.strip() for part in entry.split(",")] for entry in entries.split(" / ")]
            names = [name.strip() for name in names.split(",")]
            stories[-1].words = [dict(zip(names, row, strict=True)) for row in rows]
        elif mark in ("-", "?"):
            patterns = [rest]
            stories[-1].steps.append((mark == "?", patterns))
        elif mark == "|":
            patterns.append(rest)
    return stories, rules


def tell(pattern: str, words: dict[str, str], rules: dict[str, list[str]], rng: random.Random) -> str:
    """The pattern with every choice made and every word filled in."""

    def fill(match: re.Match) -> str:
        if match[1] is not None:
            return rng.choice(match[1].split("|"))
        name = match[2].lower()
        text = words[name] if name in words else rng.choice(rules[name])
        if name == match[2]:
            return text
        text = tell(text, words, rules, rng)
        return text[0].upper() + text[1:]

    # Innermost brackets first; what was filled in may hold further ones.
    while (told := re.sub(r"\[([^][]*)\]|\{(\w+)\}", fill, pattern, count=1)) != pattern:
        pattern = told
    return told


def _others(rng: random.Random, hero: str, animals: dict, children: dict) -> list[str]:
    """A friend of the hero, mostly of the same kind, and two more animals."""
    friends = children if hero in children and rng.random() < 0.75 else animals
    friend = rng.choice([name for name in friends if name != hero])
    return [friend, *rng.sample([name for name in animals if name not in (hero, friend)], 2)]


def _cast_zh(rng: random.Random, hero: str) -> dict[str, str]:
    """The words that every Chinese story has: 主 and 友 are hero and friend, 介 introduces the hero, 长 is grown up."""
    friend, other, another = _others(rng, hero, ANIMALS_ZH, CHILDREN_ZH)
    grownup = rng.choice(list(GROWNUPS_ZH))
    words = {"主": hero, "友": friend, "别": other, "又": another, "长": grownup, "她": GROWNUPS_ZH[grownup]}
    words |= {"色": rng.choice(COLOURS_ZH), "友食": ANIMALS_ZH[friend][1] if friend in ANIMALS_ZH else "苹果"}
    if hero in CHILDREN_ZH:
        return words | {"介": hero, "他": CHILDREN_ZH[hero], "们": "他们", "食": rng.choice(["苹果", "面包", "包子"])}
    measure, food, names = ANIMALS_ZH[hero]
    called = f"叫{rng.choice(names.split())}的" if rng.random() < 0.3 else ""
    return words | {
        "介": f"一{measure}{called}{hero}",
        "他": "它",
        "们": "它们",
        "食": food,
        "叫": CRIES_ZH.get(hero, "咦"),
    }


def _cast_en(rng: random.Random, hero: str) -> dict[str, str]:
    """The words that every English story has: who plays in it and the pronouns."""
    *others, grownup = *_others(rng, hero, ANIMALS_EN, CHILDREN_EN), rng.choice(list(GROWNUPS_EN))
    friend, other, another = (name if name in CHILDREN_EN else f"the {name}" for name in others)
    if hero in CHILDREN_EN:
        he, food = CHILDREN_EN[hero], rng.choice(["apples", "bread", "soup"])
        words = {"hero": hero, "intro": hero, "he": he, "food": food}
    else:
        he, (food, names) = rng.choice(["he", "she"]), ANIMALS_EN[hero]
        called = f" called {rng.choice(names.split())}" if rng.random() < 0.3 else ""
        words = {"hero": f"the {hero}", "intro": f"a {hero}{called}", "he": he, "food": food}
        words |= {"animal": hero, "cry": CRIES_EN.get(hero, "oh")}
    words["him"], words["his"], words["himself"] = CASES_EN[he]
    words |= {"grownup": f"{words['his']} {grownup}", "she": GROWNUPS_EN[grownup]}
    words |= {"her": CASES_EN[GROWNUPS_EN[grownup]][1], "colour": rng.choice(COLOURS_EN)}
    return words | {"friend": friend, "other": other, "another": another}


@dataclass(frozen=True)
class Language:
    """What differs between the languages."""

    groups: dict[str, list[str]]
    place: str
    cast: Callable[[random.Random, str], dict[str, str]]
    space: str


# A bird does not need a ladder, so it plays only where it is named.
LANGUAGES = {
    "zh": Language({"动物": [a for a in ANIMALS_ZH if a != "小鸟"], "孩子": [*CHILDREN_ZH]}, "地", _cast_zh, ""),
    "en": Language({"animal": [a for a in ANIMALS_EN if a != "bird"], "child": [*CHILDREN_EN]}, "place", _cast_en, " "),
}


def stories(name: str) -> list[str]:
    """The stories of one language, all different, until they fill the file."""
    language = LANGUAGES[name]
    grammar, rules = read_grammar(Path(__file__).with_name(f"stories_{name}.txt").read_text(encoding="utf-8"))
    rng = random.Random(SEED)
    told: dict[str, None] = {}
    size = 0
    while size < BYTES:
        story = rng.choices(grammar, [story.weight for story in grammar])[0]
        who = rng.choice(story.heroes)
        hero = rng.choice(language.groups.get(who, [who]))
        words = language.cast(rng, hero) | {language.place: rng.choice(story.places)}
        # Nobody meets a second one of itself: not "the kitten heard a noise; it was the kitten".
        known = {hero, words.get("友", words.get("friend", "")).removeprefix("the ")}
        words |= rng.choice(
            [row for row in story.words if not any(who in part for part in row.values() for who in known)]
        )
        patterns = [rng.choice(ways) for optional, ways in story.steps if not optional or rng.random() < 0.5]
        text = language.space.join(tell(pattern, words, rules, rng) for pattern in patterns)
        if name == "en":
            text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", " ".join(text.split())).replace('".', '."')
        if text not in told:
            told[text] = None
            size += len(text.encode("utf-8")) + 1
    return list(told)


def files() -> dict[str, str]:
    """The two files under data/ and their text."""
    return {f"corpus/{name}.txt": "".join(f"{story}\n" for story in stories(name)) for name in LANGUAGES}
