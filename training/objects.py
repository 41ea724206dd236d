"""What exists in the picture world: objects, colours, backgrounds and places, with their words."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Thing:
    """An object: its English noun and plural, its Chinese noun and counting word, other nouns understood for it."""

    name: str
    plural: str
    zh: str
    measure: str
    icon: str = ""  # name in the icon set; empty = a plain shape drawn by code
    aliases: tuple[str, ...] = ()


THINGS: tuple[Thing, ...] = (
    Thing("cat", "cats", "猫", "只", "cat-face", ("kitten", "小猫")),
    Thing("dog", "dogs", "狗", "只", "dog-face", ("puppy", "小狗")),
    Thing("rabbit", "rabbits", "兔子", "只", "rabbit-face", ("bunny",)),
    Thing("bear", "bears", "熊", "只", "bear"),
    Thing("frog", "frogs", "青蛙", "只", "frog"),
    Thing("fish", "fish", "鱼", "条", "fish"),
    Thing("bird", "birds", "鸟", "只", "baby-chick", ("chick", "小鸟")),
    Thing("turtle", "turtles", "乌龟", "只", "turtle"),
    Thing("butterfly", "butterflies", "蝴蝶", "只", "butterfly"),
    Thing("bee", "bees", "蜜蜂", "只", "honeybee"),
    Thing("apple", "apples", "苹果", "个", "red-apple"),
    Thing("banana", "bananas", "香蕉", "根", "banana"),
    Thing("tree", "trees", "树", "棵", "deciduous-tree"),
    Thing("flower", "flowers", "花", "朵", "tulip", ("tulip",)),
    Thing("house", "houses", "房子", "座", "house", ("home",)),
    Thing("car", "cars", "汽车", "辆", "automobile", ("automobile", "车")),
    Thing("bus", "buses", "公交车", "辆", "bus"),
    Thing("rocket", "rockets", "火箭", "枚", "rocket"),
    Thing("boat", "boats", "船", "艘", "sailboat", ("ship", "帆船")),
    Thing("balloon", "balloons", "气球", "个", "balloon"),
    Thing("umbrella", "umbrellas", "雨伞", "把", "umbrella", ("伞",)),
    Thing("key", "keys", "钥匙", "把", "key"),
    Thing("bell", "bells", "铃铛", "个", "bell"),
    Thing("crown", "crowns", "皇冠", "顶", "crown"),
    Thing("cup", "cups", "杯子", "个", "teacup-without-handle", ("mug",)),
    Thing("guitar", "guitars", "吉他", "把", "guitar"),
    Thing("circle", "circles", "圆形", "个"),
    Thing("square", "squares", "正方形", "个"),
    Thing("triangle", "triangles", "三角形", "个"),
    Thing("star", "stars", "星星", "颗"),
    Thing("heart", "hearts", "爱心", "颗"),
    Thing("diamond", "diamonds", "菱形", "个"),
)
N_THINGS = len(THINGS)
FIRST_SHAPE = next(i for i, t in enumerate(THINGS) if not t.icon)
INDEX = {t.name: i for i, t in enumerate(THINGS)}


@dataclass(frozen=True)
class Colour:
    """A colour word and the three stops (dark, middle, light) an icon's brightness is mapped onto."""

    name: str
    zh: str
    ramp: tuple[RGB, RGB, RGB]


# Colour 0 is "as it is": icons keep their own colours, plain shapes are grey; captions say no colour word then.
COLOURS: tuple[Colour, ...] = (
    Colour("", "", ((30, 30, 34), (98, 100, 108), (190, 192, 198))),
    Colour("red", "红", ((88, 0, 10), (226, 28, 38), (255, 178, 176))),
    Colour("orange", "橙", ((110, 44, 0), (250, 130, 14), (255, 214, 160))),
    Colour("yellow", "黄", ((122, 92, 0), (250, 212, 20), (255, 246, 184))),
    Colour("green", "绿", ((0, 62, 22), (24, 160, 62), (172, 236, 182))),
    Colour("blue", "蓝", ((6, 18, 104), (30, 84, 224), (166, 196, 255))),
    Colour("purple", "紫", ((50, 0, 84), (138, 44, 196), (222, 182, 246))),
    Colour("pink", "粉", ((150, 14, 86), (252, 96, 170), (255, 214, 236))),
)
N_COLOURS = len(COLOURS)


