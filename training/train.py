"""All stages from a seed to a checkpoint folder, with one command:

    python -m training.train --out runs/embedded --seed 0 --minutes 90 [--resume]

The stages share the minutes: the picture tokenizer's coarse decoder, the whole picture tokenizer, the joint model;
then JanusFlow's autoencoder, and its flow, which begins where the joint model ended. Each writes its state every two
minutes; --resume skips finished stages and goes on in the unfinished one. Uses a GPU where torch has one. The
checkpoints are written to OUT/checkpoint and OUT/flow_checkpoint, also in the middle of things by
`python -m training.export` and `python -m training.flow_export`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training import flow, flow_vae, joint, picture_tokenizer
from training.export import export
from training.flow_export import export as export_flow

SHARES = {"coarse": 0.08, "pictures": 0.16, "joint": 0.4, "autoencoder": 0.16, "flow": 0.2}


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
        common = ["--minutes", str(minutes * share), "--seed", str(seed), *(["--resume"] if resume else [])]
        if stage == "joint":
            joint.train(joint.options(["--out", str(out), *common]))
        elif stage == "autoencoder":
            flow_vae.train(flow_vae.options(["--out", str(out / "vae.pt"), *common]))
        elif stage == "flow":
            flow.train(flow.options(["--joint", str(out), "--out", str(out / "flow"), *common]))
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
    export_flow(out / "flow", out / "vae.pt", out / "flow_checkpoint")


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
