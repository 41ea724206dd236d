"""All stages from a seed to a checkpoint folder, with one command:

    python -m training.train --out runs/embedded --seed 0 --minutes 90 [--resume]

The stages share the minutes: the picture tokenizer's coarse decoder, the whole picture tokenizer, the joint model, then
JanusFlow's autoencoder and its flow, which begins with the joint model's weights. Each saves its state every two
minutes; --resume skips finished stages and continues the unfinished one. A GPU is used where PyTorch has one.

The checkpoints are written to OUT/checkpoint and OUT/flow_checkpoint. `python -m training.export` and
`python -m training.flow_export` write them from a state at any time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

from training import flow, flow_vae, joint, picture_tokenizer
from training.export import export
from training.flow_export import export as export_flow

SHARES = {"coarse": 0.08, "pictures": 0.16, "joint": 0.4, "autoencoder": 0.16, "flow": 0.2}


def run(out: Path, minutes: float, seed: int, resume: bool) -> None:
    """Run the stages that are not finished, then write both checkpoints."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "stages.json"
    finished: list[str] = json.loads(log.read_text("utf-8")) if resume and log.exists() else []
    pictures, vae = out / "pictures.pt", out / "vae.pt"
    encoding = ["--out", str(pictures), "--encode-every", "2"]
    stages: dict[str, tuple[ModuleType, list[str]]] = {
        "coarse": (picture_tokenizer, [*encoding, "--low", "--batch", "16"]),
        "pictures": (picture_tokenizer, [*encoding, "--resume", "--batch", "6", "--lr", "2e-3"]),
        "joint": (joint, ["--out", str(out)]),
        "autoencoder": (flow_vae, ["--out", str(vae)]),
        "flow": (flow, ["--joint", str(out), "--out", str(out / "flow")]),
    }
    for stage, (trainer, arguments) in stages.items():
        if stage in finished:
            continue
        spend = minutes * SHARES[stage]
        print(f"stage {stage}: {spend:.0f} minutes", flush=True)
        common = ["--minutes", str(spend), "--seed", str(seed), *(["--resume"] if resume else [])]
        trainer.train(trainer.options([*arguments, *common]))
        finished.append(stage)
        log.write_text(json.dumps(finished), "utf-8")
    export(out, pictures, out / "checkpoint")
    export_flow(out / "flow", vae, out / "flow_checkpoint")


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
