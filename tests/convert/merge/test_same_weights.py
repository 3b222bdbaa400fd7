"""A base to merge into is told from another model by its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.convert.convert_support import KINDS_OF_FOUR_BIT, Trained, make_base, quantized
from tuneserve.convert.merge.applied import EMBEDDING, HEAD
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.same_weights import Tokens, check_same_weights
from tuneserve.errors import UsageError

Change = Callable[[np.ndarray], np.ndarray]
UP = "model.layers.1.mlp.up_proj.weight"


def with_change(base: Path, target: Path, change: Change, only: str = "") -> Path:
    """A copy of the base, its matrices changed."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, target)
    tensors = load_file(base / "model.safetensors")
    changed = {
        name: change(value) if value.ndim == 2 and only in name else value
        for name, value in tensors.items()
    }
    save_file(changed, target / "model.safetensors")
    return target


def check(trained: Path, other: Path, *, of_file: bool = False) -> None:
    stored = MergedCheckpoint(trained).stored
    check_same_weights(
        stored, MergedCheckpoint(other).stored, other, 2, tokens=Tokens.of(trained), of_file=of_file
    )


def tuned_by(share: float) -> Change:
    """Weights moved by so much of their row's size, as a tune of all weights does."""
    random = np.random.default_rng(1)

    def change(value: np.ndarray) -> np.ndarray:
        size = share * value.std(axis=1, keepdims=True)
        moved: np.ndarray = value + (size * random.standard_normal(value.shape)).astype(value.dtype)
        return moved

    return change


