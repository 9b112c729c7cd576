"""What a judge's answers cost: expected, limited, counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import PrefsweepError

CHARACTERS_PER_TOKEN = 4.0
"""An estimate for English text in common tokenizers, for tokens that no server has counted yet."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of requests and of their answers."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(prompt=self.prompt + other.prompt, completion=self.completion + other.completion)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(prompt=self.prompt - other.prompt, completion=self.completion - other.completion)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """US dollars per million tokens; both None where they are not known."""

    input: float | None
    output: float | None

    def cost(self, tokens: Tokens) -> float | None:
        """US dollars; None where the prices are not known."""
        if self.input is None or self.output is None:
            return None
        return (tokens.prompt * self.input + tokens.completion * self.output) / 1e6


class BudgetError(PrefsweepError):
    """More would be spent than was allowed."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What all answers of a judge in a store may cost together."""

    prices: Prices
    max_cost_usd: float | None
    max_tokens: int | None

    def check(self, spent: Tokens, expected: Tokens, what: str) -> None:
        """Refuse what would go beyond the budget.

        Raises:
            BudgetError: names the key, what was spent and what is expected.
        """
        if self.max_tokens is not None and spent.total + expected.total > self.max_tokens:
            raise BudgetError(
                f"judge.max_tokens: {what} about {expected.total:,} tokens{_after(f'{spent.total:,}', spent)}, more "
                f"than {self.max_tokens:,}"
            )
        cost = self.prices.cost(spent + expected)
        if self.max_cost_usd is not None and cost is not None and cost > self.max_cost_usd:
            raise BudgetError(
                f"judge.max_cost_usd: {what} about {self.prices.cost(expected):.2f} USD"
                f"{_after(f'{self.prices.cost(spent):.2f} USD', spent)}, more than {self.max_cost_usd:.2f}"
            )


def _after(amount: str, spent: Tokens) -> str:
    return f" on top of {amount} spent in this store" if spent.total else ""


def budget(params: Mapping[str, Any]) -> Budget:
    """The budget among a judge's parameters."""
    return Budget(
        prices=Prices(input=params["price_input"], output=params["price_output"]),
        max_cost_usd=params["max_cost_usd"],
        max_tokens=params["max_tokens"],
    )


def estimated_tokens(characters: float) -> int:
    """Tokens of a text of so many characters, roughly."""
    return round(characters / CHARACTERS_PER_TOKEN)
