"""All stages from a seed to a checkpoint folder, with one command:

    python -m training.train --out runs/embedded --seed 0 --minutes 90 [--resume]

The stages share the minutes: the picture tokenizer's coarse decoder, the whole picture tokenizer, the joint model.
Each writes its state every two minutes; --resume skips finished stages and goes on in the unfinished one. Uses a GPU
where torch has one. The checkpoint is written to OUT/checkpoint, also in the middle of things by
`python -m training.export`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training import joint, picture_tokenizer
from training.export import export

SHARES = {"coarse": 0.15, "pictures": 0.3, "joint": 0.55}


def run(out: Path, minutes: float, seed: int, resume: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    log = out / "stages.json"
    finished: list[str] = json.loads(log.read_text("utf-8")) if resume and log.exists() else []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = out / "pictures.pt"
    for stage, share in SHARES.items():
        if stage in finished:
            continue
        print(f"stage {stage}: {minutes * share:.0f} minutes on {device}", flush=True)
        if stage == "joint":
            joint.train(
                joint.options(
                    ["--out", str(out), "--minutes", str(minutes * share), "--seed", str(seed)]
                    + (["--resume"] if resume else [])
                )
            )
        else:
            coarse = stage == "coarse"
            picture_tokenizer.train(
                pictures,
                minutes * share,
                batch=16 if coarse else 6,
                seed=seed,
                resume=resume or not coarse,
                device=device,
                lr=3e-3 if coarse else 2e-3,
                low=coarse,
                encode_every=2,
            )
        finished.append(stage)
        log.write_text(json.dumps(finished), "utf-8")
    export(out, pictures, out / "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90, help="for all stages together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    run(args.out, args.minutes, args.seed, args.resume)


if __name__ == "__main__":
    main()
