"""The report page: well-formed, self-contained, and every figure of the mapping on it, none that is not."""

import base64
import json
import re
from collections.abc import Callable
from copy import deepcopy
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from evaluation import charts, figures
from evaluation.charts import mask_image, row_turns
from evaluation.figures import ReportError, facts, headline, points
from evaluation.report import MaskPicture, Pictures, Timeline, print_table, write_report
from whilst.backbones.base import VIDEO_PAD, VISION_END, VISION_START, ClipShape, VisionSpec
from whilst.render import Renderer, Role
from whilst.render_config import RenderConfig
from whilst.sample import Sample

KINDS = ("all", "backward", "backward/count", "backward/which_in", "forward", "order", "present", "unanswerable")
ARMS = ("thinking", "answers_only", "thinking_kv", "causal")
CONTROLS = ("thoughts_shuffled", "thoughts_dropped", "text_only", "last_frames")
VOID = {"meta", "img", "br", "hr", "input", "link"}


# Figures are random numbers, so that no test, and no reader, takes them for results.
def random_figures(rng: np.random.Generator) -> dict[str, dict[str, float | int]]:
    def figure() -> dict[str, float | int]:
        low, accuracy, high = sorted(float(x) for x in rng.random(3))
        return {"n": int(rng.integers(10, 999)), "accuracy": accuracy, "ci_low": low, "ci_high": high}

    return {kind: figure() for kind in KINDS}


def random_curve(rng: np.random.Generator) -> list[dict[str, float]]:
    loss = 4 * np.exp(-np.arange(30) / 8) + 0.2 * rng.random(30)
    return [
        {"step": 50 * (i + 1), "loss": float(x), "mean_token_accuracy": float(np.exp(-x))} for i, x in enumerate(loss)
    ]


@pytest.fixture
def report(sample: Sample) -> dict[str, Any]:
    def episode(answer: str, thoughts: bool) -> dict[str, Any]:
        texts = ["in-1 red-circle .", "in-9 <blue> .", "in-3 red-circle .", "none ."]
        return {
            "sample": sample.id,
            "thoughts": [[11.0 + k, text, k != 3] for k, text in enumerate(texts)] if thoughts else [],
            "replies": [
                {"query": "f0", "time": 11.0, "text": "", "finished": True},
                {"query": "f0", "time": 12.0, "text": "" if thoughts else "now", "finished": True},
                {"query": "b0", "time": 12.0, "text": answer, "finished": True},
                {"query": "f0", "time": 13.0, "text": "", "finished": True},
                {"query": "f0", "time": 14.0, "text": "now", "finished": True},
            ],
        }

    rng = np.random.default_rng(0)
    return {
        "name": "random figures & <no> results",
        "arms": {arm: random_figures(rng) for arm in ARMS},
        "control_arm": "thinking",
        "controls": {name: random_figures(rng) for name in CONTROLS},
        "kv_arm": "thinking_kv",
        "controls_kv": {"thoughts_swapped": random_figures(rng)},
        "thoughts": {"thinking": 0.8125, "answers_only": None},
        "unfinished": {"thinking": 3, "answers_only": 0},
        "curves": {arm: random_curve(rng) for arm in ARMS[:3]},
        "episodes": {"thinking": [episode("red-circle", True)], "answers_only": [episode("blue-square", False)]},
        "settings": {
            "seed": 17,
            "samples": "runs/test.jsonl",
            "arms": {arm: f"runs/{arm}" for arm in ARMS},
            "contracts": {"thinking": {"fps": 2.0, "format": {"closing": "<|im_end|>\n", "segment": ""}}},
        },
        "seconds": {"by_job": {"thinking": 12.25, "thinking/text_only": 3.5}, "training": {"thinking": None}},
        "code": {"version": "0.0.0", "commit": None},
    }


class Letters:
    """A tokenizer whose tokens are single characters, and the special tokens whole."""

    special = ("<|im_start|>", "<|im_end|>", VISION_START, VISION_END, VIDEO_PAD)

    def get_vocab(self) -> dict[str, int]:
        return self.get_added_vocab() | {chr(i): 10 + i for i in range(128)}

    def get_added_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.special)}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        pieces = re.findall("|".join(map(re.escape, self.special)) + r"|\s?[^\s<]+|.", text, re.DOTALL)
        return [self.get_added_vocab().get(piece, 10 + len(piece)) for piece in pieces]


