"""What a chat stand-in can do on held-out items: the abilities of its card."""

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from course_utils import runtime
from course_utils.chatglm.tokenization import ChatGLMTokenizer
from course_utils.datasets import load_labelled
from course_utils.metrics import wilson_interval
from course_utils.standins import smalltalk, tasks
from course_utils.standins.tasks import Conversation

SEED = 20241122


@dataclass(frozen=True)
class Ability:
    """One row of the card: how many of the items were answered right, and how many should be."""

    name: str
    right: int
    total: int
    floor: float


def answers(model: PreTrainedModel, tokenizer: ChatGLMTokenizer, conversations: list[Conversation]) -> list[str]:
    """Greedy answers to the last question of each conversation, in batches of about equal length."""
    prompts = []
    for conversation in conversations:
        messages = []
        for question, answer in conversation[:-1]:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompts.append([*messages, {"role": "user", "content": conversation[-1][0]}])
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: sum(len(message["content"]) for message in prompts[i]))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        batch = tokenizer.apply_chat_template(
            [prompts[i] for i in chosen], add_generation_prompt=True, padding=True, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            out = model.generate(
                **batch,
                max_new_tokens=64,
                do_sample=False,
                eos_token_id=tokenizer.stop_ids,
                pad_token_id=tokenizer.pad_token_id,
            )
        for i, ids in zip(chosen, out[:, batch["input_ids"].shape[1] :], strict=True):
            found[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return found


def same(answer: str, wanted: str) -> bool:
    """Whether two answers are equal but for spaces and a full stop."""
    return answer.replace(" ", "").rstrip("。.") == wanted.replace(" ", "").rstrip("。.")


def held_out() -> dict[str, tuple[float, list[Conversation]]]:
    """The items of every ability with its floor; the last answer of a conversation is the right one."""
    rng = random.Random(SEED)
    questions = [question for question in tasks.load_questions_of("dev") if question.evidence]
    return {
        "facts": (0.95, [tasks.facts(rng, "heldout", answerable=1) for _ in range(400)]),
        "unanswerable": (0.90, [tasks.facts(rng, "heldout", answerable=0) for _ in range(200)]),
        "handbook": (0.60, [handbook_item(question) for question in questions]),
        "few_shot": (0.90, few_shot_items(rng, tasks.FINANCE)),
        "few_shot_new_names": (0.75, few_shot_items(rng, None)),
        "chat": (0.90, chat_items(rng)),
        "history": (0.90, [tasks.history(rng, "heldout", between=(1,)) for _ in range(200)]),
    }


def handbook_item(question: tasks.Question) -> Conversation:
    """A question of the handbook behind the passages that answer it."""
    passages = question.evidence if question.kind == "two_passages" else question.evidence[:1]
    language = "en" if question.kind == "english" else "zh"
    facts = [evidence.passage for evidence in passages]
    return [(tasks.known_information(facts, question.question, language), question.answer)]


def few_shot_items(rng: random.Random, names: list[str] | None) -> list[Conversation]:
    """Every test text behind one example of each class, from dev; without names, under names drawn anew."""
    texts = load_labelled(runtime.DATA / "finance_texts.jsonl")
    examples = {
        label: [item.text for item in texts if item.label == label and item.split == "dev"] for label in tasks.FINANCE
    }
    items = []
    for item in (item for item in texts if item.split == "test"):
        shown = names or tasks.draw_labels(rng, "heldout", len(tasks.FINANCE))
        called = dict(zip(tasks.FINANCE, shown, strict=True))
        pairs = [(rng.choice(examples[label]), called[label]) for label in tasks.FINANCE]
        rng.shuffle(pairs)
        conversation = tasks.few_shot([called[label] for label in tasks.FINANCE], pairs, item.text)
        items.append([*conversation[:-1], (conversation[-1][0], called[item.label])])
    return items


def chat_items(rng: random.Random) -> list[Conversation]:
    """Every held-out wording of small talk, and two of every concept."""
    items = []
    for wordings, answer in smalltalk.topics("heldout"):
        chosen = wordings if len(wordings) < 4 else rng.sample(wordings, 2)
        items += [[(smalltalk.finished(wording), answer)] for wording in chosen]
    return items


def measure(
    model: PreTrainedModel, tokenizer: ChatGLMTokenizer, name: str, items: list[Conversation], floor: float = 0.0
) -> Ability:
    """Ask the last question of every item, greedily, and count exact answers."""
    given = answers(model, tokenizer, items)
    right = sum(same(answer, item[-1][1]) for answer, item in zip(given, items, strict=True))
    return Ability(name, right, len(items), floor)


def abilities(model: PreTrainedModel, tokenizer: ChatGLMTokenizer) -> list[Ability]:
    """Every row of the card of chatglm3-tiny."""
    return [measure(model, tokenizer, name, items, floor) for name, (floor, items) in held_out().items()]


NAMES = {
    "facts": "answer from one to four given facts about unseen names, exact",
    "unanswerable": "say 根据已知信息无法回答 when the facts do not hold the answer",
    "handbook": "answer from real handbook passages (questions of dev)",
    "few_shot": "few-shot classification, the four classes of the course",
    "few_shot_new_names": "the same with class names it never saw",
    "chat": "chat: small talk, the course and itself, in held-out wordings",
    "history": "keep to the history: something said two rounds before",
    "one fact": "answer from one given fact about an unseen name, exact",
    "short history": "keep to the history: something said one round before",
}


def card(found: list[Ability]) -> str:
    """The abilities as a Markdown table, with Wilson's 95 % interval."""
    lines = ["| ability | right | share | 95 % interval | floor |", "|---|---|---|---|---|"]
    for ability in found:
        low, high = wilson_interval(ability.right, ability.total)
        share = ability.right / ability.total
        floor = f"{ability.floor:.0%}" if ability.floor else "–"
        counted = f"{ability.right} of {ability.total} | {share:.1%} | {low:.1%}–{high:.1%}"
        lines.append(f"| {NAMES[ability.name]} | {counted} | {floor} |")
    return "\n".join(lines)
