"""How an evaluation's examples are shared out among processes, by Accelerate's own loaders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tuneserve.finetune.training.losses import own_batches

datasets = pytest.importorskip("datasets")


def trainer(processes: int, number: int, size: int) -> Any:
    """What is asked of a trainer in one of several processes."""
    from accelerate.data_loader import prepare_data_loader
    from torch.utils.data import DataLoader

    def loader(dataset: Any) -> Any:
        plain = DataLoader(dataset, batch_size=size)
        return prepare_data_loader(
            plain, num_processes=processes, process_index=number, put_on_device=False
        )

    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=processes, process_index=number),
        args=SimpleNamespace(eval_batch_size=size),
        get_eval_dataloader=loader,
    )


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("examples", [1, 2, 5, 8, 12, 17])
def test_each_example_counts_once(examples: int, size: int, processes: int) -> None:
    dataset = datasets.Dataset.from_dict({"n": list(range(examples))})
    counting: list[int] = []
    lengths = set()
    for number in range(processes):
        loader, counted = own_batches(trainer(processes, number, size), dataset)
        batches = [batch["n"].tolist() for batch in loader]
        assert len(batches) == len(loader)
        assert all(batches)
        lengths.add(len(batches))
        counting += [one for batch in batches[:counted] for one in batch]
    assert sorted(counting) == list(range(examples))
    assert len(lengths) == 1
