"""Implicit silence: nothing is written where the model stays silent (VideoLLM-online, arXiv 2406.11816, Eq. 5).

With `render.silence: implicit` the last token of each received turn decides: it learns the boundary token where the
stream goes on in silence, and the first token of `generated_open` where a turn follows; both weigh `stream_weight`. The
boundary token of a silence stands in `labels` alone, never in `input_ids`: a stream of a thousand silent frames is a
thousand frames long. That is `live1`, where EOS never enters the input. At inference the decision is drawn from the
same logits (StreamBatch), and `generated_open` is written only if the model speaks; the rest of it is written, not
drawn, and so carries no loss (the released code learns it as well).

What is learned where:

- a Thought or Answer follows: the turn's first token;
- a Silence follows: the boundary token;
- a segment is followed by the next segment, or by the end: the boundary token, as if a Silence stood there;
- a segment is followed by a query that stays in the stream, or a query by a segment: nothing (f_j of Eq. 5 is 1 for the
  last token of a frame whose next token is not language).

A stream that ends in silence gets one boundary token at its end, which no other token sees, so that no label is lost.

`live1+`, whose separator `,` does enter the input, is `silence: turn` with a short format: `generated_open: ""`,
`closing: ","`, `follow: ""`, and `received_open`, `received_close` as short. Silence is then the one token `,` behind
the frame, learned by the frame's last token; a reply begins in its place and ends with the same token.
"""

from __future__ import annotations


class Ends:
    """What the ends of the received turns of one stream learn, found while it is written."""

    def __init__(self, speak: int, silent: int) -> None:
        self.speak, self.silent = speak, silent
        self.learned: dict[int, int] = {}  # ordinal of the part behind an end -> the token that the end learns
        self._open: tuple[int, bool] | None = None  # the last received turn, undecided: (part behind it, a segment?)

    def received(self, part: int, *, segment: bool) -> None:
        """A received turn was written; what is written next is part `part`."""
        if segment:
            self._nothing_said()
        self._open = part, segment

    def generated(self, speaks: bool) -> bool:
        """The model speaks or is silent here; False where nothing was received since it last did."""
        if self._open is None:
            return False
        self.learned[self._open[0]] = self.speak if speaks else self.silent
        self._open = None
        return True

    def leave(self) -> tuple[int, bool] | None:
        """Before a branch: what is undecided on the stream that it leaves."""
        return self._open

    def come_back(self, left: tuple[int, bool] | None) -> None:
        self._open = left

    def finish(self) -> dict[int, int]:
        """All that is learned, when nothing more is written."""
        self._nothing_said()
        return self.learned

    def _nothing_said(self) -> None:
        if self._open is not None and self._open[1]:
            self.generated(False)
