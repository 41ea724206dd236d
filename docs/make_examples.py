"""Draw assets/drawn/ anew: the picture that the draw tab shows before anything is drawn, for each embedded model.

    python docs/make_examples.py

The seeds are fixed, so the pictures change only when the weights do. Look at each: it must show its prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

EXAMPLES = (  # variant, language, prompt, seed
    ("janus-embedded", "en", "two green frogs to the left of a red house", 2),
    ("janus-embedded", "zh-CN", "红色的房子左边有两只绿色的青蛙", 2),
    ("janusflow-embedded", "en", "an orange fish in the top left corner on a light blue background", 1),
    ("janusflow-embedded", "zh-CN", "左上角有一颗黄色的星星", 1),
    ("metaquery-embedded", "en", "a green frog on the left and a red house on the right", 1),
    ("metaquery-embedded", "zh-CN", "一座红色的房子", 1),
    ("metamorph-embedded", "en", "a green frog in the top left corner", 1),
    ("metamorph-embedded", "zh-CN", "一只绿色的青蛙", 1),
    ("pisces-embedded", "en", "a green frog in the top left corner", 1),
    ("pisces-embedded", "zh-CN", "一只绿色的青蛙", 1),
    ("transfusion-embedded", "en", "a green frog in the top left corner", 1),
    ("transfusion-embedded", "zh-CN", "一只绿色的青蛙", 1),
    ("lmfusion-embedded", "en", "a green frog in the top left corner", 1),
    ("lmfusion-embedded", "zh-CN", "一只绿色的青蛙", 1),
    ("llavafusion-embedded", "en", "a green frog in the top left corner", 1),
    ("llavafusion-embedded", "zh-CN", "一只绿色的青蛙", 1),
)


def main() -> None:
    from janus_app.hub import Hub
    from janus_app.outputs.metadata import metadata_of
    from janus_app.outputs.store import save_picture
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import Finished, GenerateRequest, drain
    from janus_app.workflows.settings import generate_settings

    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    for name, language, prompt, seed in EXAMPLES:
        if session.state.variant_id != name:
            drain(session.load(name, device="cpu"))
        request = GenerateRequest(prompt=prompt, **generate_settings({"seed": seed}, catalog[name]))
        (finished,) = (event for event in session.run(request) if isinstance(event, Finished))
        assert finished.provenance is not None
        (picture,) = finished.pictures
        file = ROOT / "assets" / "drawn" / f"{name}.{language}.png"
        file.unlink(missing_ok=True)
        save_picture(file, picture.image, metadata_of(picture, finished.provenance))
        print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
