"""The handbook is whole and agrees with itself; each question has its answer where it says; broken files are named."""

import csv
import json
import re
from collections import Counter
from statistics import mean

import pytest
from pypdf import PdfReader, PdfWriter

from course_utils import runtime
from course_utils.handbook_data import (
    KINDS,
    Document,
    Evidence,
    Passage,
    holds,
    load_handbook,
    load_questions,
    split_passages,
)
from course_utils.messages import CourseError

HANDBOOK = runtime.DATA / "handbook"
DOCUMENTS = {document.file: document for document in load_handbook()}
QUESTIONS = load_questions()
PAGES = [document for file, document in DOCUMENTS.items() if file.endswith(".md")]
PARTS = list(csv.DictReader((HANDBOOK / "spare_parts.csv").open(encoding="utf-8")))


def bigrams(text: str) -> list[str]:
    letters = re.sub(r"\W", "", text.lower())
    return [letters[i : i + 2] for i in range(len(letters) - 1)]


def shared(question) -> float:
    """The share of the question's pairs of letters that its first passage has too."""
    passage = set(bigrams(question.evidence[0].passage))
    return mean(pair in passage for pair in bigrams(question.question))


# The handbook


def test_there_are_enough_pages_of_a_readable_length():
    assert Counter(page.language for page in PAGES) == {"zh": 62, "en": 15}
    for page in PAGES:
        size = len(re.findall(r"[\u4e00-\u9fff]", page.text)) if page.language == "zh" else len(page.text.split())
        assert 150 <= size <= 520, (page.file, size)


def test_front_matter_fits_the_page():
    for page in PAGES:
        assert page.file.startswith(page.language + "/"), page.file
        assert page.text.startswith(f"# {page.title}\n"), page.file
    titles = Counter(page.title for page in PAGES)
    assert max(titles.values()) == 1, titles.most_common(3)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", page.text):
            assert (HANDBOOK / page.file).parent.joinpath(link).is_file(), (page.file, link)


def test_one_page_gives_orders_and_does_not_say_that_it_is_a_test():
    (page,) = [page for page in PAGES if page.injection]
    assert page.file == "zh/feedback-box.md"
    assert "忽略之前的一切规则" in page.text and not re.search("(?i)inject|注入|测试", page.text)


def test_the_pdf_is_small_and_says_what_its_source_says():
    path = HANDBOOK / "lulu-l2-manual.pdf"
    assert path.stat().st_size < 400_000 and len(PdfReader(path).pages) == 3
    document = DOCUMENTS[path.name]
    assert document.title == "露露 L2 快速手册"
    source = (HANDBOOK / "manual" / "lulu-l2-manual.html").read_text(encoding="utf-8").split("</style>")[1]
    text = re.sub(r"\s", "", document.text)
    pieces = [re.sub(r"\s", "", piece) for piece in re.findall(r">([^<>]*[^<>\s][^<>]*)<", source)]
    assert len(pieces) > 50
    for piece in pieces:
        assert piece in text


def test_the_table_of_spare_parts_is_in_order():
    assert list(PARTS[0]) == ["备件号", "名称", "适用型号", "价格（元）", "库存地"]
    numbers = [part["备件号"] for part in PARTS]
    assert len(set(numbers)) == len(numbers) >= 30
    letters = {"露露": "LP", "阿草": "AC", "小厨": "KC", "净净": "JD", "苗苗": "MG"}
    for part in PARTS:
        assert part["备件号"].startswith(letters[part["适用型号"][:2]] + "-"), part
        assert part["价格（元）"].isdecimal() and part["库存地"] in ("雾港", "松岬", "北屿"), part
    named = {number for page in PAGES for number in re.findall(r"[A-Z]{2}-\d{4}\b", page.text)} - {"M3-1908", "M3-2003"}
    assert named and named <= set(numbers)


# Facts that stand on more than one page

