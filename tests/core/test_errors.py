from __future__ import annotations

from tuneserve.errors import UsageError, grouped


def test_equal_reasons_are_one_line_where_the_first_stood() -> None:
    problems = ["a:1: x: y", "a:2: other", "a:3: x: y", "b:4: x: y", "b:9: x: y"]
    assert grouped(problems) == ["4 x x: y (a:1, :3, b:4, :9)", "a:2: other"]
    assert grouped(problems[:3]) == problems[:3]
    assert grouped(["no place"] * 3) == ["no place"] * 3


def test_reasons_beyond_twenty_are_counted_as_they_are_shown() -> None:
    many = [f"a:{line}: reason {line}" for line in range(25)] + ["a:1: same"] * 9
    shown = UsageError("wrong", problems=many).render()
    assert "and 6 more" in shown
