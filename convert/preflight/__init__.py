"""What can be known of a conversion before there are trained weights: the gate that opens first.

check.py goes through it for a base and a recipe, template.py and vocabulary.py hold what is tried
with the base's tokenizer, apart.py runs it in a process of its own.
"""

from __future__ import annotations

from tuneserve.convert.preflight.apart import check_apart, require_convertible

__all__ = ["check_apart", "require_convertible"]
