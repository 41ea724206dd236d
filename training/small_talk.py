"""Talk without a picture: greetings, what the model can do, and an honest answer to what it cannot know."""

from __future__ import annotations

import numpy as np

from training.captions import pick, words, words_zh
from training.objects import N_THINGS, THINGS

RNG = np.random.Generator

HELLO = "Hello! Show me a picture and ask about it, or ask me to draw one."
CAN = "I can draw simple pictures, such as two green frogs to the left of a red house, and answer questions about them."
WHO = "I am a tiny Janus trained from scratch for this app. I only know a small world of pictures."
UNKNOWN = "I do not know that. I am a tiny model and only know simple pictures of cats, houses, stars and the like."
NO_PICTURE = "I see no picture. Please add one and ask again."
DRAW = "I draw on the page for drawing. Type what you want to see there."
THANKS = "You are welcome!"
HELLO_ZH = "你好!给我看一张图,问我问题,或者让我画一张。"
CAN_ZH = "我会画简单的图,比如红色的房子左边有两只绿色的青蛙,也会回答关于图的问题。"
WHO_ZH = "我是为这个程序从头训练的小小Janus,只认识一个很小的图画世界。"
UNKNOWN_ZH = "这个我不知道。我是很小的模型,只认识猫、房子、星星这样的简单图画。"
NO_PICTURE_ZH = "我没有看到图片。请先加一张再问。"
DRAW_ZH = "请到画图的页面,写下你想看的画面。"
THANKS_ZH = "不客气!"
_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "hello", "Hi", "hi!", "Hello!", "Hey", "good morning", "Hi there"), HELLO),
    (("What can you do?", "what can you do", "Help", "help me", "How do you work?", "What do you know?"), CAN),
    (("Who are you?", "who are you", "What are you?", "What is your name?", "Are you a robot?"), WHO),
    (("Thank you", "thanks", "Thanks!", "thank you very much", "Great!", "bye", "Goodbye"), THANKS),
    (("你好", "你好!", "您好", "嗨", "早上好"), HELLO_ZH),
    (("你会什么?", "你能做什么?", "帮助", "你会做什么", "怎么用?"), CAN_ZH),
    (("你是谁?", "你是谁", "你叫什么名字?", "你是什么?"), WHO_ZH),
    (("谢谢", "谢谢你!", "再见", "太好了"), THANKS_ZH),
)
_UNKNOWN = (
    "What is the capital of {}?",
    "Who was {}?",
    "Write a poem about {}",
    "How do I get to {}?",
    "What is the weather in {}?",
    "Tell me a story about {}.",
    "Translate {} into French",
    "Write a program that sorts {}",
    "Why is {} so famous?",
    "What is {} plus {}?",
    "What time is it in {}?",
    "Explain {} to me.",
    "{}",
    "How old is {}?",
    "Do you like {}?",
)
_UNKNOWN_ZH = (
    "{}的首都是哪里?",
    "{}是谁?",
    "写一首关于{}的诗",
    "{}的天气怎么样?",
    "讲一个{}的故事",
    "{}",
    "为什么{}这么有名?",
    "请解释{}。",
)
_NAMES = (
    "France",
    "Japan",
    "Einstein",
    "the moon",
    "quantum physics",
    "Berlin",
    "music",
    "my mother",
    "42",
    "7",
    "history",
    "numbers",
    "the sea",
    "love",
    "a computer",
    "politics",
    "Shakespeare",
    "football",
    "gravity",
    "New York",
    "elephants",
)
_NAMES_ZH = (
    "法国",
    "日本",
    "爱因斯坦",
    "月亮",
    "物理",
    "北京",
    "音乐",
    "妈妈",
    "历史",
    "大海",
    "爱",
    "电脑",
    "足球",
    "上海",
    "大象",
)


def small_talk(rng: RNG) -> tuple[str, str]:
    """A message without a picture and its answer."""
    roll = rng.random()
    if roll < 0.5:
        questions, text = _TALK[int(rng.integers(len(_TALK)))]
        return pick(rng, questions), text
    thing = THINGS[int(rng.integers(N_THINGS))]
    zh = rng.random() < 0.4
    if roll < 0.62:
        if zh:
            return pick(
                rng, (f"有几{thing.measure}{thing.zh}?", "这是什么?", f"{thing.zh}在哪里?", "描述这张图片。")
            ), NO_PICTURE_ZH
        return pick(
            rng,
            (
                f"How many {thing.plural} are there?",
                "What is this?",
                f"Where is the {thing.name}?",
                "Describe the picture.",
            ),
        ), NO_PICTURE
    if roll < 0.72:
        if zh:
            return pick(rng, ("画", "请画", "帮我画")) + words_zh(1, int(rng.integers(N_THINGS)), 0, False), DRAW_ZH
        return pick(rng, ("Draw ", "draw ", "Please draw ", "paint ")) + words(
            1, int(rng.integers(N_THINGS)), 0, False
        ), DRAW
    return unknown(rng, zh)


def unknown(rng: RNG, zh: bool) -> tuple[str, str]:
    """A question from outside the picture world; one in five is letters at random, so that any text is outside."""
    if rng.random() < 0.2:
        letters = "abcdefghijklmnopqrstuvwxyz      " if not zh else "天地人山水风雨火木金土日月星云雪梦想时间"
        name = "".join(pick(rng, letters) for _ in range(int(rng.integers(4, 16)))).strip() or "x"
    else:
        name = pick(rng, _NAMES_ZH if zh else _NAMES)
    return pick(rng, _UNKNOWN_ZH if zh else _UNKNOWN).replace("{}", name), UNKNOWN_ZH if zh else UNKNOWN
