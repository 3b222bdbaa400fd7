"""Every target by its name."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets import data, models, plans, requests, runs, templates, texts

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (models, plans, templates, data, runs, requests, texts)
    for target in module.TARGETS
}
