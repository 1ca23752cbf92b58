"""What an error shows, whatever a file made its message of."""

from __future__ import annotations

from ocr_mlx.errors import OcrMlxError, WeightMismatch


def test_what_a_terminal_would_obey_and_no_wire_can_carry_is_replaced() -> None:
    error = OcrMlxError("Tensor \x1b[2J\u202e\ud800 é 中\n\tis bad.", hint="Remove \x07it.")
    assert str(error) == "Tensor ?[2J?? é 中\n\tis bad. Remove ?it."
    assert error.args == (error.message,)


def test_a_message_has_an_end() -> None:
    assert len(str(WeightMismatch(missing=["x" * 10_000_000]))) < 3000
