"""Which tokens of a prompt are the same for every question about its volume?

head | z_3D | z_2D | question, cue: the head is the template's, z_3D the volume's; z_2D is weighted for the question, so
it and everything behind it differ. Where z_2D does not depend on the question, it is shared too.
"""

from __future__ import annotations

from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import count_visual_tokens
from slicesight.models.med2e3.vision2d import measure_slice_tokens


def weighs_by_question(config: Med2E3Config) -> bool:
    """Whether another question gives other slice weights."""
    return config.aggregation == "random" or (config.uses_scores and "text" in (config.scoring_inputs or ()))


def count_shared_visual_tokens(config: Med2E3Config, *, training: bool = False) -> int:
    """A volume's visual tokens that no question changes: z_3D, and z_2D where no question weighs its slices.

    training: dropout on the scores then weighs every question's slices anew.
    """
    num_tokens = count_visual_tokens(config)
    changes = weighs_by_question(config) or (training and bool(config.score_dropout))
    return num_tokens - measure_slice_tokens(config)[0] if config.needs_2d and changes else num_tokens
