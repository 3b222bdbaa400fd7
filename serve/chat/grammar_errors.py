"""Why a schema or a grammar can't be used."""

from __future__ import annotations

from tuneserve.errors import UsageError

HALF_CHARACTER = "half a character (a surrogate without its pair)"


class GrammarError(UsageError):
    """A schema or grammar can't be used; `param` is the request's field that has it."""

    def __init__(self, reason: str, *, param: str, tool: str | None = None) -> None:
        what = "the schema can't be enforced"
        if param.endswith(("grammar", "ebnf", "regex", "choice")):
            what = "the grammar can't be used"
        if tool is not None:
            what = f"{param} ('{tool}') can't be enforced"
        super().__init__(f"{what}: {reason}", where=param)
        self.reason = reason
        self.param = param

    def of(self, param: str, tool: str | None = None) -> GrammarError:
        """The same of another field, which may be that of a tool."""
        return GrammarError(self.reason, param=param, tool=tool)
