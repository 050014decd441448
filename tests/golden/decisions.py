"""Where normlab does not do what the authors' code did: every exception of the replay, and what it compares then.

Register numbers are those of section 11 of `normalizers.md`, the list of disagreements and bugs.
"""

from __future__ import annotations

DECISIONS = {
    "batch_average": "y_eval as with the sums divided by the number of batches, register 9",
    "switch_1x1": "all as from exact variances, register 8",
    "one_value": "a group of one value gives the bias, register 12",
    "finite": "finite where theirs is not",
    "counter": "batches are counted, theirs are not",
    "refused": "an error where theirs gives NaN",
    "in_place": "x is left as it was, register 6",
    "as_written": "variances are pooled, so y_as_written is another norm, register 10",
    "unused_buffer": "no buffer, as S0 uses none",
    "scale": "an error, register 4",
    "dimensions": "accepted, and normalized as [N, C, L, 1]",
    "attention": "works with a group backbone, register 17",
    "groups": "an error that names the groups that fit, register 13",
    "untrained": "a scale starts at 1, so y_eval_untrained, which divides by theirs, 0, is not compared",
    "lost_mass": "rows where theirs loses mass are only on the simplex and far enough, register 11",
    "ties": "p_def where it is unique, else on the simplex and far enough, register 11",
    "downhill": "an error, since theirs descends for negative weights, register 20",
    "once": "batches are counted once in a step, theirs twice, register 21",
}
"""What the line of a case says; also where to look for who decided it."""
