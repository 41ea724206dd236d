"""Pictures as every tab shows them: one large, the others in runs, and what can be done with them.

`picture_wall(page, tab)` builds a `PictureWall` for the tab whose element ids begin with `tab`:

    wall = picture_wall(page, "draw")        # inside the column where the chosen picture is shown large
    wall.build_details(page, "draw")         # further down: its metadata, behind a disclosure
    wall.build_runs()                        # all pictures in runs, newest first, under their prompts
    wall.wire(page)                          # a click on a picture chooses it; returns the events after that

`wall.items` (State) holds the SavedImages, newest job first, and `wall.chosen` (State) the number of one of them. A
handler returns `wall.show(page, items, index, language)` for other pictures and `wall.choose(...)` for another chosen
one, with `wall.all` or `wall.choosing` among its outputs. `wall.source` is the chosen picture for
`picture_links.build`, which attaches the verbs.

`action_row` (actions.py) is the row of verbs alone: Edit, Ask, Vary and Save with icons, and a menu "..."; in its
column, a wall's `menu`, more buttons can be built `with menu:`.

Everywhere else `figure(...)` gives the HTML of a large picture and `tile(...)` of a small one. Whatever has `data-full`
(the address of the whole picture), `data-width`, `data-height` and `data-enlarge` opens in the lightbox
(assets/page/pictures.js); the arrow keys step through the pictures of the same tab. A gr.HTML with such pictures needs
`html_template=ADDRESSED`, because a page may be served under a sub-path: `address(file)` is the address of a served
file in such a component.
"""

from __future__ import annotations

from janus_app.ui.common.pictures.markup import ADDRESSED, PICKED, address, figure, tile
from janus_app.ui.common.pictures.wall import MAX_ITEMS, PictureWall, newest_first, picture_wall

__all__ = [
    "ADDRESSED",
    "MAX_ITEMS",
    "PICKED",
    "PictureWall",
    "address",
    "figure",
    "newest_first",
    "picture_wall",
    "tile",
]
