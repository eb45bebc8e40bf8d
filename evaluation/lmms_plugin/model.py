"""The model class of lmms-eval: a Whilst checkpoint watches each video as a stream, and then answers.

    --model whilst_streaming --model_args pretrained=DIR,segment_seconds=2[,fps=2,thought_tokens=64,answer_tokens=64]
    [,failures=count] [--batch_size 8] [--device cuda:0]

Frames are decoded causally at `fps` and arrive segment by segment; the checkpoint thinks after each one where its
contract says so; the question is put at the end of the request's span. lmms-eval itself hands over whole files and has
no clock: what the model sees, and when, is decided here (evaluation/lmms_plugin/streams.py).

Nothing is answered at random and nothing is passed over. With failures=raise (the default) a video that cannot be read
ends the run; with failures=count its requests get an empty reply, each is printed, and their number stands in the
results under `throughput`. Anything else that goes wrong ends the run. Some tasks of lmms-eval guess a letter for an
empty reply (video_holmes does), therefore `raise` is the default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lmms_eval.api.instance import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    GenerationResult,
    Instance,
    TokenCounts,
)
from lmms_eval.api.model import lmms  # type: ignore[import-not-found, import-untyped, unused-ignore]
from lmms_eval.models.model_utils.gen_metrics import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    log_metrics,
)
from loguru import logger

from evaluation.lmms_plugin.asks import Ask, PluginError, positive, prompt_of, settings_of, span_of
from evaluation.lmms_plugin.streams import Reply, Settings, answer
from whilst.checkpoint import load_checkpoint

# round, replies so far, what the task handed on -> (visuals, text, whether this is the end, replies, what to hand on)
NextRound = Callable[[int, list[str], Any], tuple[Any, str, bool, Any, Any]]


class WhilstStreaming(lmms):  # type: ignore[misc, unused-ignore]
    """The simple interface: `doc_to_visual` gives the video, the context is the question."""

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        segment_seconds: float | None = None,
        fps: float | None = None,
        thought_tokens: int = 64,
        answer_tokens: int = 64,
        batch_size: int = 1,
        device: str | None = None,
        failures: str = "raise",
    ) -> None:
        """pretrained: a folder that `whilst sft` wrote. segment_seconds: how the stream is cut; as in training.

        fps: frames a second; None: the contract's. thought_tokens: most tokens of a thought. answer_tokens: most tokens
        of an answer where the task sets no max_new_tokens. batch_size: streams side by side. device: None: the GPU of
        this rank, or the CPU where there is none. Raises PluginError for arguments out of range.
        """
        super().__init__()
        for name, value in (("pretrained", pretrained), ("segment_seconds", segment_seconds)):
            if value is None:
                raise PluginError(f"model_args.{name} is missing: --model_args pretrained=DIR,segment_seconds=SECONDS")
        if failures not in ("raise", "count"):
            raise PluginError(f"model_args.failures: {failures!r}: must be raise or count")
        rank = os.environ.get("LOCAL_RANK", "0")
        self.device = torch.device(device or (f"cuda:{rank}" if torch.cuda.is_available() else "cpu"))
        self.checkpoint = load_checkpoint(str(pretrained), device=str(self.device))
        self.settings = Settings(
            fps=positive("fps", self.checkpoint.contract.fps if fps is None else fps),
            segment_seconds=positive("segment_seconds", segment_seconds),
            thought_tokens=positive("thought_tokens", thought_tokens, whole=True),
            batch_size=positive("batch_size", _number(batch_size), whole=True),
            failures="raise" if failures == "raise" else "count",
        )
        self.answer_tokens = positive("answer_tokens", answer_tokens, whole=True)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: a stream replies in words."""
        raise PluginError(
            f"task {requests[0].task_name}: log-likelihoods of given texts are not what a stream answers with; choose "
            f"tasks of output_type generate_until or generate_until_multi_round"
        )

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """One reply a request, with its token counts."""
        asks = []
        for request in requests:
            with _named(request):
                asks.append(self._asked(request, *self._prompt(request)))
        return [
            GenerationResult(reply.text, TokenCounts(reply.received, reply.answer, reply.thought))
            for reply in self._answer(requests, asks)
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """A list of replies a request, one a round. A round is a stream of its own; what carries over is what the task
        puts into its next prompt. All requests go through a round together.

        Without token counts: lmms-eval has no place for those of several replies (its response cache fails on them).
        """
        said: list[list[str]] = [[] for _ in requests]
        handed: list[Any] = [None] * len(requests)
        open_now = list(range(len(requests)))
        turn = 0
        while open_now:
            asks, going_on = [], []
            for i in open_now:
                with _named(requests[i]):
                    if turn == 0:
                        visuals, text = self._prompt(requests[i])
                    else:
                        ask = self._next_round(requests[i])
                        visuals, text, ended, so_far, handed[i] = ask(turn, said[i], handed[i])
                        said[i] = list(so_far) if so_far is not None else said[i]
                        if ended:
                            continue
                    asks.append(self._asked(requests[i], visuals, text))
                going_on.append(i)
            for i, reply in zip(going_on, self._answer([requests[i] for i in going_on], asks), strict=True):
                said[i] = [*said[i], reply.text]
            open_now, turn = going_on, turn + 1
        return said

    def clean(self) -> None:
        """Free the checkpoint; the model has nothing more to answer."""
        del self.checkpoint
        super().clean()

    def _doc(self, request: Instance) -> Mapping[str, Any]:
        *_, doc_id, task, split = request.args
        doc: Mapping[str, Any] = self.task_dict[task][split][doc_id]
        return doc

    def _prompt(self, request: Instance) -> tuple[Any, str]:
        """(visuals, text) of a request."""
        text, _, doc_to_visual = request.args[:3]
        return doc_to_visual(self._doc(request)), text

    def _gen_kwargs(self, request: Instance) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = request.args[1]
        return settings

    def _next_round(self, request: Instance) -> NextRound:
        doc, doc_to_text = self._doc(request), request.args[3]

        def ask(turn: int, said: list[str], handed: Any) -> tuple[Any, str, bool, Any, Any]:
            found: tuple[Any, str, bool, Any, Any] = doc_to_text(
                doc, previous_output=said, round_idx=turn, previous_round_info=handed
            )
            return found

        return ask

    def _asked(self, request: Instance, visuals: Any, text: str) -> Ask:
        return Ask(span_of(visuals), text, *settings_of(self._gen_kwargs(request), self.answer_tokens))

    def _answer(self, requests: Sequence[Instance], asks: Sequence[Ask]) -> list[Reply]:
        if not asks:
            return []
        started = time.perf_counter()
        replies, work = answer(self.checkpoint, asks, self.settings)
        seconds = time.perf_counter() - started
        failed = [(request, reply.failure) for request, reply in zip(requests, replies, strict=True) if reply.failure]
        for request, failure in failed:
            logger.warning(f"task {request.task_name}, doc {request.doc_id}: empty reply, it failed: {failure}")
        log_metrics(  # seconds enclose decoding, encoding, thinking and answering
            seconds,
            work.tokens,
            work.tokens / seconds,
            {
                "requests": len(asks),
                "streams": work.streams,
                "segments": work.segments,
                "thought_tokens": work.thoughts,
                "failed": len(failed),
                "cut_off": sum(not reply.finished for reply in replies),
            },
        )
        return replies


class WhilstStreamingChat(WhilstStreaming):
    """The chat interface: `doc_to_messages` gives one user turn with the video and the question."""

    is_simple = False

    def _prompt(self, request: Instance) -> tuple[Any, str]:
        return prompt_of(request.args[1](self._doc(request)))

    def _gen_kwargs(self, request: Instance) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = request.args[2]
        return settings

    def _next_round(self, request: Instance) -> NextRound:
        doc, doc_to_messages = self._doc(request), request.args[1]

        def ask(turn: int, said: list[str], handed: Any) -> tuple[Any, str, bool, Any, Any]:
            messages, ended, said_so_far, handed_on = doc_to_messages(
                doc, round_idx=turn, previous_output=said, previous_round_info=handed
            )
            visuals, text = (None, "") if ended else prompt_of(messages)
            return visuals, text, ended, said_so_far, handed_on

        return ask


@contextmanager
def _named(request: Instance) -> Iterator[None]:
    """A PluginError from within says which request it is about."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"task {request.task_name}, doc {request.doc_id}: {error}") from error


def _number(value: Any) -> Any:
    """The command line gives the batch size as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
