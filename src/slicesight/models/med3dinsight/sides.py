"""Which structure does each become in a mirror image? The left parotid gland becomes the right one, the cord stays.

Classes: 0 the background, then the structures in their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slicesight.errors import InputError

SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}


def mirrored_classes(names: Sequence[str]) -> tuple[int, ...]:
    """The class that each class is in a mirror image, of names such as "left kidney", "kidney_right" and "liver".

    Raises:
        InputError: a structure of one side whose counterpart is not among the names.
    """
    place = {name.lower(): number for number, name in enumerate(names, start=1)}
    found = [0]
    for name in names:
        other = SIDE.sub(lambda side: OTHER[side[0].lower()], name.lower())
        if other not in place:
            raise InputError(
                f"{name!r} has no counterpart {other!r} among the labels, so a mirror image cannot be labelled; add "
                "it, or leave mirroring out (augmentation.flip_axes without 2, mirror_average: false)"
            )
        found.append(place[other])
    return tuple(found)