def one_row(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    value[3] = value[4]
    return value


@pytest.fixture(params=["16 bits", *KINDS_OF_FOUR_BIT])
def base(
    request: pytest.FixtureRequest, trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> Path:
    """What was trained on: the checkpoint, or its 4-bit copy."""
    if request.param == "16 bits":
        return trained.base
    four_bit = tmp_path / "four-bit"
    quantized(trained.base, four_bit, tokenizer_directory, KINDS_OF_FOUR_BIT[request.param])
    return four_bit


def test_other_precision_is_the_same_model(base: Path, trained: Trained, tmp_path: Path) -> None:
    check(base, trained.base)
    halved = with_change(
        trained.base, tmp_path / "f16", lambda value: value.astype(np.float16).astype(value.dtype)
    )
    check(base, halved)


@pytest.mark.parametrize("kind", KINDS_OF_FOUR_BIT)
def test_weights_on_another_grid_are_the_same(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path, kind: str
) -> None:
    """Of few different values in blocks of very different sizes, as what was a GGUF has: half of
    them lie between two of the table's numbers."""
    random = np.random.default_rng(2)

    def on_grid(value: np.ndarray) -> np.ndarray:
        if value.shape[1] % 32:
            return value
        blocks = value.reshape(-1, 32).astype(np.float32)
        sizes = np.exp(random.normal(0, 1.5, (len(blocks), 1))).astype(np.float32)
        step = np.abs(blocks).max(axis=1, keepdims=True) / 8 + 1e-6
        rounded: np.ndarray = np.round(blocks / step) * step * sizes
        return rounded.reshape(value.shape).astype(value.dtype)

    base = with_change(trained.base, tmp_path / "grid", on_grid, only="proj")
    quantized(base, tmp_path / "four-bit", tokenizer_directory, KINDS_OF_FOUR_BIT[kind])
    check(tmp_path / "four-bit", base)
    other = with_change(base, tmp_path / "other", lambda value: value * value.dtype.type(2))
    with pytest.raises(UsageError, match="another model"):
        check(tmp_path / "four-bit", other)


def test_one_row_of_another_model_is_found(base: Path, trained: Trained, tmp_path: Path) -> None:
    other = with_change(trained.base, tmp_path / "other", one_row, only=UP)
    with pytest.raises(UsageError, match="another model") as caught:
        check(base, other)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{UP}, row 3: ")
    assert "(1 of " in problem


def flipped_column(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    value[:, 5] *= -1
    return value


def larger_row(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    value[3] *= value.dtype.type(1.5)
    return value


def one_value_of_each_row(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    places = np.arange(len(value))
    largest = np.abs(value).max(axis=1)
    value[places, places % value.shape[1]] = 0.9 * largest
    return value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value * value.dtype.type(1.05), ""),
        (lambda value: value * value.dtype.type(0.9), ""),
        (flipped_column, ""), (larger_row, "row 3"), (one_value_of_each_row, ""),
    ],
)  # fmt: skip
def test_a_few_values_or_another_scale_are_found(
    base: Path, trained: Trained, tmp_path: Path, change: Change, told: str
) -> None:
    other = with_change(trained.base, tmp_path / "other", change, only=UP)
    with pytest.raises(UsageError, match="another model") as caught:
        check(base, other)
    (problem,) = caught.value.problems
    assert problem.startswith(UP)
    assert told in problem


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_one_row_of_a_token_is_found(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path, name: str
) -> None:
    untied = make_base(tmp_path / "base", tokenizer_directory, tie_word_embeddings=False)
    four_bit = tmp_path / "four-bit"
    quantized(untied, four_bit, tokenizer_directory, KINDS_OF_FOUR_BIT["nf4"])
    other = with_change(untied, tmp_path / "other", one_row, only=name)
    for base in (untied, four_bit):
        with pytest.raises(UsageError, match="another model") as caught:
            check(base, other)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{name}, row 3: ")
        assert "(1 of " in problem


def test_rows_of_tokens_that_nobody_uses_may_differ(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    """Of no token, of an added token that is empty in one copy, and all but empty in both."""
    tokens = Tokens.of(tokenizer_directory)
    assert tokens.rows == 49152
    # The template's own tokens, and the end, are used.
    assert not {0, 1, 2} & set(tokens.added.tolist())

    def filled(**rows: float) -> Change:
        def change(value: np.ndarray) -> np.ndarray:
            value = value.copy()
            value[-8:] = np.random.default_rng(int(rows["none"])).normal(size=value[-8:].shape)
            value[5] = rows["added"]
            value[600] = rows["own"]
            return value

        return change

    made = make_base(tmp_path / "made", tokenizer_directory, vocab_size=49160)
    base = with_change(made, tmp_path / "base", filled(none=1, added=0, own=0), only=EMBEDDING)
    other = with_change(
        made, tmp_path / "other", filled(none=2, added=0.1, own=1e-9), only=EMBEDDING
    )
    assert 5 in tokens.added
    assert 600 not in tokens.added
    check(base, other)
    check(other, base)

    def without_turns(value: np.ndarray) -> np.ndarray:
        value = value.copy()
        value[1] = 0
        return value

    silent = with_change(base, tmp_path / "silent", without_turns, only=EMBEDDING)
    with pytest.raises(UsageError, match="another model") as caught:
        check(base, silent)
    assert caught.value.problems[0].startswith(f"{EMBEDDING}, row 1: ")
    used = with_change(made, tmp_path / "used", filled(none=2, added=0, own=0.1), only=EMBEDDING)
    with pytest.raises(UsageError, match="another model") as caught:
        check(base, used)
    assert caught.value.problems[0].startswith(f"{EMBEDDING}, row 600: ")


def test_a_tune_of_the_base_is_told_from_it(base: Path, trained: Trained, tmp_path: Path) -> None:
    other = with_change(trained.base, tmp_path / "other", tuned_by(0.05))
    with pytest.raises(UsageError, match="another model") as caught:
        check(base, other)
    *named, last = caught.value.problems
    assert all("% of its " in problem for problem in named)
    assert last.startswith("and ")


def test_weights_of_a_file_may_be_rounded(trained: Trained, tmp_path: Path) -> None:
    other = with_change(trained.base, tmp_path / "rounded", tuned_by(0.3))
    check(trained.base, other, of_file=True)
    spoilt = with_change(other, tmp_path / "spoilt", one_row, only=UP)
    with pytest.raises(UsageError, match="another model") as caught:
        check(trained.base, spoilt, of_file=True)
    assert len(caught.value.problems) == 1


def test_another_model_altogether_is_found(base: Path, trained: Trained, tmp_path: Path) -> None:
    other = with_change(trained.base, tmp_path / "other", lambda value: value[::-1].copy())
    with pytest.raises(UsageError, match="another model"):
        check(base, other)