MODELS = {  # its page, kilograms, yuan, months of warranty in China, watt-hours
    "露露 L1": ("lulu-l1", "5.2", "1,299", "24", "46"),
    "露露 L2": ("lulu-l2", "6.8", "1,899", "24", "72"),
    "阿草 M3": ("acao-m3", "9.4", "3,599", "24", "130"),
    "阿草 M5": ("acao-m5", "12.1", "6,299", "36", "259"),
    "小厨 K2": ("chef-k2", "3.9", "899", "12", None),
    "小厨 K4": ("chef-k4", "8.6", "2,699", "18", None),
    "净净 D1": ("jing-d1", "1.4", "699", "12", "21"),
    "苗苗 G2": ("miao-g2", "7.5", "1,599", "24", None),
}
# Rows of a model's tables that its English page has too: the numbers in them are the same.
TRANSLATED = {
    "重量": "Weight",
    "功率": "Power",
    "噪声": "Noise",
    "充电": "Charging time",
    "电池": "Battery",
    "水箱": "Water tank",
    "续航": "Running time",
    "防水": "Protection",
    "一次割草": "One run",
    "最大坡度": "Steepest slope",
    "割草高度": "Cutting height",
    "炒锅": "Wok",
    "最高温度": "Highest temperature",
    "内置菜谱": "Built-in recipes",
    "株数": "Plants",
    "灯": "Lamp",
    "水槽": "Water",
    "生菜": "lettuce",
    "罗勒": "basil",
    "薄荷": "mint",
    "小番茄": "small tomatoes",
}
# A pattern finds every place that states the fact, its group is the value; at least so many files state it.
FACTS = [
    (r"400-\d{3}-\d{4}", "400-555-0312", 3),
    (r"(?:服务台|service desk)[^。.\n]{0,20}(?:分机|extension) (\d{4})", "6010", 3),
    (r"(?:拨打分机|call extension) (\d{4})", "6119", 2),
    (r"(?:内部火警分机|拨) (6\d{3})", "6000", 2),
    (r"(?:员工|makes) ([\d,]+) (?:人|people)", "1,120", 2),
    (r"听潮路 (\d+) 号", "88", 3),
    (r"(\d+) Tannery Lane", "14", 3),
    (r"(\d+) (?:个字符|characters)", "14", 2),
    (r"(?:每|every) (\d+) (?:天更换|days)", "180", 2),
    (r"太阳能板装机 ([\d.]+) 兆瓦", "1.8", 2),
    (r"单程 (\d+) 分钟", "55", 2),
    (r"(?:最长保存|where it is) (\d+) (?:个月|months)", "13", 2),
    (r"(?:可以邀请|增加到) (\d) 位", "6", 2),
    (r"(\d+) 元代金券", "30", 2),
    (r"(?:提高到|Lulu L2 waters up to) (\d+) (?:盆|pots)", "80", 2),
    (r"(?:安卓|由 8 提高到) (\d+)", "9", 2),
]


