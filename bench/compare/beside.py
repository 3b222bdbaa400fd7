"""What a report has beside its scores: what answers cost, and what a judge says of them."""

from __future__ import annotations

from dataclasses import dataclass

from tuneserve.bench.stats.bootstrap import Estimate


@dataclass(frozen=True)
class Cost:
    """What 1,000 answers of `tokens` tokens each cost with so many clients at a time: money at
    `bench.price` an hour, energy (kWh) at `bench.watts`; None for what is not given. The intervals
    are those of the speed."""

    clients: int
    tokens: int
    money: Estimate | None
    energy: Estimate | None

    def describe(self) -> str:
        """'1,000 answers of 48 tokens: 0.12 (0.11 to 0.13) in money'."""
        figures = [
            f"{each.value:.3g}"
            + (f" ({each.low:.3g} to {each.high:.3g})" if each.low and each.high else "")
            + f" {unit}"
            for each, unit in ((self.money, "in money"), (self.energy, "kWh"))
            if each is not None
        ]
        return f"1,000 answers of {self.tokens} tokens: {' and '.join(figures)}"


@dataclass(frozen=True)
class JudgeAgreement:
    """How often a judge says what the given labels say (`share`), on so many prompts, and Cohen's
    kappa; None where labels and judge always say the same one thing. `unused`: labels of prompts
    that are not there, or that the judge said nothing of."""

    prompts: int
    share: float
    kappa: float | None
    unused: int = 0


@dataclass(frozen=True)
class JudgeComparison:
    """What a model as judge found; an opinion, apart from all scores.

    A model wins a prompt only if it is preferred in both orders of the answers. `flips`: the judge
    preferred whichever stood first, or second (they are among the `ties`). `unread`: it did not
    answer, or not with a choice. `p`: sign-flip test over prompts (over sources, where they have
    some).
    """

    model: str
    prompts: int
    tuned_better: int
    base_better: int
    ties: int
    flips: int
    unread: int
    p: float
    agreement: JudgeAgreement | None

    def describe(self) -> str:
        """The findings in two sentences."""
        if not self.prompts:
            return (
                f"A judge ({self.model}) was asked, but none of its answers could be read "
                f"({_counted(self.unread, 'prompt')}): nothing is said of whose are better."
            )
        said = (
            f"A judge ({self.model}) prefers the tuned model's answer to {self.tuned_better} of "
            f"{_counted(self.prompts, 'prompt')} in both orders, the base's to {self.base_better} "
            f"(p {self.p:.3f}); {_counted(self.flips, 'time')} its choice went with the order"
        )
        if self.unread:
            said += f", {_counted(self.unread, 'time')} it made none"
        if self.agreement is None:
            return f"{said}. How far it agrees with people is not known: no labels were given."
        kappa = "" if self.agreement.kappa is None else f", kappa {self.agreement.kappa:.2f}"
        left = self.agreement.unused
        unused = f" ({_counted(left, 'label')} without a judgement left out)" if left else ""
        return (
            f"{said}. It says what people said of {100 * self.agreement.share:.0f} % of "
            f"{_counted(self.agreement.prompts, 'labelled prompt')}{kappa}{unused}."
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
