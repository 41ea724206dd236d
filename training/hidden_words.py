"""Captions in which one word cannot be read, so that what a thing is does not depend on the colour asked for.

Some pairs of a thing and a colour never occur in training, and a model learns that they exclude each other: asked for
an orange car, Janus drew an orange flower. Where random numbers stand in place of a colour's word, the thing has to be
drawn whatever they are, and so it is with an orange car, too. The same holds for the colour where the word for the
thing is hidden. What a hidden word would have said is not learned from such a caption.

Random numbers are far from every word, and a model may still exclude a thing where the numbers are near those of
"orange". So in half of these captions a blend of two words of the same sort takes the word's place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.objects import N_COLOURS, N_THINGS
from training.world import PARTS


@dataclass(frozen=True)
class Known:
    """What can be known of the cells of pictures: kind and colour [n, 36], background [n, 36]; all bool."""

    kind: Tensor
    colour: Tensor
    ground: Tensor

    def of(self, rows: Tensor) -> Known:
        """That of some of the pictures."""
        return Known(self.kind[rows], self.colour[rows], self.ground[rows])


def meanings_of(names: Tensor, vocabulary: int) -> Tensor:
    """[vocabulary]: the index of the thing, or N_THINGS + that of the colour, that each token names, or -1.

    names [N_THINGS + N_COLOURS, words]: token ids (`batches.names_of`). A token that names a thing names no colour.
    """
    meanings = torch.full((vocabulary,), -1)
    for index in reversed(range(N_THINGS + N_COLOURS)):
        meanings[names[index]] = index
    return meanings


def hide(embeds: Tensor, ids: Tensor, meanings: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Replace one word for a thing or a colour by random numbers or a blend of two others in a `share` of captions.

    embeds [n, L, width] of ids [n, L]; meanings [vocabulary] (`meanings_of`). Returns the embeddings and the meaning
    hidden in each caption [n], -1 where none is. A word that occurs twice is hidden twice.
    """
    meant = meanings[ids]
    chosen = (torch.rand(meant.shape, device=ids.device) * (meant >= 0)).argmax(1, keepdim=True)
    hidden = meant.gather(1, chosen)[:, 0]
    hidden = torch.where(torch.rand(len(ids), device=ids.device) < share, hidden, -1)
    places = (meant == hidden[:, None]) & (hidden >= 0)[:, None]
    noise = torch.randn_like(embeds) * embeds.detach().std() * (0.5 + torch.rand(len(ids), 1, 1, device=ids.device))
    blend, found = blends(embeds, meant, hidden)
    blended = found & (torch.rand(len(ids), device=ids.device) < 0.5)
    unread = torch.where(blended[:, None, None], blend[:, None], noise)
    return torch.where(places[..., None], unread, embeds), hidden


def blends(embeds: Tensor, meant: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """For each caption a blend [n, width] of two words of the batch, of the sort of what is `hidden` [n] in it.

    embeds [n, L, width]; meant [n, L]: what each token names. The two differ from each other and from what is hidden,
    so that no pair that is held out is ever seen. Also returns where there are two such words [n].
    """
    meant = meant.flatten()
    fits = (meant >= 0) & ((meant >= N_THINGS) == (hidden >= N_THINGS)[:, None]) & (meant != hidden[:, None])
    one = torch.multinomial(fits + 1e-9, 1)
    fits &= meant != meant[one]
    other = torch.multinomial(fits + 1e-9, 1)
    words = embeds.detach().flatten(0, 1)[torch.cat([one, other], dim=1)]
    share = 0.3 + 0.4 * torch.rand(len(one), 1, device=one.device)
    return words[:, 0].lerp(words[:, 1], share), fits.any(1)


def known(hidden: Tensor, truth: Tensor) -> Known:
    """What is known of the pictures with tiles `truth` [n, 36, 3] where the meanings `hidden` [n] cannot be read.

    A colour's word may have been the background's, so the background is not known either.
    """
    hidden = hidden[:, None]
    thing = torch.where(truth[..., 0] > 0, (truth[..., 0] - 1) // PARTS, -1)
    coloured = hidden >= N_THINGS
    same = coloured & (thing >= 0) & (truth[..., 1] == hidden - N_THINGS)
    return Known((thing != hidden) | (thing < 0), ~same, ~coloured.expand_as(thing))
