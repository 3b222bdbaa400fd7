"""What /metrics says of guesses and of the draft model."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.serve.engine.tiny_llama import write_tiny_llama
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.engine import Engine, SamplingParams
from tuneserve.settings import ServeSettings


def samples(engine: Engine) -> dict[str, float]:
    """Value by name, with the source where there is one."""
    text = Metrics(engine).text().decode()
    return {
        sample.name + "".join(f":{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "histogram" not in family.type
    }


def test_guesses_are_counted_by_their_source(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    settings = ServeSettings(ctx=256, slots=1, threads=1, speculate="always")
    drafted = settings.model_copy(update={"draft": model})
    sampling = SamplingParams(temperature=0.0, max_tokens=30)
    with Engine(model, drafted) as engine:
        engine.generate([[1, *range(20, 60)]], sampling)
        found = samples(engine)
    for kind in ("drafted", "accepted"):
        by_source = [found[f"tuneserve_{kind}_tokens_by_source_total:{one}"] for one in SOURCES]
        assert sum(by_source) == found[f"tuneserve_{kind}_tokens_total"] > 0
        assert by_source[1] > 0
    assert found["tuneserve_draft_usable"] == 1
    assert found["tuneserve_draft_refused_total"] == 0
    assert 0 < found["tuneserve_draft_kv_cells_used"] < found["tuneserve_draft_kv_cells"]
    with Engine(model, settings) as engine:
        found = samples(engine)
    assert found["tuneserve_drafted_tokens_by_source_total:draft"] == 0
    assert "tuneserve_draft_usable" not in found


SOURCES = ("prompt", "draft")