def mask(sample: Sample, **config: Any) -> MaskPicture:
    spec = VisionSpec("qwen2_5_vl", 8, 2, 2, 2.0)
    renderer = Renderer(Letters(), spec, RenderConfig(**config))
    shapes = [ClipShape((1, 6, 6), (s.start, s.start + 0.5), 2.0) for s in sample.segments()]
    return MaskPicture(renderer.rows(sample, shapes)[0], renderer.rule)


@pytest.fixture
def pictures(sample: Sample, new_clips: Callable[..., Any]) -> Pictures:
    return Pictures(
        Timeline(sample, new_clips(sample)),
        {
            "thinking": mask(sample, layout="recurrent_packed", rule="text_memory"),
            "answers_only": mask(sample.without_thoughts(), layout="recurrent_packed", rule="text_memory"),
            "thinking_kv": mask(sample, layout="interleaved", rule="last_segments", rule_params={"n": 1}),
            "causal": mask(sample, layout="split", rule="unit", scheme="batch"),
        },
    )


class Checker(HTMLParser):
    """Raises at a tag that is not closed where it should be; keeps text, tags and the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def read(page: Path) -> tuple[Checker, str]:
    checker = Checker()
    checker.feed(page.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker, " ".join("".join(f"{w}\n" for w in checker.words).split())


def shown(figure: dict[str, Any]) -> str:
    a, low, high = (100 * figure[name] for name in ("accuracy", "ci_low", "ci_high"))
    return f"{a:.1f}% [{low:.1f}, {high:.1f}] n = {figure['n']}"


def test_page_is_well_formed_and_loads_nothing(report: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    page = write_report(report, tmp_path / "out", pictures)
    assert page == tmp_path / "out" / "report.html"
    checker, _ = read(page)
    tags = [tag for tag, _ in checker.seen]
    assert "script" not in tags and "link" not in tags and "iframe" not in tags
    assert tags.count("title") > 1 and tags.count("h1") == 1
    addresses = [a[name] for _, a in checker.seen for name in ("src", "href") if name in a]
    assert addresses and all(str(address).startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"(https?:)?//\w+\.\w|url\(|@import", page.read_text())


def test_page_is_accessible(report: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    checker, _ = read(write_report(report, tmp_path, pictures))
    assert ("html", {"lang": "en"}) in checker.seen
    assert all(a.get("alt") for tag, a in checker.seen if tag == "img")
    assert all(a.get("scope") in ("col", "row") for tag, a in checker.seen if tag == "th")
    tags = [tag for tag, _ in checker.seen]
    assert tags.count("table") == tags.count("caption") > 5
    drawn = [a for tag, a in checker.seen if tag == "svg" and a.get("aria-hidden") != "true"]
    assert all(a.get("role") == "img" for a in drawn)
    assert len(drawn) == tags.count("desc") == 7


def test_every_figure_is_on_the_page(report: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    _, text = read(write_report(report, tmp_path, pictures))
    for group in ("arms", "controls", "controls_kv"):
        for name, by_kind in report[group].items():
            assert name in text
            for kind, figure in by_kind.items():
                assert kind in text
                assert shown(figure) in text, (group, name, kind)
    for control, by_kind in report["controls"].items():
        for kind, figure in by_kind.items():
            deltas = [points(figure["accuracy"] - report["arms"][arm][kind]["accuracy"]) for arm in ARMS[:2]]
            differences = deltas if kind == "backward" else [f"{deltas[i]} from {ARMS[i]}" for i in range(2)]
            assert " ".join([shown(figure), *differences]) in text, (control, kind)
    for expected in ("81.2%", "none written", "random figures & <no> results", "17", "runs/test.jsonl", "12.25"):
        assert expected in text
    assert "contracts.thinking.format.closing <|im_end|>\\n" in text
    assert "No curve: causal (missing)." in text


def test_bars_and_curves_are_drawn_to_scale() -> None:
    figure = figures.Figure(10, 0.5, 0.25, 1.0)
    svg = charts.bars({"a": {"x": figure}, "b": {}}, ["x"], {"a": "#000000", "b": "#111111"}, "t")
    top, height = (float(x) for x in re.findall(r'<rect [^>]*y="([\d.]+)" [^>]*height="([\d.]+)"', svg)[0])
    low, high = (float(x) for x in re.findall(r'y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)" class="whisker"', svg)[0])
    assert low - high == pytest.approx(1.5 * height, abs=0.2) and low == pytest.approx(top + height / 2, abs=0.2)
    assert svg.count(">missing<") == 1 and "a, x: 50.0% [25.0, 100.0], n = 10" in svg

    svg = charts.lines({"a": [(0, 0.0), (10, 2.0)], "b": []}, {"a": "#000000"}, "t")
    assert svg.count("<polyline") == 1
    ((x0, y0), (x1, y1)) = [map(float, p.split(",")) for p in re.findall(r'points="([^"]+)"', svg)[0].split()]
    assert x1 > x0 and y1 < y0


def test_headline_says_what_the_figures_say(report: dict[str, Any]) -> None:
    report["arms"]["thinking"]["backward"] = {"n": 90, "accuracy": 0.75, "ci_low": 0.7, "ci_high": 0.8}
    report["arms"]["answers_only"]["backward"] = {"n": 80, "accuracy": 0.25, "ci_low": 0.2, "ci_high": 0.3}
    assert headline(report) == (
        "thinking answers 75.0% [70.0, 80.0] of 90 backward queries right, answers_only 25.0% [20.0, 30.0] of 80: "
        "+50.0 points; the 95% intervals do not overlap."
    )
    report["arms"]["answers_only"]["backward"] = {"n": 80, "accuracy": 0.76, "ci_low": 0.7, "ci_high": 0.8}
    assert headline(report).endswith("−1.0 points; the 95% intervals overlap, so this may be chance.")
    del report["arms"]["answers_only"]
    assert headline(report).startswith("No headline: answers_only has no figure")


def test_what_is_missing_is_shown_as_missing(report: dict[str, Any], tmp_path: Path) -> None:
    report["arms"]["answers_only"] = None
    del report["arms"]["causal"]["present"]
    for part in ("controls", "controls_kv", "curves", "episodes", "thoughts", "unfinished", "seconds"):
        del report[part]
    _, text = read(write_report(report, tmp_path, Pictures()))
    assert text.count("missing") > len(KINDS)
    for name in ("Controls of text memory", "Controls of KV memory", "Learning curves", "Episode"):
        assert f"{name}: missing in this report." in text
    assert "No headline: answers_only has no figure" in text
    written = set(re.findall(r"\d+\.\d%", text))
    known = {f"{100 * f['accuracy']:.1f}%" for by_kind in report["arms"].values() for f in (by_kind or {}).values()}
    assert written <= known


def test_smallest_report(tmp_path: Path) -> None:
    _, text = read(write_report({"arms": {}}, tmp_path, Pictures()))
    assert "No headline: thinking and answers_only has no figure for backward queries" in text


def test_json_is_the_mapping(report: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    before = deepcopy(report)
    write_report(report, tmp_path, pictures)
    assert json.loads((tmp_path / "report.json").read_text()) == before == report


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.int64(3), {1: 2}, b"x"])
def test_what_json_cannot_hold_is_refused(bad: Any, report: dict[str, Any], tmp_path: Path) -> None:
    report["settings"]["list"] = [0, {"x": bad}]
    with pytest.raises(ReportError, match=r"report\.settings\.list\[1\]\.x"):
        write_report(report, tmp_path / "out", Pictures())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"accuracy": None}, {"ci_low": 0.9}, {"n": 0}, {"ci_high": 1.5}])
def test_impossible_figures_are_refused(change: dict[str, Any], report: dict[str, Any], tmp_path: Path) -> None:
    figure = {"n": 9, "accuracy": 0.5, "ci_low": 0.4, "ci_high": 0.6} | change
    report["arms"]["causal"]["present"] = figure
    with pytest.raises(ReportError, match=r"report\.arms\.causal\.present"):
        write_report(report, tmp_path, Pictures())


def test_timeline_marks_right_and_wrong(report: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    page = write_report(report, tmp_path, pictures)
    checker, text = read(page)
    assert "12 s which in-1 ? backward thinking red-circle ✓ right answers_only blue-square ✗ wrong expected" in text
    assert (
        "14 s tell-when out red-circle ? forward thinking now ✓ right answers_only now ✗ wrong: it had spoken too early"
        in text
    )
    assert "13 s tell-when out red-circle ? forward thinking (silence) answers_only (silence)" in text
    assert "answers_only now too early" in text
    assert "thinks in-1 red-circle . ✓ right" in text
    assert "thinks in-9 <blue> . ✗ wrong expected none ." in text
    assert "none . (cut at the token limit) ✓ right" in text
    assert "No episode of this sample: thinking_kv, causal (missing)." in text
    images = [a for tag, a in checker.seen if tag == "img"]
    assert [a["alt"] for a in images[:3]] == ["frame at 10 s", "frame at 10.5 s", "frame at 11 s"]
    assert pictures.timeline is not None
    for shown_image, frame in zip(images, np.concatenate([c.images for c in pictures.timeline.clips]), strict=True):
        data = base64.b64decode(str(shown_image["src"]).partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(BytesIO(data))), frame)
        assert shown_image["width"] == "96"


def test_timeline_needs_the_sample_and_its_clips(
    report: dict[str, Any],
    sample: Sample,
    new_sample: Callable[..., Sample],
    new_clips: Callable[..., Any],
    tmp_path: Path,
) -> None:
    other = new_sample("other")
    with pytest.raises(ReportError, match="no arm has an episode of sample 'other'"):
        write_report(report, tmp_path, Pictures(Timeline(other, new_clips(other))))
    with pytest.raises(ReportError, match="3 clips for 4 segments"):
        write_report(report, tmp_path, Pictures(Timeline(sample, new_clips(sample)[:3])))


def test_a_query_that_is_not_polled_when_asked_stands(
    report: dict[str, Any], sample: Sample, new_clips: Callable[..., Any], tmp_path: Path
) -> None:
    later = sample.with_events(e for e in sample.events if not (type(e).__name__ == "Silence" and e.time == 11.0))
    _, text = read(write_report(report, tmp_path, Pictures(Timeline(later, new_clips(later)))))
    assert "11 s tell-when out red-circle ? forward stands from here on" in text


def test_large_frames_are_made_smaller(sample: Sample) -> None:
    html = charts.frame(np.zeros((360, 640, 3), np.uint8), "black")
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert Image.open(BytesIO(data)).size == (160, 90)


def test_mask_picture_shows_who_sees_what(sample: Sample) -> None:
    picture = mask(sample, layout="recurrent_packed", rule="text_memory")
    image = mask_image(picture.row, picture.rule)
    roles, turn = picture.row.roles, picture.row.meta["turn"]
    seen = image[..., 3] > 0
    assert not np.triu(seen, 1).any() and seen.diagonal().all()
    first_video = np.flatnonzero(roles == Role.VISION)[0]
    last_answer = np.flatnonzero(roles == Role.ANSWER)[-1]
    copies = np.flatnonzero((roles == Role.MEMORY) & (turn < 0))
    assert not seen[last_answer, first_video], "older vision is hidden"
    assert seen[last_answer, copies].all(), "memory copies are not"
    vision = bytes.fromhex(charts.KEYS["vision"][1][1:])
    assert tuple(image[first_video, first_video]) == (*vision, 255)
    assert {role for roles, _ in charts.KEYS.values() for role in roles} == set(Role)


def test_a_row_too_long_to_draw_is_refused(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = mask(sample, layout="interleaved")
    monkeypatch.setattr(charts, "LONGEST_ROW", len(picture.row) - 1)
    with pytest.raises(ReportError, match="too long to draw"):
        mask_image(picture.row, picture.rule)


def test_turns_of_a_row(sample: Sample) -> None:
    names = [name for _, name in row_turns(mask(sample, layout="recurrent_packed", rule="text_memory").row)]
    assert names[:6] == ["system", "thought 1", "memory", "answer", "thought 2", "memory"]
    names = [name for _, name in row_turns(mask(sample, layout="interleaved").row)]
    assert names[:6] == ["system", "video 1", "thought 1", "answer", "video 2", "thought 2"]
    names = [name for _, name in row_turns(mask(sample, layout="split", rule="unit").row)]
    assert (
        names.count("answer") == 5
        and names.count("thought 4") == 1
        and names.index("video 4") < names.index("thought 1")
    )


def test_terminal_table(report: dict[str, Any]) -> None:
    out = StringIO()
    accuracy, controls, *leaks = print_table(report, Console(file=out, width=300))
    assert len(leaks) == bool(report.get("controls_kv"))
    text = out.getvalue()
    assert accuracy.row_count == len(ARMS) and controls.row_count == len(CONTROLS)
    figure = report["arms"]["causal"]["order"]
    assert f"{100 * figure['accuracy']:.1f}%" in text
    assert f"{100 * figure['ci_low']:.0f}-{100 * figure['ci_high']:.0f}" in text
    assert max(map(len, text.splitlines())) <= 80, "fits a narrow terminal"
    control, own = report["controls"]["text_only"]["forward"], report["arms"]["thinking"]["forward"]
    assert points(control["accuracy"] - own["accuracy"]) in text
    assert "backward/count" not in text
    report["arms"]["causal"] = None
    report.pop("controls"), report.pop("controls_kv", None)
    (only,) = print_table(report, Console(file=out))
    assert only.row_count == len(ARMS) and "missing" in out.getvalue()


# ---- What training changed


def random_gains(rng: np.random.Generator) -> dict[str, dict[str, float | int]]:
    def gain() -> dict[str, float | int]:
        low, middle, high = sorted(float(x) for x in rng.uniform(-1, 1, 3))
        return {"n": int(rng.integers(10, 999)), "gain": middle, "ci_low": low, "ci_high": high}

    return {kind: gain() for kind in KINDS}


@pytest.fixture
def learnt(report: dict[str, Any]) -> dict[str, Any]:
    """The report with all that an evaluation of reinforcement learning adds: causal learnt from rewards."""
    rng = np.random.default_rng(1)

    def shares() -> dict[str, dict[str, float | int]]:
        values = list(random_figures(rng).values())[:4]
        names = ("told", "true", "correct", "false_alarms")
        return {
            name: {"share" if key == "accuracy" else key: number for key, number in value.items()}
            for name, value in zip(names, values, strict=True)
        }

    report["settings"]["readers"] = {"reads": {"reader": "thinking", "writer": "causal"}}
    return report | {
        "controls_by_arm": {"thinking": report["controls"], "causal": {"thoughts_greedy": random_figures(rng)}},
        "readers": {"reads": random_figures(rng)},
        "gains": {
            "causal": {"baseline": "thinking"} | random_gains(rng),
            "causal/thoughts_greedy": {"baseline": "thinking"} | random_gains(rng),
        },
        "thought_shares": {"thinking": shares(), "causal/thoughts_greedy": shares()},
        "reward_curves": {"causal": [{"step": i, "reward": i / 4, "told": 0.5} for i in range(1, 5)]},
    }


def test_all_that_was_learnt_is_on_the_page(learnt: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    page = write_report(learnt, tmp_path, pictures)
    _, text = read(page)
    for name, by_kind in learnt["gains"].items():
        assert f"{name} from {by_kind['baseline']}" in text
        for kind in KINDS:
            gain = by_kind[kind]
            low, high = points(gain["ci_low"]), points(gain["ci_high"])
            assert f"{points(gain['gain'])} [{low}, {high}] n = {gain['n']}" in text
    groups = [learnt["readers"], learnt["controls_by_arm"]["causal"]]
    figures = [f for group in groups for by_kind in group.values() for k, f in by_kind.items() if "/" not in k]
    assert all(shown(figure) in text for figure in figures)
    for by_name in learnt["thought_shares"].values():
        for name, share in by_name.items():
            figure = {"accuracy": share["share"], **share}
            assert (shown(figure) if name != "true" else f"{100 * share['share']:.1f}% of {share['n']}") in text
    assert "reads: thinking answers from what causal writes" in text
    assert "thinking thoughts of causal" in text and "causal its own thoughts" in text
    assert "causal (text memory) and its controls" in text and text.count("(text memory) and its controls: back") == 2
    assert "causal: from 0.25 at step 1 to 1 at 4" in page.read_text() and "No curve" not in text
    assert page.read_text().count("<polyline") == 2 * len(learnt["curves"]) + 2


def test_parts_that_a_report_does_not_have_leave_no_heading(report: dict[str, Any], tmp_path: Path) -> None:
    text = write_report(report, tmp_path, Pictures()).read_text()
    assert not re.search("<h2>(Gains|Readers|Thoughts)</h2>", text)


def test_reward_curves_without_told_segments(learnt: dict[str, Any], tmp_path: Path) -> None:
    learnt["reward_curves"] = {"causal": [{"step": 1, "reward": -0.5}, {"step": 2, "reward": 0.5}]}
    text = write_report(learnt, tmp_path, Pictures()).read_text()
    assert ">Reward<" in text and "Segments with a thought" not in text


def test_the_headline_says_what_was_gained(learnt: dict[str, Any]) -> None:
    learnt["gains"] = {
        "causal": {"baseline": "thinking", "backward": {"n": 9, "gain": 0.2, "ci_low": 0.1, "ci_high": 0.25}},
        "x": {"baseline": "thinking", "order": {"n": 9, "gain": 0.2, "ci_low": 0.1, "ci_high": 0.25}},
    }
    said = headline(learnt)
    assert said.endswith(" causal against thinking: +20.0 points [+10.0, +25.0].") and "x against" not in said


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        ({"backward": {"n": 9, "gain": 0.2, "ci_low": 0.3, "ci_high": 0.4}}, "report.gains.g: a gain needs its base"),
        (
            {"baseline": "x", "order": {"n": 9, "gain": 0.2, "ci_low": 0.3, "ci_high": 0.4}},
            "gains.g.order: .*<=",
        ),
        ({"baseline": "x", "order": {"n": 9, "gain": -2.0, "ci_low": -2.0, "ci_high": 0.4}}, "-1 <= ci_low <= gain"),
        ({"baseline": "x", "order": {"n": 9, "accuracy": 0.2}}, "gain, ci_low, ci_high is missing"),
    ],
)
def test_impossible_gains_are_refused(gain: dict[str, Any], message: str, learnt: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=message):
        figures.gains(learnt | {"gains": {"g": gain}})


def test_the_terminal_shows_gains_and_readers(learnt: dict[str, Any]) -> None:
    out = StringIO()
    shown_tables = print_table(learnt, Console(file=out, width=300))
    assert [table.row_count for table in shown_tables] == [len(ARMS), 1, 2, len(CONTROLS), 1, 1]
    text = out.getvalue()
    gain = learnt["gains"]["causal"]["backward"]
    assert points(gain["gain"]) in text and f"{100 * gain['ci_low']:.0f} to {100 * gain['ci_high']:.0f}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_silence_is_right_where_the_sample_is_idle(learnt: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    learnt["settings"]["idle_thought"] = "none ."
    thoughts = [[11.0, "in-1 red-circle .", True], [12.0, "", True], [13.0, "", True], [14.0, "none .", True]]
    learnt["episodes"]["thinking"][0]["thoughts"] = thoughts
    _, text = read(write_report(learnt, tmp_path, pictures))
    assert text.count("thinks (silence) ✓ right") == 1
    assert "thinks (silence) ✗ wrong expected in-3 red-circle ." in text


def test_facts_flatten_any_value() -> None:
    value = {"a": {"b": 1.5, "c": None}, "d": [1, 2], "e": [{"f": True}], "g": "", "h": {}, "i": [], "j": "x\ny"}
    assert facts(value) == [
        ("a.b", "1.5"), ("a.c", "none"), ("d", "1, 2"), ("e[0].f", "yes"), ("g", "(empty)"), ("h", "none"),
        ("i", "none"), ("j", "x\\ny"),
    ]  # fmt: skip