@dataclass(frozen=True)
class Background:
    """A scene behind the objects (`pictures.scene_table`): its colour and the ways to ask for it.

    `phrases` name the colour, `scenes` the place or time; in Chinese these take different words around them.
    """

    name: str
    zh: str
    phrases: tuple[str, ...]
    zh_phrases: tuple[str, ...]
    scenes: tuple[str, ...]
    zh_scenes: tuple[str, ...]


BACKGROUNDS: tuple[Background, ...] = (
    Background(
        "white",
        "白色",
        ("on a white background", "on white"),
        ("白色背景", "白色的背景"),
        ("in the snow", "on snow"),
        ("雪地里", "雪地上", "雪中"),
    ),
    Background(
        "light blue",
        "浅蓝色",
        ("on a light blue background", "on a blue background", "on light blue"),
        ("浅蓝色背景", "蓝色背景", "浅蓝色的背景"),
        ("in the sky",),
        ("天空中", "天上", "空中"),
    ),
    Background(
        "yellow",
        "黄色",
        ("on a yellow background", "on a pale yellow background"),
        ("黄色背景", "浅黄色背景", "黄色的背景"),
        ("on the beach", "on sand"),
        ("沙滩上", "海滩上", "海边"),
    ),
    Background(
        "dark",
        "深色",
        ("on a dark background", "on a black background"),
        ("深色背景", "黑色背景", "深色的背景"),
        ("at night", "in the dark"),
        ("夜晚", "夜里", "夜空中", "晚上"),
    ),
)
N_BACKGROUNDS = len(BACKGROUNDS)

# The nine slots in raster order: names as answers give them, then other ways to say the same.
PLACES: tuple[tuple[str, ...], ...] = (
    ("in the top left corner", "in the upper left corner", "at the top left", "in the top-left corner"),
    ("at the top", "in the top middle", "at the top in the middle"),
    ("in the top right corner", "in the upper right corner", "at the top right", "in the top-right corner"),
    ("on the left", "on the left side", "at the left"),
    ("in the centre", "in the middle", "in the center"),
    ("on the right", "on the right side", "at the right"),
    ("in the bottom left corner", "in the lower left corner", "at the bottom left", "in the bottom-left corner"),
    ("at the bottom", "in the bottom middle", "at the bottom in the middle"),
    ("in the bottom right corner", "in the lower right corner", "at the bottom right", "in the bottom-right corner"),
)
PLACES_ZH: tuple[tuple[str, ...], ...] = (
    ("左上角",),
    ("上方", "上边"),
    ("右上角",),
    ("左边", "左侧"),
    ("中间", "中央"),
    ("右边", "右侧"),
    ("左下角",),
    ("下方", "下边"),
    ("右下角",),
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBERS_ZH = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九")


def held_out_pairs() -> frozenset[tuple[int, int]]:
    """(thing, colour) pairs the language model never sees: about a tenth of the tinted ones, three or four a colour."""
    keep = {("frog", "green"), ("house", "red")}  # people type "a green frog" and "a red house" first, so these stay in
    pairs = {(t, c) for t in range(N_THINGS) for c in range(1, N_COLOURS) if (t * 3 + c * 7) % 11 == 4}
    return frozenset(p for p in pairs if (THINGS[p[0]].name, COLOURS[p[1]].name) not in keep)


HELD_OUT_PAIRS = held_out_pairs()


def held_out_order(first: int, second: int) -> bool:
    """Ordered pairs of different things that never stand together in training: about one in thirteen."""
    return first != second and (first * 7 + second * 11) % 13 == 5