def rows(file: str) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cell."""
    cells = [line.strip("| ").split(" | ") for line in DOCUMENTS[file].text.split("\n") if line.startswith("| ")]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_the_same_on_every_page(model):
    page, weight, price, months, battery = MODELS[model]
    own = rows(f"zh/{page}.md")
    assert own["重量"] == [f"{weight} 公斤"] and own["价格"] == [f"{price} 元"]
    assert rows("zh/products.md")[model][1:4] == [f"{weight} 公斤", f"{price} 元", f"{months} 个月"]
    warranty = {"露露 L1": "露露 L1、L2", "露露 L2": "露露 L1、L2"}.get(model, model)
    assert rows("zh/warranty.md")[warranty][0] == f"{months} 个月"
    spare = [part["名称"] for part in PARTS if part["适用型号"] == model and part["名称"].startswith("电池")]
    assert spare == ([f"电池 {battery} Wh"] if battery else [])
    assert rows("zh/battery-safety.md").get(model) == ([f"{battery} Wh"] if battery else None)
    assert own.get("电池") in (None, [f"{battery} Wh"])
    if f"en/{page}.md" in DOCUMENTS:
        english = rows(f"en/{page}.md")
        both = {name: TRANSLATED[name] for name in own if TRANSLATED.get(name) in english}
        assert len(both) >= 5
        for name, translated in both.items():
            numbers = [re.findall(r"\d[\d,.]*", " ".join(row)) for row in (own[name], english[translated])]
            assert numbers[0] == numbers[1] != [], (name, numbers)


@pytest.mark.parametrize(("pattern", "value", "files"), FACTS)
def test_a_fact_is_the_same_wherever_it_stands(pattern, value, files):
    found = {file: set(re.findall(pattern, document.text)) for file, document in DOCUMENTS.items()}
    found = {file: values for file, values in found.items() if values}
    assert set().union(*found.values()) == {value}, found
    assert len(found) >= files, found


def test_the_codes_of_the_manual_are_those_of_the_service_page():
    codes = rows("zh/error-codes-garden.md")
    manual = re.findall(r"^(E\d\d) (\S+) (.+)$", DOCUMENTS["lulu-l2-manual.pdf"].text, re.M)
    assert len(manual) == 4
    for code, meaning, cure in manual:
        assert codes[code][1:] == [meaning, cure]


# The questions


def test_there_are_enough_questions_of_every_kind_in_both_splits():
    kinds = Counter(question.kind for question in QUESTIONS)
    floors = {"single": 60, "paraphrase": 60, "two_passages": 20, "unanswerable": 30, "english": 20}
    assert kinds.keys() == floors.keys() == set(KINDS)
    assert all(kinds[kind] >= floor for kind, floor in floors.items()) and len(QUESTIONS) >= 200, kinds
    dev = Counter(question.kind for question in QUESTIONS if question.split == "dev")
    assert dev.total() >= 80 and all(10 <= dev[kind] < kinds[kind] / 2 for kind in KINDS), dev


def test_each_passage_stands_in_its_file_and_holds_the_answer():
    for question in QUESTIONS:
        for evidence in question.evidence:
            assert evidence.passage in DOCUMENTS[evidence.file].text, question.id
        holds = [question.answer in evidence.passage for evidence in question.evidence]
        if question.kind == "two_passages":
            assert len(holds) == 2 and any(holds), question.id
        else:
            assert all(holds), question.id


def test_no_question_stands_twice():
    plain = Counter(re.sub(r"\W", "", question.question.lower()) for question in QUESTIONS)
    assert max(plain.values()) == 1, plain.most_common(3)


def test_paraphrases_share_few_words_with_their_passage():
    paraphrases = [question for question in QUESTIONS if question.kind == "paraphrase"]
    assert max(map(shared, paraphrases)) <= 0.25
    singles = [question for question in QUESTIONS if question.kind == "single"]
    assert mean(map(shared, paraphrases)) < mean(map(shared, singles)) / 4


def test_every_document_answers_a_question():
    used = {evidence.file for question in QUESTIONS for evidence in question.evidence}
    assert used == DOCUMENTS.keys()


def test_no_passage_of_dev_is_known_from_train():
    passages = {split: set() for split in ("train", "dev")}
    for question in QUESTIONS:
        passages[question.split] |= {(evidence.file, evidence.passage) for evidence in question.evidence}
    for file, passage in passages["dev"]:
        near = [other for name, other in passages["train"] if name == file and (other in passage or passage in other)]
        assert not near, (file, near)


# Broken files

GOOD = {
    "id": "q1",
    "question": "几点？",
    "answer": "九点",
    "evidence": [{"file": "a.md", "passage": "九点开门。"}],
    "kind": "single",
    "split": "dev",
}


def jsonl(path, *items):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "easy"}, "kind must be one of"),
        ({"split": "test"}, "split must be one of"),
        ({"question": " "}, "id and question must be text"),
        ({"id": 2}, "id and question must be text"),
        ({"answer": ""}, "the answer or a passage"),
        ({"evidence": []}, "the answer or a passage"),
        ({"kind": "two_passages"}, "the answer or a passage"),
        ({"kind": "unanswerable"}, "an unanswerable question has no answer"),
        ({"evidence": [{"file": "a.md"}]}, "evidence must be a list"),
        ({"evidence": "a.md"}, "evidence must be a list"),
        ({"note": "x"}, "the fields must be"),
        ({"id": "q1"}, "'q1' stands in line 1 too"),
        ({"question": "几点？"}, "stands in line 1 too"),
    ],
)
def test_a_broken_question_is_named_with_its_line(tmp_path, changes, reason):
    path = tmp_path / "questions.jsonl"
    second = GOOD | {"id": "q2", "question": "哪里？"}
    assert len(load_questions(jsonl(path, GOOD, second))) == 2
    with pytest.raises(CourseError) as caught:
        load_questions(jsonl(path, GOOD, second | changes))
    assert f"{path}, line 2: " in caught.value.text.en and reason in caught.value.text.en
    assert f"{path} 第 2 行" in caught.value.text.zh


def test_a_line_that_is_no_json_and_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "questions.jsonl"
    with pytest.raises(CourseError, match="cannot be read"):
        load_questions(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(CourseError, match="the file is empty"):
        load_questions(path)
    path.write_text("\n{'id': 1}\n", encoding="utf-8")
    with pytest.raises(CourseError, match=r"line 2: not JSON"):
        load_questions(path)


PAGE = "---\ntitle: T\nlanguage: zh\ncategory: it\nupdated: 2025-01-01\n---\n\n# T\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.md", b"---\ntitle: T\n", "a.md, line 1: what the page says about itself must end"),
        ("a.md", b"\n", "a.md, line 1: the page has no text"),
        ("a.md", PAGE.replace("zh", "fr").encode(), "a.md, line 3: 'language: fr'"),
        ("a.md", PAGE.replace("2025-01-01", "1.1.2025").encode(), "a.md, line 5: 'updated: 1.1.2025'"),
        ("a.md", PAGE.replace("category: it\n", "").encode(), "a.md, line 5: missing before this line: category"),
        ("a.md", PAGE.replace("# T\n", "").encode(), "a.md, line 6: the page has no text"),
        ("a.md", PAGE.encode() + "中文".encode("gb18030"), "a.md, line 9: not UTF-8"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv, line 3: 3 cells instead of 2"),
        ("a.csv", b"", "a.csv, line 1: the file is empty"),
        ("a.pdf", b"", "a.pdf is no PDF that can be read"),
        ("a.pdf", b"no pdf at all", "a.pdf is no PDF that can be read"),
        ("a.txt", b"", "holds no .md, .pdf or .csv file"),
    ],
)
def test_a_broken_document_is_named_with_its_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CourseError) as caught:
        load_handbook(tmp_path)
    assert reason in caught.value.text.en


@pytest.mark.parametrize(("name", "content", "title"), [("a.md", "before\n# T\n", "T"), ("a b.MD", "only text", "a b")])
def test_a_page_that_says_nothing_about_itself_is_read(tmp_path, name, content, title):
    (tmp_path / name).write_text(content, encoding="utf-8")
    (document,) = load_handbook(tmp_path)
    assert (document.title, document.text) == (title, content.strip())
    assert document.language == document.category == "" and document.updated is None and not document.injection


def test_the_case_of_an_ending_does_not_matter(tmp_path):
    (tmp_path / "a.CSV").write_text("part,price\npump,86\n", encoding="utf-8")
    (tmp_path / "b.PDF").write_bytes((HANDBOOK / "lulu-l2-manual.pdf").read_bytes())
    table, manual = load_handbook(tmp_path)
    assert [passage.text for passage in split_passages(table)] == ["a：part pump；price 86"]
    whole = DOCUMENTS["lulu-l2-manual.pdf"]
    assert [p.text for p in split_passages(manual)] == [p.text for p in split_passages(whole)]


def test_a_piece_holds_the_answer_or_all_of_the_evidence():
    document = Document("a.md", "T", "abcdefgh")
    pieces = [Passage("a.md", start, end, "") for start, end in [(0, 3), (2, 6), (5, 8)]]
    held = {answer: [holds(piece, Evidence("a.md", "cdef"), document, answer) for piece in pieces] for answer in "dx"}
    assert held == {"d": [False, True, False], "x": [False, True, False]}
    assert [holds(piece, Evidence("a.md", "bcdef"), document, "x") for piece in pieces] == [False] * 3
    assert not holds(pieces[1], Evidence("b.md", "cdef"), document, "d")


def test_a_page_in_windows_style_is_read(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf" + PAGE.replace("\n", "\r\n").encode())
    (document,) = load_handbook(tmp_path)
    assert document.text == "# T" and document.updated.year == 2025 and not document.injection


def test_a_scanned_pdf_is_sent_to_text_recognition(tmp_path):
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "scan.pdf")
    with pytest.raises(CourseError, match="no text; run it through text recognition"):
        load_handbook(tmp_path)
