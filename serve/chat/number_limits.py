"""Limits of numbers in schemas, as llguidance enforces them, and ends for their digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from tuneserve.serve.chat.grammar_errors import GrammarError

Schema = Mapping[str, Any]

DEAREST_MULTIPLE = 10_000
"""multipleOf, its digits without zeros at the ends, of all places together: llguidance makes a
state for each remainder (0.07 s for 10,000; it has no limit of its own)."""

LARGEST_MULTIPLES = 2**32
"""llguidance multiplies two multipleOf that a number must satisfy together in 32 bits."""

LARGEST_INTEGER = 2**53 - 1
"""What a number with limits or `multipleOf`, and any integer, lies between: every JSON parser holds
these integers exactly, llguidance too, and a model can't go on with digits for ever."""

_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")


def limit_digits(part: dict[str, Any], param: str, *, limit_decimals: bool) -> None:
    """Ends for the digits of a number, and limits that llguidance enforces: it reads them as 64-bit
    floats, to 15 digits surely, and takes 0 for more than 0 where the other limit is below 1. A
    number without limits and `multipleOf` stays free: it may be 6.02e23."""
    given = part.get("type")
    kinds = set(map(str, given)) if isinstance(given, list) else {str(given)}
    whole = "integer" in kinds and "number" not in kinds
    limits = {key for key in (*_LOWER, *_UPPER) if key in part}
    if given is not None and not kinds & {"integer", "number"}:
        return
    if {"enum", "const"} & set(part) or not (whole or limits or "multipleOf" in part):
        return
    if not all(_is_limit(key, part[key]) for key in limits):
        return  # llguidance tells what is wrong
    lower = _limits(part, _LOWER, 1)
    upper = _limits(part, _UPPER, -1)
    sizes = [abs(one) for one, _ in lower + upper]
    sizes += [abs(low + high) for low, _ in lower for high, _ in upper]
    places = max([9, *(3 - size.adjusted() for size in sizes if size)])
    low, above = _tightest(lower, places, whole=whole)
    high, below = _tightest(upper, places, whole=whole)
    high = -high
    if low > LARGEST_INTEGER or high < -LARGEST_INTEGER:
        reason = (
            f"its limits allow only numbers beyond ±{LARGEST_INTEGER}, which floats hold inexactly"
        )
        raise GrammarError(reason, param=param)
    for key in limits:
        del part[key]
    part[_LOWER[above]], part[_UPPER[below]] = (
        int(one) if one == one.to_integral_value() else float(one) for one in (low, high)
    )
    step = Decimal(1).scaleb(-places)
    # llguidance reads no step below 1e-10, and no step right in a range of a few steps.
    exact = places > 10 or high - low < 10 * step
    if not whole and limit_decimals and "multipleOf" not in part and not exact:
        part["multipleOf"] = float(step)


def _is_limit(key: str, value: Any) -> bool:
    """A number, or true or false as JSON Schema had it up to draft 4."""
    return type(value) in (int, float) or (key.startswith("exclusive") and type(value) is bool)


Limit = tuple[Decimal, bool]
"""A lower limit (of an upper one its negative), and whether it is excluded itself."""


def _limits(part: Schema, keys: tuple[str, str], sign: int) -> list[Limit]:
    inclusive, exclusive = (part.get(key) for key in keys)
    limits = [(inclusive, exclusive is True), (exclusive, True)]
    return [(sign * Decimal(repr(one)), out) for one, out in limits if type(one) in (int, float)]


def _tightest(limits: Sequence[Limit], places: int, *, whole: bool) -> Limit:
    """What llguidance enforces of `limits`; one from 0 that is excluded moves by so many decimals,
    or fewer if they are more than 15 digits."""
    limit, excluded = max([*limits, (Decimal(-LARGEST_INTEGER), False)])
    if limit > LARGEST_INTEGER:
        return limit, excluded
    if whole:
        rounding = ROUND_FLOOR if excluded else ROUND_CEILING
        return limit.to_integral_value(rounding) + excluded, False
    if limit != limit.to_integral_value():
        limit = Context(prec=15, rounding=ROUND_CEILING).plus(limit)
    if not excluded or limit < 0:
        return limit, excluded
    steps = (limit + Decimal(1).scaleb(-fewer) for fewer in range(places, 0, -1))
    exact = (one for one in steps if one > limit and len(one.normalize().as_tuple().digits) <= 15)
    return next(exact, limit + 1), False


def check_multiples(parts: Sequence[Schema], param: str, *, merges: bool) -> bool:
    """Are there multipleOf? Raises GrammarError if there are some that llguidance can't follow."""
    given = [part["multipleOf"] for part in parts if type(part.get("multipleOf")) in (int, float)]
    if not given:
        return False
    if min(given) <= 0:
        raise GrammarError("multipleOf must be above 0", param=param)
    numbers = [Decimal(repr(one)).normalize().as_tuple() for one in given]
    digits = [int("".join(map(str, number.digits))) for number in numbers]
    if len(given) * math.lcm(*digits) > DEAREST_MULTIPLE:
        raise GrammarError("its multipleOf are too large, or too many", param=param)
    lowest = min([0, *(int(number.exponent) for number in numbers)])
    scaled = [
        digit * 10 ** (int(number.exponent) - lowest)
        for digit, number in zip(digits, numbers, strict=True)
    ]
    if merges and len(given) > 1 and math.lcm(*scaled) * max(scaled) >= LARGEST_MULTIPLES:
        raise GrammarError("its multipleOf are too unlike to be combined", param=param)
    return True
