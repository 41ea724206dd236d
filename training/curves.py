"""Draw the curves of a trainer's log, which holds all its runs, as a picture: a panel for each number.

python -m training.joint --out runs/joint --minutes 60 --resume >> runs/joint.log
python -m training.curves runs/joint.log --out training/curves/joint.svg --numbers which,hue,words
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

Curves = dict[str, dict[int, float]]  # number -> step -> value

_LINE = re.compile(r"step (\d+) [\d.]+ min (.*)")
_NUMBER = re.compile(r"(\S[^\d]*?) (-?\d+\.\d+)(?: |$)")
_RESUMED = re.compile(r"resumed at step (\d+)")
COLUMNS = 4


def read_log(text: str) -> Curves:
    """The curves in a log as `trainer.Run` writes it. What came after the state that a later run resumed is dropped."""
    curves: Curves = {}
    for line in text.splitlines():
        if resumed := _RESUMED.fullmatch(line):
            at = int(resumed[1])
            curves = {name: {s: v for s, v in curve.items() if s <= at} for name, curve in curves.items()}
        elif logged := _LINE.fullmatch(line):
            for name, value in _NUMBER.findall(logged[2]):
                curves.setdefault(name, {})[int(logged[1])] = float(value)
    return curves


def draw(curves: Curves, out: Path) -> None:
    """Write the picture in the format that the name of `out` says."""
    import matplotlib

    matplotlib.use("Agg")
    # The same curves give the same file; its letters stay letters.
    matplotlib.rcParams.update({"svg.hashsalt": "curves", "svg.fonttype": "none"})
    from matplotlib import pyplot

    rows = -(-len(curves) // COLUMNS)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=(3 * COLUMNS, 2.2 * rows), squeeze=False)
    for panel in panels.flat[len(curves) :]:
        panel.remove()
    for panel, (name, curve) in zip(panels.flat, curves.items(), strict=False):
        panel.plot(list(curve), list(curve.values()), color="#0f766e", linewidth=1.2)
        if 0 < 10 * min(curve.values()) < max(curve.values()):
            panel.set_yscale("log")
            panel.minorticks_off()
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--numbers", help="only these, with commas")
    args = parser.parse_args()
    curves = read_log(args.log.read_text("utf-8"))
    names = args.numbers.split(",") if args.numbers else list(curves)
    if missing := [name for name in names if name not in curves]:
        parser.error(f"the log has no {', '.join(missing)}; it has {', '.join(curves) or 'no numbers'}")
    draw({name: curves[name] for name in names}, args.out)


if __name__ == "__main__":
    main()
