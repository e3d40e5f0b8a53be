"""What a call to a language model costs, by the prices in the `genai-prices` package, offline."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from fiscus.cli.terminal import UsageError
from fiscus.money import round_half_even


class ModelPrices:
    """Today's prices of one model, in US dollars.

    Raises `UsageError` for a model that the package does not know.
    """

    def __init__(self, model: str) -> None:
        from genai_prices import Usage, calc_price

        at = datetime.now(UTC)

        def price(input_tokens: int, output_tokens: int) -> Decimal:
            usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
            priced = calc_price(usage, model, genai_request_timestamp=at)
            return round_half_even(priced.total_price)

        try:
            priced = calc_price(
                Usage(input_tokens=1, output_tokens=1), model, genai_request_timestamp=at
            )
        except LookupError:
            raise UsageError(
                f"no price is known for the model {model!r}",
                suggested_action="--model gpt-4o, gpt-4o-mini, claude-sonnet-4-5 or "
                "gemini-2.5-flash, for instance.",
            ) from None
        self.model = str(priced.model.id)
        self.provider = str(priced.provider.id)
        self.price = lru_cache(maxsize=65_536)(price)
        """The exact cost of a call: `price(input_tokens, output_tokens)`."""
